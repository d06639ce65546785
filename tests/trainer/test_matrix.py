"""Every way to train, in every precision: the user's side is untouched, ours learns, and both resume exactly."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn import functional as F
from torch.optim import lr_scheduler

from lightning_uncertainty import UncertaintyMixin, UncertaintyWarning
from tests.docs.compatibility import (
    PRECISIONS,
    SCHEDULERS,
    Case,
    cells,
    precision_options,
    refused_cells,
)
from tests.models import batches, load, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting

pytestmark = [
    # Lightning's own, with or without the plugin.
    pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step"),
]

BATCHES, EPOCHS = 6, 2
OURS = {"callbacks", "lightning_uncertainty"}


class Matrix(L.LightningModule):
    """Two regressions, trained as a case says; the layer is made in the precision of the Trainer."""

    def __init__(self, case):
        super().__init__()
        self.case = case
        self.automatic_optimization = not case.manual

    def configure_model(self):
        if not hasattr(self, "net"):
            torch.manual_seed(1)
            self.net = torch.nn.Linear(4, 2)

    def losses(self, batch):
        prediction, target = self.net(batch[0]), batch[1]
        # Written out: torch 2.5 has no mse_loss for half precision on the CPU.
        return {"a": (prediction[:, 0] - target[:, 0]).square().mean(), "b": F.l1_loss(prediction[:, 1], target[:, 1])}

    def total(self, losses):
        return sum(loss.float() if self.case.reads_loss and loss.itemsize < 4 else loss for loss in losses.values())

    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        self.log("raw_a", losses["a"].detach())
        total = self.total(losses)
        if self.automatic_optimization:
            return total
        optimizers = self.optimizers() if isinstance(self.optimizers(), list) else [self.optimizers()]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(total)
        for optimizer in optimizers:
            optimizer.step()
        return None

    def configure_optimizers(self):
        return self.case.configure(self.net)


class Weighed(UncertaintyMixin, Matrix):
    tasks = {"a": "gaussian", "b": "laplace"}

    def total(self, losses):
        return self.weigh(losses)


class Fixed(Weighed):
    tasks = {"a": 1.0, "b": 1.0}


def run(folder, module, precision, *callbacks, ckpt_path=None, **options):
    case = module.case
    options = {"max_epochs": EPOCHS, **precision_options(precision), **case.trainer, **options}
    runner = trainer(folder, *case.callbacks(), *callbacks, **options)
    runner.fit(module, batches(BATCHES), ckpt_path=ckpt_path)
    runner.save_checkpoint(folder / "end.ckpt")
    # A resume reads them with weights_only, which takes several times as long.
    return torch.load(folder / "end.ckpt", weights_only=False)


def difference(one, other, where=""):
    """The path to the first thing in which two nested checkpoints differ, None if they are equal bit for bit."""
    if type(one) is not type(other):
        return where
    if isinstance(one, torch.Tensor):
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        return None if alike and torch.equal(as_bytes(one), as_bytes(other)) else where
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"{where}: {list(one)} / {list(other)}"
        pairs = [(f"{where}/{key}", one[key], other[key]) for key in one]
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return where
        pairs = [(f"{where}/{index}", *pair) for index, pair in enumerate(zip(one, other, strict=True))]
    else:
        return None if repr(one) == repr(other) else where  # of a float exact, and -0.0 is not 0.0
    return next((found for path, *pair in pairs if (found := difference(*pair, path)) is not None), None)


def as_bytes(tensor):
    return tensor.detach().cpu().reshape(-1).view(torch.uint8)


ALMOST = {
    "sign of zero": (torch.tensor(0.0), torch.tensor(-0.0)),
    "last bit": (torch.tensor([1.0]), torch.tensor([1.0]).nextafter(torch.tensor(2.0))),
    "dtype": (torch.tensor(1.0), torch.tensor(1.0, dtype=torch.float64)),
    "shape": (torch.zeros(1), torch.zeros(())),
    "number": (0.0, -0.0),
    "order of keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "length": ([1], [1, 2]),
    "deep": ({"a": [torch.tensor(True)]}, {"a": [torch.tensor(False)]}),
}


@pytest.mark.parametrize("case", ALMOST)
def test_no_difference_is_too_small_to_be_seen(case):
    one, other = ALMOST[case]
    assert difference(one, other) is not None
    assert difference(one, one) is None
    assert difference(torch.tensor(torch.nan), torch.tensor(torch.nan)) is None


def users_side(checkpoint):
    return {key: value for key, value in checkpoint.items() if key not in OURS}


def engine_of(checkpoint):
    """What the callback saved, but for the history, which is no part of the engine."""
    (state,) = ours(checkpoint).values()
    return {key: value for key, value in state.items() if key != "history"}


def ours(checkpoint):
    return {key: value for key, value in checkpoint["callbacks"].items() if key.startswith("UncertaintyCallback")}


class Pause(Callback):
    """Saves once in the middle of a run."""

    def __init__(self, path, *, epoch=1, batch=2):
        self.path, self.moment = path, (epoch, batch)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.moment:
            trainer.save_checkpoint(self.path)


def pause_for(case, folder):
    """After an optimizer step in the middle of the second epoch."""
    return Pause(folder / "pause.ckpt", batch=case.trainer.get("accumulate_grad_batches", 3) - 1)


class Resumption(Callback):
    """Remembers the state of the weights from which training goes on."""

    def on_train_start(self, trainer, module):
        self.state = module.uncertainty.state_dict()


@pytest.mark.parametrize("cell", cells())
def test_with_weights_fixed_at_one_the_users_side_is_as_without_the_plugin(tmp_path, cell):
    """Network, optimizer states, parameter groups, schedulers, scaler and progress, bit for bit."""
    case, precision = cells()[cell]
    without = run(tmp_path, Matrix(case), precision)
    with_plugin = run(tmp_path, Fixed(case), precision, UncertaintyCallback())
    assert difference(users_side(without), users_side(with_plugin)) is None
    assert all(torch.isfinite(tensor).all() for tensor in without["state_dict"].values())


@pytest.mark.parametrize("cell", cells())
def test_s_learns_in_single_precision_and_resumes_bit_for_bit(tmp_path, cell):
    """Wherever Lightning itself resumes exactly; elsewhere s is exactly what it was."""
    case, precision = cells()[cell]
    module = Weighed(case)
    whole = run(tmp_path, module, precision, UncertaintyCallback(), pause_for(case, tmp_path))
    (state,) = ours(whole).values()
    optimizers = len(module.optimizers()) if isinstance(module.optimizers(), list) else 1
    dropped = state["dropped"].max().item()  # a GradScaler skips steps until it has found its scale
    assert state["steps"] + dropped == whole["global_step"] // optimizers > dropped
    assert dropped == 0 or precision == "16-mixed"
    assert {state[key].dtype for key in ("log_var", "start", "exp_avg", "exp_avg_sq", "raw_loss")} == {torch.float32}
    assert state["log_var"].abs().min() > 0.0
    assert state["exp_avg"].abs().min() > 0.0

    resumption = Resumption()
    again = Weighed(case)
    rest = run(tmp_path, again, precision, UncertaintyCallback(), resumption, ckpt_path=tmp_path / "pause.ckpt")
    saved = load(tmp_path / "pause.ckpt")
    assert difference(engine_of(saved), resumption.state) is None
    assert case.inexact or difference(whole, rest) is None


@pytest.mark.parametrize("cell", [name for name, (case, _) in cells().items() if case.inexact])
def test_where_resuming_is_said_to_be_inexact_it_is_so_without_the_plugin(tmp_path, cell):
    case, precision = cells()[cell]
    whole = run(tmp_path, Matrix(case), precision, pause_for(case, tmp_path))
    rest = run(tmp_path, Matrix(case), precision, ckpt_path=tmp_path / "pause.ckpt")
    assert difference(whole, rest) is not None


REFUSED = refused_cells()


@pytest.mark.parametrize("module", [Matrix, Weighed])
@pytest.mark.parametrize("cell", REFUSED)
def test_what_is_said_to_be_impossible_is_so_with_and_without_the_plugin(tmp_path, cell, module):
    case, precision, error = REFUSED[cell]
    with pytest.raises((MisconfigurationException, AssertionError), match=error):
        run(tmp_path, module(case), precision)


def test_every_scheduler_of_torch_has_its_row():
    bases = {"LRScheduler", "Optimizer"}
    known = {name for name in lr_scheduler.__all__ if name not in bases} | {"SWALR"}
    assert {label.split(",")[0] for label in SCHEDULERS} == known


# ---------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("precision", PRECISIONS)
def test_after_a_finished_run_more_epochs_go_on_where_it_ended(tmp_path, precision):
    whole = run(tmp_path, Weighed(Case()), precision, max_epochs=3)
    run(tmp_path, Weighed(Case()), precision, max_epochs=1)
    rest = run(tmp_path, Weighed(Case()), precision, max_epochs=3, ckpt_path=tmp_path / "end.ckpt")
    assert difference(ours(whole), ours(rest)) is None
    assert difference(whole["state_dict"], rest["state_dict"]) is None
    assert difference(whole["optimizer_states"], rest["optimizer_states"]) is None


class WithThird(Weighed):
    """A third task that gives the network no gradient."""

    tasks = {"a": "gaussian", "third": "softmax", "b": "laplace"}

    def losses(self, batch):
        losses = super().losses(batch)
        return {**losses, "third": 0.0 * losses["a"] + 3.0}


def by_task(checkpoint):
    (state,) = ours(checkpoint).values()
    return {
        name: {key: value[index] for key, value in state.items() if isinstance(value, torch.Tensor)}
        for index, name in enumerate(state["tasks"])
    }


CHANGES = {
    "added": (Weighed, WithThird, "'third' is not in the checkpoint"),
    "removed": (WithThird, Weighed, "'third' is in the checkpoint but not among the tasks"),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_the_others_go_on_exactly_when_a_task_is_added_or_removed(tmp_path, change, precision):
    before, after, message = CHANGES[change]
    case = Case()
    whole = run(tmp_path, Weighed(case), precision, UncertaintyCallback())
    run(tmp_path, before(case), precision, UncertaintyCallback(), pause_for(case, tmp_path))
    with pytest.warns(UncertaintyWarning, match=message):
        rest = run(tmp_path, after(case), precision, UncertaintyCallback(), ckpt_path=tmp_path / "pause.ckpt")
    assert difference(users_side(whole), users_side(rest)) is None
    for name in ("a", "b"):
        assert difference(by_task(whole)[name], by_task(rest)[name]) is None


@pytest.mark.parametrize("precision", PRECISIONS)
def test_between_two_optimizer_steps_the_losses_are_dropped_as_the_gradients_are(tmp_path, precision):
    """Three micro-batches a step, saved after the second: the next step knows the third alone."""

    class Still(Weighed):
        """The network stands still, so that the losses are known."""

        def training_step(self, batch, batch_idx):
            self.seen = getattr(self, "seen", [])
            losses = self.losses(batch)
            self.seen.append({name: loss.detach().clone() for name, loss in losses.items()})
            return self.weigh(losses)

    case = Case(lambda net: torch.optim.SGD(net.parameters(), lr=0.0), {"accumulate_grad_batches": 3})
    run(tmp_path, Still(case), precision, UncertaintyCallback(), Pause(tmp_path / "pause.ckpt", batch=1))
    expected = UncertaintyWeighting(Still.tasks)
    expected.load_state_dict(next(iter(ours(load(tmp_path / "pause.ckpt")).values())))
    module = Still(case)
    rest = run(tmp_path, module, precision, UncertaintyCallback(), ckpt_path=tmp_path / "pause.ckpt")
    assert len(module.seen) == 4
    for window in (module.seen[:1], module.seen[1:]):
        for losses in window:
            expected({name: loss.requires_grad_() for name, loss in losses.items()}).backward()
        expected.step()
    assert difference(expected.state_dict(), engine_of(rest)) is None


def test_a_layer_made_early_resumes_inexactly_in_64_true_without_the_plugin_too_but_s_exactly(tmp_path):
    class Early(Matrix):
        def __init__(self, case):
            super().__init__(case)
            self.configure_model()

    class EarlyWeighed(Weighed, Early):
        pass

    case = Case()
    whole = run(tmp_path, Early(case), "64-true", pause_for(case, tmp_path))
    rest = run(tmp_path, Early(case), "64-true", ckpt_path=tmp_path / "pause.ckpt")
    assert difference(whole["state_dict"], rest["state_dict"]) is not None
    run(tmp_path, EarlyWeighed(case), "64-true", pause_for(case, tmp_path))
    resumption = Resumption()
    run(tmp_path, EarlyWeighed(case), "64-true", resumption, ckpt_path=tmp_path / "pause.ckpt")
    saved = load(tmp_path / "pause.ckpt")
    assert difference(saved["lightning_uncertainty"], resumption.state) is None
