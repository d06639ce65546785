"""Importance multiplies a whole term, so that s cannot absorb it."""

import math

import pytest
import torch

from lightning_uncertainty import Task
from tests.paper import UncertaintyWeighting

KINDS = {"a": "gaussian", "b": "laplace", "c": "softmax"}


def tasks(**importance):
    return [Task(name, kind, importance=importance.get(name, 1.0)) for name, kind in KINDS.items()]


def leaves(**values):
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def train(weighting, steps, **options):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        noise = torch.rand(3, generator=generator) + 0.5
        losses = leaves(a=float(noise[0]), b=2.0 * float(noise[1]), c=0.3 * float(noise[2]))
        weighting(losses, **options).backward()
        weighting.step()
    return weighting


def test_the_total_and_its_gradients_are_those_of_the_formula_in_float64():
    options = {"init": 0.3, "scale": None}
    weighting = UncertaintyWeighting(tasks(a=3.0, b=0.5), **options)
    values, called = {"a": 2.0, "b": 1.5, "c": 0.7}, {"a": 2.0, "c": torch.tensor(4.0)}
    losses = leaves(**values)
    weighting(losses, importance=called).backward()
    exact = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()}
    s = torch.tensor(0.3, dtype=torch.float64)
    total = 6.0 * (0.5 * torch.exp(-s) * exact["a"] + s / 2)
    total = total + 0.5 * (torch.exp(-s / 2) * exact["b"] + s / 2) + 4.0 * (torch.exp(-s) * exact["c"] + s / 2)
    total.backward()
    assert weighting(leaves(**values), importance=called).item() == pytest.approx(total.item(), rel=1e-6)
    for name in values:
        assert losses[name].grad.item() == pytest.approx(exact[name].grad.item(), rel=1e-6)


def test_importance_does_not_move_s():
    plain, important = train(UncertaintyWeighting(tasks()), 50), train(UncertaintyWeighting(tasks(a=100.0, c=0.01)), 50)
    assert torch.equal(plain.log_var, important.log_var)
    assert plain.weights == important.weights


def test_a_factor_before_a_loss_is_absorbed_and_importance_is_not():
    """What it is for: at the optimum of s, the pull of a task is that of its importance."""
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "gaussian"})
    important = UncertaintyWeighting([Task("a", importance=5.0), Task("b")])
    ratios = []
    for engine, factor in ((weighting, 5.0), (important, 1.0)):
        losses = leaves(a=2.0, b=2.0)
        engine({"a": factor * losses["a"], "b": losses["b"]}).backward()
        ratios.append((losses["a"].grad / losses["b"].grad).item())
    assert ratios == pytest.approx([1.0, 5.0])


def test_a_call_weighs_the_learned_mean_by_its_importance_unless_samples_are_counted():
    """Two micro-batches of 1 and 3 labels: the accumulated total is smallest at the mean over labels."""
    means = {}
    for name, options in {
        "importance": [{"importance": {"a": 1}}, {"importance": {"a": 3}}],
        "both": [{"importance": {"a": 1}, "samples": 1}, {"importance": {"a": 3}, "samples": 1}],
        "static": [{}, {}],
    }.items():
        weighting = UncertaintyWeighting([Task("a", importance=1.0 if name != "static" else 7.0)])
        for value, given in zip((8.0, 4.0), options, strict=True):
            weighting(leaves(a=value), **given).backward()
        weighting.step()
        means[name] = weighting.snapshot().tasks["a"].raw_loss
    assert means == pytest.approx({"importance": 5.0, "both": 6.0, "static": 6.0})


def test_an_importance_of_zero_leaves_the_network_alone_and_goes_on_learning():
    weighting = train(UncertaintyWeighting(tasks(a=0.0)), 20)
    losses = leaves(a=1.0, b=1.0, c=1.0)
    weighting(losses).backward()
    assert losses["a"].grad == 0.0
    assert weighting.log_vars == train(UncertaintyWeighting(tasks()), 20).log_vars


def test_a_count_of_zero_labels_lets_the_task_sit_out():
    weighting = UncertaintyWeighting(tasks())
    losses = leaves(a=math.nan, b=1.0, c=1.0)
    weighting(losses, importance={"a": torch.tensor(0), "b": 3, "c": 2}).backward()
    weighting.step()
    assert [weighting.snapshot().tasks[name].started for name in KINDS] == [False, True, True]
    assert losses["b"].grad == pytest.approx(3.0)


def test_shares_and_factors_in_logs_are_those_that_the_network_feels():
    weighting = train(UncertaintyWeighting([Task("a", importance=3.0), Task("b")]), 0)
    weighting(leaves(a=2.0, b=5.0)).backward()
    weighting.step()
    snapshot = weighting.snapshot()
    assert snapshot.shares == pytest.approx({"a": 0.75, "b": 0.25})
    assert snapshot.tasks["a"].precision == pytest.approx(0.5)  # sigma^-2 is that of the noise


def test_equal_warm_up_and_fixed_tasks_keep_their_importance():
    weighting = UncertaintyWeighting(
        [Task("a", importance=3.0), Task("b", 0.5, importance=2.0)], warmup_steps=1, warmup="equal"
    )
    losses = leaves(a=2.0, b=5.0)
    weighting(losses).backward()
    assert [loss.grad.item() for loss in losses.values()] == [3.0, 1.0]


@pytest.mark.parametrize(
    ("importance", "error", "words"),
    [
        (-1.0, ValueError, "The importance of task 'a' is -1"),
        ({"d": 1.0}, ValueError, "Unknown task 'd'"),
        ("high", TypeError, "The importance of task 'a' is of type str"),
        (torch.ones(2), ValueError, r"The importance of task 'a' has shape \(2,\)"),
    ],
)
def test_what_is_no_importance_is_refused(importance, error, words):
    with pytest.raises(error, match=words):
        UncertaintyWeighting(tasks())(leaves(a=1.0), importance=importance)


@pytest.mark.parametrize("importance", [-1.0, math.nan, math.inf, "high", True])
def test_a_task_checks_its_importance(importance):
    with pytest.raises(ValueError, match="importance must be a finite number"):
        Task("a", importance=importance)
