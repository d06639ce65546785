"""torch.compile: one graph without a break, the same numbers, and a warning before torch gives up."""

import ast
import itertools
import subprocess
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from lightning_uncertainty import CrossEntropy, UncertaintyWarning
from tests.models import TASKS, Returned, Validated, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.trainer.test_checkpoints import assert_same_run, save_at

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated"),  # imported by inductor
    # torch's own, where what it compiles starts in the middle of the user's graph
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()
    yield
    # What inductor builds with -ffast-math turns subnormal numbers off for the whole process when it is loaded.
    torch.set_flush_denormal(False)


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


KEY_SETS = [s for size in (1, 2, 3) for s in itertools.combinations("abc", size)]


def test_the_end_of_a_warm_up_with_equal_weights_costs_no_graph(backend):
    options = {"warmup_steps": 3, "warmup": "equal"}
    eager, weighting = (UncertaintyWeighting({"a": "gaussian", "b": "laplace"}, **options) for _ in range(2))
    call = compiled(weighting.__call__, backend)
    for step in range(8):
        losses = [torch.tensor(value, requires_grad=True) for value in (4.0 + step, 2.0)]
        others = [loss.detach().clone().requires_grad_() for loss in losses]
        call(dict(zip("ab", losses, strict=True))).backward()
        eager(dict(zip("ab", others, strict=True))).backward()
        assert [loss.grad.item() for loss in losses] == pytest.approx([loss.grad.item() for loss in others], rel=1e-6)
        assert (losses[0].grad.item() == 1.0) == (step < 3)
        weighting.step()
        eager.step()
    assert backend.frame_count == 1


def test_each_set_of_keys_costs_one_graph_and_its_return_none(eager_backend):
    weighting = UncertaintyWeighting(dict.fromkeys("abc", "gaussian"))
    call = compiled(weighting.__call__, eager_backend)
    for _ in range(2):
        for names in ("a", "ab", "abc"):
            call(losses_of(names)).backward()
            weighting.step()
    assert eager_backend.frame_count == 3


HAS_LIMIT = hasattr(getattr(torch.compiler, "config", None), "recompile_limit")
needs_limit = pytest.mark.skipif(not HAS_LIMIT, reason="this torch has no public name for its limit")


@needs_limit
def test_graphs_for_evaluation_count_towards_the_limit_too(eager_backend):
    weighting = UncertaintyWeighting(dict.fromkeys("abc", "gaussian"))
    call = compiled(weighting.__call__, eager_backend)
    with torch.compiler.config.patch(recompile_limit=4):
        call(losses_of("a"))
        with torch.no_grad():
            call(losses_of("a"))
        with pytest.warns(UncertaintyWarning, match="It has made 3, and after 4 it falls back"):
            call(losses_of("ab"))


@needs_limit
@pytest.mark.parametrize("limit", [3, 5])
def test_it_warns_before_torch_makes_no_more_graphs(eager_backend, limit):
    """With a new set of keys each time; torch itself refuses the one after its limit."""
    weighting = UncertaintyWeighting(dict.fromkeys("abc", "gaussian"))
    call = compiled(weighting.__call__, eager_backend)
    with torch.compiler.config.patch(recompile_limit=limit):
        for names in KEY_SETS[: limit - 2]:
            call(losses_of(names))
        with pytest.warns(UncertaintyWarning, match=r"NaN as the loss of those without labels.*recompile_limit"):
            call(losses_of(KEY_SETS[limit - 2]))
        call(losses_of(KEY_SETS[limit - 1]))
        assert eager_backend.frame_count == limit
        with pytest.raises(Exception, match=r"limit|fullgraph=True"):
            call(losses_of(KEY_SETS[limit]))


def test_at_the_limit_that_torch_has_by_itself_it_warns_too(eager_backend):
    """In every torch, also where the limit has no public name."""
    weighting = UncertaintyWeighting(dict.fromkeys("abc", "gaussian"))
    call = compiled(weighting.__call__, eager_backend)
    for names in KEY_SETS[:6]:
        call(losses_of(names))
    with pytest.warns(UncertaintyWarning, match="It has made 7, and after 8 it falls back"):
        call(losses_of(KEY_SETS[6]))


def test_eager_code_counts_no_keys():
    weighting = UncertaintyWeighting(dict.fromkeys("abcde", "gaussian"))
    for names in itertools.combinations("abcde", 3):
        weighting(losses_of(names)).backward()  # a warning would be an error here


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
    fit(tmp_path, model, callback=UncertaintyCallback(TASKS))
    batch = next(iter(batches()))
    assert module.training_step(batch, 0)["loss"] == sum(module.losses(batch).values())
    eager, _ = fit(tmp_path, Returned(), callback=UncertaintyCallback(TASKS))
    assert torch.equal(module.net.weight, eager.net.weight)
    assert eager_backend.frame_count == 1


@pytest.mark.parametrize(
    ("cls", "part"),
    [(Weighed, "losses"), (Weighed, "weigh"), (Returned, "losses")],
    ids=["the losses, with the mixin", "self.weigh", "the losses, callback alone"],
)
def test_compiled_parts_train_as_eager_ones(tmp_path, eager_backend, cls, part):
    module, one, two = cls(), UncertaintyCallback(TASKS), UncertaintyCallback(TASKS)
    setattr(module, part, compiled(getattr(module, part), eager_backend))
    fit(tmp_path, module, callback=one)
    eager, _ = fit(tmp_path, cls(), callback=two)
    assert torch.equal(module.net.weight, eager.net.weight)
    assert one.weighting.log_vars == pytest.approx(two.weighting.log_vars, abs=1e-6)  # numpy rounds otherwise
    assert eager_backend.frame_count == 1


def test_accumulation_and_a_resume_in_compiled_code_are_exact(tmp_path, eager_backend):
    options = {"enable_checkpointing": True, "accumulate_grad_batches": 2}
    whole, rest = Weighed(), Weighed()
    fit(tmp_path, compiled(whole, eager_backend), callbacks=[save_at(tmp_path, 7)], **options)
    fit(tmp_path, compiled(rest, eager_backend), ckpt_path=tmp_path / "step=7.ckpt", **options)
    assert_same_run(whole, rest)
    eager, _ = fit(tmp_path, ckpt_path=tmp_path / "step=7.ckpt", **options)
    assert_same_run(whole, eager)


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


@pytest.mark.parametrize(
    ("before", "ours"),
    [
        ("torch", "lightning_uncertainty"),
        (
            "lightning.pytorch, torchmetrics",
            "lightning_uncertainty.trainer.callback, lightning_uncertainty.trainer.mixin",
        ),
    ],
)
def test_importing_the_package_imports_nothing_of_others(before, ours):
    """Such as the compiler, or ``numpy.typing``, which take longer than the rest of the package."""
    code = f"import sys, {before}; known = set(sys.modules); import {ours}; print(sorted(set(sys.modules) - known))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = ast.literal_eval(run.stdout)
    assert "lightning_uncertainty.weighting" in added
    assert [name for name in added if name.partition(".")[0] != "lightning_uncertainty"] == []
