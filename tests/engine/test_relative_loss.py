"""The relative loss against float64 by hand, and the laws it has to keep."""

import math

import pytest
import torch

from tests.paper import UncertaintyWeighting

TASKS = {"a": "gaussian", "b": "laplace", "late": "softmax", "aux": 0.1}
NAN = math.nan
# Epochs of steps by task: one left out, one that starts late, NaN, a zero, and a fixed weight.
EPOCHS = [
    [{"a": 4.0, "b": 0.0, "aux": 9.0}, {"a": 3.0, "b": 0.6}, {"a": 2.5, "b": NAN, "aux": 8.0}],
    [{"a": 1.0, "b": 0.4}, {"a": 0.9, "b": 0.5, "late": 50.0}, {"b": 0.3, "late": 20.0}],
    [{"a": 0.8, "b": 0.4, "late": 30.0}, {"a": 0.9, "late": 15.0}, {"b": 0.2, "late": 9.0, "aux": 7.0}],
]


def step(weighting, losses):
    weighting({name: torch.tensor(loss, requires_grad=True) for name, loss in losses.items()}).backward()
    weighting.step()
    return weighting.snapshot().relative_loss


def train(weighting, epochs=EPOCHS):
    values = []
    for epoch in epochs:
        weighting.relative.begin_epoch()
        values += [step(weighting, losses) for losses in epoch]
    return values


def by_hand(epochs):
    """The definition, task by task, in double precision."""
    means, first, bases, values = {}, {}, {}, []

    def relative_loss(bases):
        logs = [math.log(max(means[name] / base, 1e-6)) for name, base in bases.items()]
        return math.exp(sum(logs) / len(logs)) if logs else 1.0

    for epoch in epochs:
        bases |= {name: means[name] / relative_loss(bases) for name in first} if bases else first
        first, sums = {}, {}
        for losses in epoch:
            for name, loss in losses.items():
                if not math.isnan(loss):
                    sums[name] = [*sums.get(name, []), loss]
                    means[name] = sum(sums[name]) / len(sums[name])
            come = [name for name in losses if means.get(name, 0.0) > 0.0 and name not in {*bases, *first}]
            first |= {name: means[name] / relative_loss(bases or first) for name in come}
            values.append(relative_loss(bases or first))
    return values


@pytest.mark.filterwarnings("ignore:.*NaN or infinite")
def test_it_is_the_geometric_mean_of_the_epochs_losses_over_those_at_their_start():
    assert train(UncertaintyWeighting(TASKS)) == pytest.approx(by_hand(EPOCHS), rel=1e-5)


def test_of_one_task_it_is_the_mean_of_the_epoch_over_the_first_loss():
    values = train(UncertaintyWeighting({"a": "gaussian"}), [[{"a": 8.0}, {"a": 4.0}], [{"a": 2.0}, {"a": 1.0}]])
    assert values == [1.0, 0.75, 0.25, 0.1875]


def test_no_unit_changes_it():
    factors = {"a": 1e6, "b": 1e-9, "late": 57.3, "aux": 1e3}
    scaled = [[{n: factors[n] * x for n, x in losses.items()} for losses in epoch] for epoch in EPOCHS]
    assert train(UncertaintyWeighting(TASKS), scaled) == pytest.approx(train(UncertaintyWeighting(TASKS)), rel=1e-5)


@pytest.mark.parametrize("first", [1e-9, 1.0, 1e9])
def test_a_task_that_comes_late_does_not_move_it_and_then_has_its_say(first):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace"})
    before = train(weighting, [[{"a": 8.0}, {"a": 8.0}], [{"a": 1.0}]])[-1]
    assert before == pytest.approx(0.125)
    unlucky = [{"a": 1.0, "b": 0.1 * first}, {"a": 1.0, "b": 1.9 * first}]
    assert train(weighting, [unlucky, [{"a": 1.0, "b": first}]]) == pytest.approx([before] * 3)
    assert train(weighting, [[{"a": 1.0, "b": first / 4}]])[-1] == pytest.approx(before / 2)
    assert train(weighting, [[{"a": 1.0}]])[-1] == pytest.approx(before / 2)  # and it stays while the task is away


def test_it_rises_when_the_network_diverges():
    values = train(UncertaintyWeighting(TASKS), [[{"a": 10.0**n, "b": 10.0**n}] for n in range(30)])
    assert values == pytest.approx([10.0**n for n in range(30)], rel=1e-4)


def test_it_is_not_finite_once_no_loss_is_and_comes_back_with_them():
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace"})
    assert step(weighting, {"a": 1.0, "b": 1.0}) == 1.0
    assert math.isnan(step(weighting, {"a": NAN, "b": math.inf}))
    metrics = weighting.snapshot().metrics()
    assert all(math.isnan(metrics[f"uncertainty/{key}"]) for key in ("relative_loss", "loss_sum", "loss/a"))
    assert step(weighting, {"a": 0.25, "b": NAN}) == pytest.approx(0.625**0.5)
    assert step(weighting, {}) == pytest.approx(0.625**0.5)  # a batch without any task is no fault
    assert weighting.state_dict()["dead"].tolist() == [1, 1]


def test_it_is_nan_before_the_first_loss():
    assert math.isnan(UncertaintyWeighting(TASKS).snapshot().relative_loss)


@pytest.mark.parametrize("likelihood", ["gaussian", 1.0])
def test_a_loss_that_was_negative_takes_no_part(likelihood):
    weighting = UncertaintyWeighting({"a": "laplace", "b": likelihood})
    values = train(weighting, [[{"a": 1.0, "b": 1.0}], [{"a": 0.5, "b": -1.0}], [{"a": 0.25, "b": 3.0}]])
    assert values == [1.0, 0.5, 0.25]


def test_a_loss_that_is_zero_leaves_the_others_a_say():
    weighting = UncertaintyWeighting({"a": "laplace", "b": "laplace"})
    values = train(weighting, [[{"a": 1.0, "b": 1.0}], [{"a": 1.0, "b": 0.0}], [{"a": 0.25, "b": 0.0}]])
    assert values == pytest.approx([1.0, 1e-3, 5e-4])


@pytest.mark.filterwarnings("ignore:.*NaN or infinite")
@pytest.mark.parametrize("at", range(1, 9))
def test_resumed_in_and_between_epochs_it_is_the_same_bit_for_bit(at):
    def go(weighting, steps, first=0):
        values = []
        for number in range(first, steps):
            if number % 3 == 0:
                weighting.relative.begin_epoch()
            values.append(step(weighting, EPOCHS[number // 3][number % 3]))
        return values

    whole, one, two = (UncertaintyWeighting(TASKS) for _ in range(3))
    go(one, at)
    two.load_state_dict(one.state_dict())
    assert go(two, 9, at) == go(whole, 9)[at:]


def test_an_older_state_without_it_starts_from_the_next_loss():
    weighting = UncertaintyWeighting({"a": "gaussian"})
    train(weighting, [[{"a": 8.0}, {"a": 2.0}]])
    new = ("dead", "epoch_loss", "epoch_steps", "base_loss", "val_loss", "val_base_loss")
    older = {key: value for key, value in weighting.state_dict().items() if key not in new}
    weighting.load_state_dict(older)
    assert [step(weighting, {"a": loss}) for loss in (2.0, 1.0)] == [1.0, 0.75]
