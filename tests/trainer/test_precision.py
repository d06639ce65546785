"""Mixed and low precision: s stays fp32, agrees with full precision, and an overflow of one task stays its own."""

import math
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch.nn import functional as F

import lightning_uncertainty as defaults
from lightning_uncertainty import CrossEntropy, UncertaintyWarning
from tests.docs.compatibility import PRECISIONS, Case, precision_options
from tests.models import batches, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.trainer.test_matrix import Weighed

# Of the numbers in which the losses are computed: autocast leaves the losses in fp32, not the layer before them.
EPS = {
    "32-true": torch.finfo(torch.float32).eps,
    "64-true": torch.finfo(torch.float32).eps,
    "16-mixed": torch.finfo(torch.float16).eps,
    "16-true": torch.finfo(torch.float16).eps,
    "bf16-mixed": torch.finfo(torch.bfloat16).eps,
    "bf16-true": torch.finfo(torch.bfloat16).eps,
}


def train(folder, module, precision, *callbacks, epochs=2, data=None, **options):
    runner = trainer(folder, *callbacks, max_epochs=epochs, **precision_options(precision), **options)
    runner.fit(module, data or batches(12))
    return runner


def sgd(lr):
    return Case(lambda net: torch.optim.SGD(net.parameters(), lr=lr))


# ---------------------------------------------------------------------------------------------------- s


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("lr", "steps_of_eps"), [(0.0, 4), (0.05, 16)], ids=["network stands still", "network learns"])
def test_learned_sigma_agrees_with_full_precision_as_far_as_the_losses_do(tmp_path, precision, lr, steps_of_eps):
    """``s`` is the logarithm of the loss (twice that for Laplace): an error of the loss by eps moves it by eps."""

    class SameStart(Weighed):
        def configure_model(self):
            super().configure_model()
            with torch.no_grad():  # numbers that every precision has
                self.net.weight.copy_(torch.linspace(-0.5, 0.375, 8).view(2, 4))
                self.net.bias.zero_()

    exact, module = SameStart(sgd(lr)), SameStart(sgd(lr))
    train(tmp_path, exact, "32-true", epochs=10)
    if precision == "16-mixed":  # at a scale at which no step is skipped
        trainer(tmp_path, max_epochs=10, **fp16_mixed(2.0**4)).fit(module, batches(12))
    else:
        train(tmp_path, module, precision, epochs=10)
    error = module.uncertainty.log_var - exact.uncertainty.log_var
    assert error.abs().max() <= steps_of_eps * EPS[precision]
    assert exact.uncertainty.log_var.abs().min() > 0.05


