"""torch.compile: one graph without a break, the same numbers, and a warning before torch gives up."""

import itertools

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch._dynamo.testing import CompileCounterWithBackend

from lightning_uncertainty import CrossEntropy, UncertaintyCallback, UncertaintyWarning, UncertaintyWeighting
from lightning_uncertainty.compiled_keys import recompile_limit
from tests.models import TASKS, Plain, Returned, Validated, Weighed, batches, fit, trainer
from tests.test_checkpoints import assert_same_run, save_at

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated"),  # imported by inductor
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()


@pytest.fixture(params=["aot_eager", "inductor"])
def backend(request):
    return CompileCounterWithBackend(request.param)


@pytest.fixture
def eager_backend():
    return CompileCounterWithBackend("aot_eager")


def compiled(module, backend, **options):
    return torch.compile(module, backend=backend, fullgraph=True, **options)


# ---------------------------------------------------------------------------------------------------- the engine


def run(wrap, steps=6):
    """Train four tasks of all kinds; returns the totals and the engine's state."""
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 5)
    weighting = UncertaintyWeighting(
        {"kind": "softmax_exact", "label": "softmax", "depth": "laplace", "size": "gaussian", "aux": 0.1}
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def total(x, y):
        z = net(x)
        return weighting(
            {
                "kind": CrossEntropy(z[:, :3], y, label_smoothing=0.1),
                "label": torch.nn.functional.cross_entropy(z[:, :3], y),
                "depth": z[:, 3].abs().mean(),
                "size": z[:, 4].square().mean(),
                "aux": z.square().mean(),
            }
        )

    total = wrap(total)
    totals = []
    for _ in range(steps):
        optimizer.zero_grad()
        totals.append(total(torch.randn(8, 4), torch.randint(3, (8,))))
        totals[-1].backward()
        optimizer.step()
        weighting.step()
    return torch.stack(totals).detach(), net.weight.detach(), weighting.log_var


def test_the_engine_is_one_graph_that_computes_what_eager_computes(backend):
    """From the first call, which finds no s, over the start from the data, to settled steps."""
    for ours, theirs in zip(run(lambda f: compiled(f, backend)), run(lambda f: f), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert backend.frame_count == 1


def test_evaluating_in_between_costs_one_more_graph(eager_backend):
    weighting = UncertaintyWeighting({"a": "gaussian"})
    call = compiled(weighting.__call__, eager_backend)
    for _ in range(3):
        call({"a": torch.ones((), requires_grad=True)})
        weighting.step()
        with torch.no_grad():
            call({"a": torch.ones(())})
    assert eager_backend.frame_count == 2


def test_missing_labels_as_nan_cost_no_graph_and_no_finite_gradient(backend):
    """A mean over an empty mask is 0 / 0."""
    net = torch.nn.Linear(4, 3)
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace", "c": "gaussian"})

    def total(x, labelled):
        error = net(x).square()
        loss = (torch.where(labelled, error, 0.0).sum(0) / labelled.sum(0)).unbind()
        return weighting(dict(zip("abc", loss, strict=True)))

    call = compiled(total, backend)
    for pattern in itertools.product([True, False], repeat=3):
        labelled = torch.tensor(pattern).expand(8, 3)
        net.zero_grad()
        x = torch.randn(8, 4)
        call(x, labelled).backward()
        assert torch.isfinite(net.weight.grad).all()
        assert (net.weight.grad != 0.0).any(1).tolist() == list(pattern)
        weighting.step()
    assert backend.frame_count == 1


def losses_of(names):
    return {name: torch.ones((), requires_grad=True) for name in names}


def key_sets(count):
    names = "abcd"
    subsets = [names[:1]] + [s for size in (2, 3, 4, 1) for s in itertools.combinations(names, size)]
    return [tuple(s) for s in subsets][:count]


def test_each_set_of_keys_costs_one_graph_and_their_order_none(eager_backend):
    weighting = UncertaintyWeighting(dict.fromkeys("abcd", "gaussian"))
    call = compiled(weighting.__call__, eager_backend)
    for _ in range(2):
        for names in (*key_sets(3), ("b", "a"), ()):
            call(losses_of(names)).backward()
            weighting.step()
    assert eager_backend.frame_count == 4


def test_it_warns_before_torch_stops_compiling(eager_backend):
    """With a new set of keys each time; torch itself refuses the one after the limit."""
    weighting = UncertaintyWeighting(dict.fromkeys("abcd", "gaussian"))
    call = compiled(weighting.__call__, eager_backend)
    limit = recompile_limit()
    sets = key_sets(limit + 1)
    for names in sets[: limit - 2]:
        call(losses_of(names))
    with pytest.warns(UncertaintyWarning, match=r"NaN as the loss of those without labels.*recompile_limit"):
        call(losses_of(sets[limit - 2]))
    call(losses_of(sets[limit - 1]))
    assert eager_backend.frame_count == limit
    with pytest.raises(Exception, match="limit"):
        call(losses_of(sets[limit]))


def test_a_raised_limit_moves_the_warning(eager_backend):
    weighting = UncertaintyWeighting(dict.fromkeys("abcd", "gaussian"))
    call = compiled(weighting.__call__, eager_backend)
    name = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    with torch._dynamo.config.patch(name, 20):
        for names in key_sets(12):
            call(losses_of(names))
    assert eager_backend.frame_count == 12


def test_eager_code_counts_no_keys():
    weighting = UncertaintyWeighting(dict.fromkeys("abcd", "gaussian"))
    for names in key_sets(14):
        weighting(losses_of(names))  # a warning would be an error here


def test_a_detached_loss_is_reported_without_a_break(eager_backend):
    weighting = UncertaintyWeighting(TASKS)
    call = compiled(lambda x: weighting({"a": x, "b": x.detach()}), eager_backend)
    with pytest.warns(UncertaintyWarning, match="'b' carries no graph"):
        call(torch.ones((), requires_grad=True))
    assert eager_backend.frame_count == 1


def test_losses_without_any_graph_are_refused_as_in_eager_code():
    weighting = UncertaintyWeighting({"a": "gaussian"})
    with pytest.raises(Exception, match="carries a graph"):
        torch.compile(weighting.__call__, backend="aot_eager")({"a": torch.ones(())})


def test_nonfinite_raise_still_raises():
    """It needs the value on the host, so here a break is its price."""
    weighting = UncertaintyWeighting({"a": "gaussian"}, nonfinite="raise")
    call = torch.compile(weighting.__call__, backend="aot_eager")
    call({"a": torch.ones((), requires_grad=True)}).backward()
    with pytest.raises(FloatingPointError, match="loss of 'a'"):
        call({"a": torch.tensor(float("nan"), requires_grad=True)})


# ---------------------------------------------------------------------------------------------------- the Trainer


def test_a_compiled_module_trains_as_an_eager_one_in_one_graph(tmp_path, backend):
    module = Weighed()
    fit(tmp_path, compiled(module, backend))
    eager, _ = fit(tmp_path)
    torch.testing.assert_close(module.net.weight, eager.net.weight)
    torch.testing.assert_close(module.uncertainty.log_var, eager.uncertainty.log_var)
    assert backend.frame_count == 1


def test_the_callback_alone_weighs_a_compiled_module_and_gives_training_step_back(tmp_path, eager_backend):
    module = Returned()
    model = compiled(module, eager_backend)
    before = module.training_step
    fit(tmp_path, model, callback=UncertaintyCallback(TASKS))
    assert module.training_step is before
    eager, _ = fit(tmp_path, Returned(), callback=UncertaintyCallback(TASKS))
    assert torch.equal(module.net.weight, eager.net.weight)
    assert eager_backend.frame_count == 1


@pytest.mark.parametrize("cls", [Weighed, Returned])
def test_compiled_parts_train_as_eager_ones(tmp_path, eager_backend, cls):
    module = cls()
    module.net.compile(backend=eager_backend, fullgraph=True)
    options = [UncertaintyCallback(TASKS) for _ in range(2)]
    fit(tmp_path, module, callback=options[0])
    eager, _ = fit(tmp_path, cls(), callback=options[1])
    assert torch.equal(module.net.weight, eager.net.weight)
    assert options[0].weighting.log_vars == options[1].weighting.log_vars
    assert eager_backend.frame_count == 1


def test_accumulation_validation_and_a_resume_in_compiled_code_are_exact(tmp_path, eager_backend):
    options = {"enable_checkpointing": True, "accumulate_grad_batches": 2}
    whole, rest = Weighed(), Weighed()
    fit(tmp_path, compiled(whole, eager_backend), callbacks=[save_at(tmp_path, 7)], **options)
    fit(tmp_path, compiled(rest, eager_backend), ckpt_path=tmp_path / "step=7.ckpt", **options)
    assert_same_run(whole, rest)
    eager, _ = fit(tmp_path, callbacks=[], ckpt_path=tmp_path / "step=7.ckpt", **options)
    assert_same_run(whole, eager)


def test_a_compiled_module_that_logs_has_as_many_graphs_as_without_the_plugin(tmp_path):
    """Lightning's self.log breaks the graph; we add no break of our own."""

    class Logs:
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("mine", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            return None

    counts = []
    for base, callback in ((Plain, Callback()), (Weighed, UncertaintyCallback())):
        counter = CompileCounterWithBackend("aot_eager")
        module = type("Module", (Logs, base), {})()
        fit(tmp_path, torch.compile(module, backend=counter), callback=callback)
        counts.append(counter.frame_count)
    assert counts[0] == counts[1] > 0


def test_a_compiled_validation_step_may_weigh(tmp_path, eager_backend):
    class Silent(Validated):
        def validation_step(self, batch, batch_idx):
            self.seen = self.weigh(self.losses(batch))

    module = Silent()
    runner = trainer(tmp_path, UncertaintyCallback(), num_sanity_val_steps=0)
    runner.fit(compiled(module, eager_backend), batches(), batches(seed=3))
    eager, _ = fit(tmp_path)
    assert torch.equal(module.net.weight, eager.net.weight)
    assert module.seen.isfinite()
    assert eager_backend.frame_count == 2


def test_labels_that_come_and_go_as_nan_train_in_one_graph(tmp_path, eager_backend):
    class Sparse(Weighed):
        def losses(self, batch):
            losses = super().losses(batch)
            return {**losses, "b": torch.where(batch[1][0, 1] > 0.0, losses["b"], torch.nan)}

    module = Sparse()
    with pytest.warns(UncertaintyWarning, match="'b' was NaN"):
        fit(tmp_path, compiled(module, eager_backend))
    assert eager_backend.frame_count == 1
    state = module.uncertainty.state_dict()
    assert 0 < state["nonfinite"][1] == 48 - state["count"][1] - 1
