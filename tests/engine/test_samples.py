"""Means over samples, for those who give their numbers; by default means are over batches."""

import math

import numpy as np
import pytest
import torch

from lightning_uncertainty import CrossEntropy
from lightning_uncertainty.trainer.attachment import attached_weighting
from tests.models import Returned, batches, fit
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.workers import loop_ranks, ranks
from tests.workers.processes import run_ranks

TASKS = {"a": "gaussian", "b": "laplace", "c": "softmax"}


def weigh(weighting, values, samples=None):
    losses = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
    total = weighting(losses, samples=samples)
    total.backward()
    return total.item(), {name: loss.grad.item() for name, loss in losses.items()}


def raw(weighting):
    return {name: task.raw_loss for name, task in weighting.snapshot().tasks.items()}


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([({"a": 1.0, "b": 2.0}, 3), ({"a": 5.0, "b": 6.0}, 1)], {"a": 2.0, "b": 3.0}),
        ([({"a": 1.0, "b": 2.0}, {"a": 3, "b": 1}), ({"a": 5.0, "b": 6.0}, 1)], {"a": 2.0, "b": 4.0}),
        ([({"a": 1.0, "b": 2.0}, torch.tensor(3)), ({"a": 5.0}, {"a": torch.tensor(1.0)})], {"a": 2.0, "b": 2.0}),
        ([({"a": 1.0, "b": 2.0}, np.int64(3)), ({"a": 5.0, "b": 6.0}, np.float32(1))], {"a": 2.0, "b": 3.0}),
        ([({"a": 1.0, "b": 2.0}, {"a": np.array(3), "b": np.uint8(1)}), ({"a": 5.0}, 1)], {"a": 2.0, "b": 2.0}),
        ([({"a": 1.0, "b": math.nan}, 3), ({"a": 5.0, "b": 6.0}, 1)], {"a": 2.0, "b": 6.0}),
        ([({"a": 1.0, "b": 2.0}, {"a": 0, "b": 1}), ({"a": 5.0, "b": 6.0}, 1)], {"a": 5.0, "b": 4.0}),
        ([({"a": 1.0, "b": 2.0}, None), ({"a": 5.0, "b": 6.0}, None)], {"a": 3.0, "b": 4.0}),
    ],
    ids=[
        "one number",
        "per task",
        "tensors",
        "numpy",
        "per task, numpy",
        "NaN is none",
        "none is none",
        "by default calls",
    ],
)
@pytest.mark.filterwarnings("ignore:The loss of task 'b' was NaN")
def test_the_raw_loss_is_the_mean_over_the_samples_of_all_micro_batches(calls, expected):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace"}, init=0.0)
    for values, samples in calls:
        weigh(weighting, values, samples)
    weighting.step()
    assert raw(weighting) == pytest.approx(expected)