def tensors_of(weighting):
    strategy = weighting.strategy
    holders = (
        weighting._state,
        strategy,
        strategy.state,
        strategy.adam,
        strategy.likelihoods,
        weighting.recorder.window,
    )
    return {name: v for holder in holders for name, v in vars(holder).items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_made_under_the_default_dtype_of_the_trainer_is_fp32(tmp_path, precision):
    """Lightning sets the default dtype in `trainer.init_module()`, in `configure_model` and in the steps."""

    class Own(Weighed):
        def __init__(self, case):
            super().__init__(case)
            self.uncertainty = defaults.UncertaintyWeighting(self.tasks)

    usual = Weighed(sgd(0.05))
    with trainer(tmp_path, **precision_options(precision)).init_module():
        module = Own(sgd(0.05))
    train(tmp_path, module, precision)
    train(tmp_path, usual, precision)
    dtypes = {tensor.dtype for tensor in tensors_of(module.uncertainty).values() if tensor.is_floating_point()}
    assert dtypes == {torch.float32}
    assert torch.equal(module.uncertainty.log_var, usual.uncertainty.log_var)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_default_dtype_changes_nothing(dtype):
    def values():
        weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace", "c": 0.3}, warmup_steps=3)
        for step in range(1, 20):
            loss = torch.tensor(step / 7.0, dtype=torch.float32, requires_grad=True)
            weighting({"a": loss, "b": 3.0 * loss, "c": loss}).backward()
            weighting.step()
        weighting.log_vars = {"b": 0.1}
        return weighting.state_dict()

    expected = values()
    torch.set_default_dtype(dtype)
    try:
        found = values()
    finally:
        torch.set_default_dtype(torch.float32)
    for key, value in expected.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value


# ---------------------------------------------------------------------------------------------------- overflow

FP16 = ("16-mixed", "16-true")


def fp16_mixed(scale):
    """With a scale at which the gradients of the tests overflow, or do not."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return {"plugins": MixedPrecision("16-mixed", device="cpu", scaler=scaler)}


class Overflowing(Weighed):
    """The squared error of b is taken in fp16, by hand, and overflows in some batches."""

    tasks = {"a": "gaussian", "b": "gaussian"}
    when = staticmethod(lambda batch_idx: batch_idx in (4, 7))

    def losses(self, batch):
        losses = super().losses(batch)
        error = (self.net(batch[0])[:, 1] - batch[1][:, 1]).half()
        error = error * (1e3 if self.when(self.batch_idx) else 1.0)
        return {"a": losses["a"], "b": (error * error).mean()}

    def training_step(self, batch, batch_idx):
        self.batch_idx = batch_idx
        return super().training_step(batch, batch_idx)


class Watch(Callback):
    """What each batch did to the network, to s, and to the counts."""

    def __init__(self):
        self.rows = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.before = self.look(trainer, module)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        after = self.look(trainer, module)
        self.rows.append({key: (self.before[key], after[key]) for key in after})

    @staticmethod
    def look(trainer, module):
        state = module.uncertainty.state_dict()
        a, b = ([state[k][i].item() for k in ("log_var", "exp_avg", "exp_avg_sq", "count")] for i in (0, 1))
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler else 1.0
        steps = trainer.global_step, module.uncertainty.steps
        return {"net": module.net.weight.tolist(), "a": a, "b": b, "scale": scale, "steps": steps}

    def changed(self, key):
        return [index for index, row in enumerate(self.rows) if row[key][0] != row[key][1]]


@pytest.mark.parametrize("precision", FP16)
def test_an_overflow_in_one_loss_leaves_its_s_and_lets_the_others_learn(tmp_path, precision):
    module, watch = Overflowing(sgd(0.01)), Watch()
    options = fp16_mixed(2.0**4) if precision == "16-mixed" else {"precision": precision}
    with pytest.warns(UncertaintyWarning, match="loss of task 'b' was NaN or infinite in 2 calls"):
        trainer(tmp_path, UncertaintyCallback(), watch, max_epochs=1, **options).fit(module, batches(12))
    assert watch.changed("net") == list(range(12))
    assert watch.changed("a") == list(range(12))
    assert watch.changed("b") == [index for index in range(12) if index not in (4, 7)]
    assert watch.changed("scale") == []
    assert module.uncertainty.steps == 12


def test_a_step_that_the_scaler_skips_is_none_of_s_and_is_counted_as_dropped(tmp_path):
    """A scale of 2^30 overflows in the network's gradients, until the scaler has found its own."""

    class Seen(Weighed):
        def losses(self, batch):
            losses = super().losses(batch)
            self.seen = [
                *getattr(self, "seen", []),
                {n: x.detach().clone().requires_grad_() for n, x in losses.items()},
            ]
            return losses

    module, watch = Seen(sgd(0.01)), Watch()
    runner = trainer(tmp_path, UncertaintyCallback(), watch, max_epochs=4, **fp16_mixed(2.0**30))
    runner.fit(module, batches(12))
    skipped = watch.changed("scale")
    assert len(skipped) > 5
    for what in ("net", "a", "b"):
        assert set(skipped).isdisjoint(watch.changed(what))
    taken = [index for index, row in enumerate(watch.rows) if row["steps"][0][1] != row["steps"][1][1]]
    assert sorted([*taken, *skipped]) == list(range(48)) == list(range(runner.global_step))
    assert {task.dropped for task in module.uncertainty.snapshot().tasks.values()} == {len(skipped)}
    expected = UncertaintyWeighting(Weighed.tasks)
    for index in taken:
        expected(module.seen[index]).backward()
        expected.step()
    assert torch.equal(module.uncertainty.log_var, expected.log_var)


def test_an_overflow_inside_the_network_is_the_scalers_and_moves_neither_s(tmp_path):
    """The prediction itself is infinite: no gradient of that batch is usable, the scaler skips it, all goes on."""

    class Inside(Overflowing):
        def losses(self, batch):
            prediction = self.net(batch[0]) * (1e8 if self.when(self.batch_idx) else 1.0)
            target = batch[1]
            return {"a": F.mse_loss(prediction[:, 0], target[:, 0]), "b": F.mse_loss(prediction[:, 1], target[:, 1])}

    module, watch = Inside(sgd(0.01)), Watch()
    runner = trainer(tmp_path, UncertaintyCallback(), watch, max_epochs=1, **fp16_mixed(2.0**4))
    with pytest.warns(UncertaintyWarning, match="was NaN or infinite in 2 calls"):
        runner.fit(module, batches(12))
    later = [index for index in range(12) if index not in (4, 7)]
    assert watch.changed("scale") == [4, 7]
    assert watch.changed("net") == later
    assert module.uncertainty.state_dict()["count"].tolist() == [9.0, 9.0]
    assert module.uncertainty.steps == 10


# ---------------------------------------------------------------------------------------------------- fp16's range


def fp16_weighting(value):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "gaussian"}, min_variance_ratio=0.0)
    parameter = torch.tensor([value, 1.0], dtype=torch.float16, requires_grad=True)
    return weighting, parameter


@pytest.mark.parametrize("value", [6e-8, 4.5e-6, 7.6e-6, 1e-3, 1.0, 6e4])
def test_the_gradient_of_an_fp16_loss_is_finite_however_small_the_loss(value):
    """The weight 1 / 2L of a loss below 7.6e-6 lies beyond 65504, the largest number of fp16."""
    weighting, losses = fp16_weighting(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncertaintyWarning)
        weighting({"a": losses[0], "b": losses[1]}).backward()
        weighting.step()
        expected = 0.5 / losses[0].item()
        assert losses.grad[0].item() == pytest.approx(min(expected, 65504.0), rel=1e-3, abs=6e-8)
        assert losses.grad[1].item() == 0.5
        assert weighting.log_vars["a"] == pytest.approx(math.log(losses[0].item()), rel=1e-5)  # s is not capped


def test_targets_in_a_large_unit_train_in_16_true(tmp_path):
    """Errors of 1e-3 have a mean square of 1e-6: its weight of 5e5, as a gradient in fp16, is infinite."""

    class Small(Weighed):
        tasks = {"a": "gaussian", "b": "gaussian"}

        def configure_model(self):
            super().configure_model()
            torch.nn.init.zeros_(self.net.weight)
            torch.nn.init.zeros_(self.net.bias)

    module = Small(sgd(1e-6))  # with that weight it is a step of 0.5
    with pytest.warns(UncertaintyWarning, match="'a' is in fp16"):
        train(tmp_path, module, "16-true", epochs=4, data=batches(12, scale=(1e-3, 1.0)))
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())
    assert module.net.weight[0].abs().min() > 0.0
    assert module.uncertainty.sigmas["a"] < 3e-3


def test_a_weight_beyond_fp16_is_reported_by_name():
    weighting, losses = fp16_weighting(4.5e-6)
    weighting({"a": losses[0], "b": losses[1]}).backward()
    weighting.step()
    with pytest.warns(UncertaintyWarning, match="'a' is in fp16, .* beyond 65504"):
        weighting.check()


def test_a_weight_beyond_fp16_is_whole_for_a_loss_in_single_precision():
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "gaussian"}, min_variance_ratio=0.0)
    a = torch.tensor(4.5e-6, requires_grad=True)
    b = torch.tensor(1.0, dtype=torch.float16, requires_grad=True)
    weighting({"a": a, "b": b}).backward()
    assert a.grad.item() == pytest.approx(0.5 / 4.5e-6, rel=1e-6)


def test_exact_logits_in_fp16_are_not_capped():
    weighting = UncertaintyWeighting({"a": "softmax_exact"}, init=0.0)
    logits = torch.randn(4, 3).half().requires_grad_()
    weighting({"a": CrossEntropy(logits, torch.tensor([0, 1, 2, 0]))}).backward()
    assert torch.isfinite(logits.grad).all()