def test_s_learns_from_that_mean_as_from_one_call_with_all_samples():
    parts, whole = UncertaintyWeighting(TASKS), UncertaintyWeighting(TASKS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        small, large = (dict(zip(TASKS, torch.rand(3, generator=generator).tolist(), strict=True)) for _ in range(2))
        weigh(parts, small, 4)
        weigh(parts, large, 6)
        weigh(whole, {name: (4 * small[name] + 6 * large[name]) / 10 for name in TASKS})
        parts.step()
        whole.step()
    assert parts.log_vars == pytest.approx(whole.log_vars, abs=1e-5)
    assert raw(parts) == pytest.approx(raw(whole))


def test_the_slope_of_an_exact_softmax_is_averaged_over_samples_too():
    parts, whole = (UncertaintyWeighting({"c": "softmax_exact"}, init=0.3) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(10, 3, generator=generator, requires_grad=True)
        target = torch.randint(3, (10,), generator=generator)
        parts({"c": CrossEntropy(logits[:4], target[:4])}, samples=4).backward()
        parts({"c": CrossEntropy(logits[4:], target[4:])}, samples=6).backward()
        whole({"c": CrossEntropy(logits, target)}).backward()
        parts.step()
        whole.step()
    assert parts.log_vars == pytest.approx(whole.log_vars, abs=1e-5)
    assert parts.log_vars["c"] != pytest.approx(0.3, abs=0.01)


def test_the_total_and_its_gradient_do_not_depend_on_it():
    with_counts, without = UncertaintyWeighting(TASKS), UncertaintyWeighting(TASKS)
    for value in (1.0, 2.0):  # one call: the same mean, so the same s
        losses = {"a": value, "b": 3.0 * value, "c": 0.5 * value}
        assert weigh(with_counts, losses, 7) == weigh(without, losses)
        with_counts.step()
        without.step()
    assert with_counts.log_vars == pytest.approx(without.log_vars, abs=1e-6)


@pytest.mark.parametrize(
    ("samples", "error", "words"),
    [
        ({"a": 1}, ValueError, "samples has no count for 'b'"),
        ({"a": 1, "b": 1, "depht": 1}, ValueError, "Unknown task 'depht'"),
        (-1, ValueError, "The sample count of task 'a' is -1"),
        (math.nan, ValueError, "The sample count of task 'a' is nan"),
        (torch.ones(3), ValueError, r"The sample count of task 'a' has shape \(3,\)"),
        ("many", TypeError, "The sample count of task 'a' is of type str"),
        (True, TypeError, "The sample count of task 'a' is of type bool"),
        (np.True_, TypeError, "The sample count of task 'a' is of type bool"),
        (np.ones(2), TypeError, "The sample count of task 'a' is of type ndarray"),
    ],
    ids=["missing", "unknown", "negative", "NaN", "vector", "word", "boolean", "numpy's boolean", "numpy's vector"],
)
def test_counts_that_cannot_be_meant_are_refused_and_nothing_is_recorded(samples, error, words):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace"})
    with pytest.raises(error, match=words):
        weigh(weighting, {"a": 1.0, "b": 2.0}, samples)
    assert not weighting.waiting


def test_a_training_step_without_the_mixin_may_return_them(tmp_path):
    """Two micro-batches of 6 and 2 samples."""

    class Counted(Returned):
        kept = []

        def training_step(self, batch, batch_idx):
            losses = self.losses(batch)
            self.kept.append((len(batch[0]), losses["a"].item()))
            return {"losses": losses, "samples": len(batch[0])}

    loader = batches(count=1)
    ((x, y),) = loader.batches
    loader.batches = [(x[:6], y[:6]), (x[6:], y[6:])]
    module = Counted()
    fit(
        tmp_path,
        module,
        data=loader,
        callback=UncertaintyCallback({"a": "gaussian", "b": "laplace"}),
        max_epochs=1,
        accumulate_grad_batches=2,
    )
    (n, a), (m, b) = module.kept
    assert (n, m) == (6, 2)
    assert attached_weighting(module).snapshot().tasks["a"].raw_loss == pytest.approx((n * a + m * b) / (n + m))


def test_two_ranks_with_4_and_6_samples_learn_what_one_learns_from_all_10(tmp_path):
    one, other = run_ranks(loop_ranks.samples_of_each_rank, folder=tmp_path)
    assert one["s"] == other["s"] == pytest.approx(one["alone"], abs=1e-5)
    assert one["totals"] == pytest.approx(one["totals alone"])  # the start from the data too is a mean over samples
    assert one["s"] != pytest.approx(one["batches"], abs=1e-3)  # means over batches are others


@pytest.mark.filterwarnings("ignore:The loss of task 'b' was NaN")
@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("value", [0.0, math.nan])
@pytest.mark.parametrize("where", [(1,), (0, 1)], ids=["one rank", "both"])
def test_ranks_without_samples_of_a_task_do_not_count(tmp_path, where, value, calls):
    one, other = run_ranks(loop_ranks.samples_of_some_ranks, where, value, calls, folder=tmp_path)
    assert one["s"] == other["s"]
    assert one["s"] == pytest.approx(one["alone"], abs=1e-5, nan_ok=True)
    assert one["absent"] == (10 if where == (0, 1) else 0)


def test_accumulated_over_batches_of_4_and_6_samples_every_sample_counts_once(tmp_path):
    """Under DDP in the Trainer; the engine by itself learns the same from the means over all samples of a window."""
    one, other = run_ranks(ranks.accumulate_means_over_samples, tmp_path, folder=tmp_path)
    engine = UncertaintyWeighting(ranks.TASKS)
    starts = range(0, ranks.EPOCHS * ranks.COUNT, ranks.COUNT)
    for begin, end in ((start + a, start + b) for start in starts for a, b in ((0, 5), (5, 10), (10, 12))):
        means = {}
        for task in ranks.TASKS:
            known = [(n, raw[task]) for n, r in ((4, one), (6, other)) for raw in r["raw"][begin:end] if task in raw]
            if known:
                means[task] = sum(n * loss for n, loss in known) / sum(n for n, _ in known)
        weigh(engine, means)
        engine.step()
    assert one["s"] == other["s"] == pytest.approx(engine.log_vars, abs=1e-4)
    for task, mean in means.items():
        assert one["metrics"][f"uncertainty/loss/{task}"] == pytest.approx(mean, rel=1e-5)
    assert repr(one["metrics"]) == repr(other["metrics"])  # NaN equals NaN here
