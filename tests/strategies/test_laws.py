"""Laws that hold for every strategy, those of the package and one of one's own."""

import copy
import io
import math

import pytest
import torch

from lightning_uncertainty.strategies import STRATEGIES
from tests.paper import UncertaintyWeighting
from tests.strategies.test_seam import Inverse, Live, leaf

TASKS = {"a": "gaussian", "b": "laplace", "c": 0.5}
# With a sigma to start from, where one is learned: else the first call would set it.
STARTED = {"a": {"likelihood": "gaussian", "init": 0.0}, "b": {"likelihood": "laplace", "init": 0.0}, "c": 0.5}
MEMBERS = {**STRATEGIES, "inverse": Inverse, "live": Live}


# Those whose factors are computed from all tasks, so that the order of a sum is seen in the last digit.
MIXED = {"geometric_mean", "uw_so", "dwa", "random"}


@pytest.fixture(params=MEMBERS)
def name(request):
    return request.param


@pytest.fixture
def make(name):
    """A function that makes an engine with the strategy."""
    return lambda tasks=TASKS, **options: UncertaintyWeighting(tasks, strategy=MEMBERS[name](), **options)


def rows(count, seed=0):
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 5 + 0.1


def learn(weighting, values, order="abc", dtype=torch.float32):
    """One step per row; the gradients of the losses in each."""
    found = []
    for row in values:
        given = dict(zip("abc", row.tolist(), strict=True))
        losses = {name: torch.tensor(given[name], dtype=dtype, requires_grad=True) for name in order}
        weighting(losses).backward()
        weighting.step()
        found.append([None if name not in losses else losses[name].grad.item() for name in "abc"])
    return found


def test_the_order_of_the_tasks_is_of_no_matter(make, name):
    one, other = (learn(make(), rows(8)), learn(make(dict(reversed(TASKS.items()))), rows(8), order="cab"))
    assert torch.tensor(one).allclose(torch.tensor(other), rtol=1e-6 if name in MIXED else 0.0, atol=0.0)


def test_a_task_that_is_absent_or_nan_takes_no_part(make, name):
    whole, without, with_nan = make(), make(), make()
    learn(whole, rows(4))
    for weighting in (without, with_nan):
        learn(weighting, rows(4))
    before = without.snapshot().tasks["b"]
    learn(without, rows(4, seed=1), order="ac")
    gap = rows(4, seed=1)
    gap[:, 1] = math.nan
    gradients = learn(with_nan, gap)
    assert {row[1] for row in gradients} == {0.0}
    for weighting in (without, with_nan):
        after = weighting.snapshot().tasks["b"]
        assert (after.raw_loss, after.absent) == (before.raw_loss, 4)
        assert after.factor == before.factor or name == "random"  # which draws for all
    assert without.weights == with_nan.weights


def test_its_state_is_of_single_precision_whatever_the_losses_are(make):
    weighting = make()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        learn(weighting, rows(2), dtype=dtype)
    tensors = [*weighting.strategy.state.tensors().values(), weighting.strategy.factor, weighting.strategy.offset]
    assert {tensor.dtype for tensor in tensors} <= {torch.float32, torch.bool, torch.long}  # long is for counts


def test_resumed_equals_uninterrupted_bit_for_bit(make):
    whole, begun = make(), make()
    learn(whole, rows(6))
    learn(begun, rows(6))
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    resumed = make()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert learn(whole, rows(6, seed=1)) == learn(resumed, rows(6, seed=1))
    assert str(whole.snapshot()) == str(resumed.snapshot())
    assert str(whole.state_dict()) == str(resumed.state_dict())


def test_a_copy_is_a_twin_that_shares_nothing(make):
    one = make()
    learn(one, rows(3))
    twin, before = copy.deepcopy(one), str(one.snapshot())
    after = learn(twin, rows(3, seed=1))
    assert str(one.snapshot()) == before
    assert learn(one, rows(3, seed=1)) == after


def test_moving_copies_all_of_it(make):
    weighting = make()
    learn(weighting, rows(2))
    weighting.to("meta")
    holders = [weighting.strategy.state.tensors().values(), [weighting.strategy.factor, weighting.strategy.offset]]
    assert {tensor.device.type for tensors in holders for tensor in tensors} == {"meta"}


def test_learning_takes_the_mean_of_the_micro_batches(make):
    """Four calls in a step teach what one call with their mean teaches. (Each call may have factors of its own.)"""
    parts, whole = make(STARTED), make(STARTED)
    values = rows(4)
    for row in values:
        parts({name: leaf(value) for name, value in zip("abc", row.tolist(), strict=True)}).backward()
    parts.step()
    learn(whole, values.mean(0, keepdim=True))
    assert parts.weights == pytest.approx(whole.weights, rel=1e-5)
    assert parts.snapshot().loss == pytest.approx(whole.snapshot().loss, rel=1e-5)


@pytest.mark.parametrize("steps", [0, 3])
def test_frozen_it_keeps_its_factors(make, name, steps):
    weighting = make(STARTED, freeze_after=steps)
    learn(weighting, rows(steps or (1 if name == "initial" else 0)))  # who has no start yet still gets one
    before = weighting.weights
    gradients = learn(weighting, rows(5, seed=1))
    weighting.end_epoch()
    assert weighting.weights == before
    assert len({str(row) for row in gradients}) == 1 or name == "live"  # which does not say that it is
    assert name in ("live", "uncertainty") or gradients == [list(before.values())] * 5  # a precision is no factor


def test_the_calls_of_one_step_have_the_same_factors_unless_these_follow_from_the_call(make, name):
    """So that micro-batches are one batch of their size. And the draws of a step are one draw."""
    weighting, found = make(STARTED), []
    learn(weighting, rows(2))
    for row in rows(4, seed=1):
        losses = {name: leaf(value) for name, value in zip("abc", row.tolist(), strict=True)}
        weighting(losses).backward()
        found.append([loss.grad.item() for loss in losses.values()])
    assert (len({str(row) for row in found}) > 1) == (weighting.strategy.live or name == "live")


def test_compiled_it_is_one_graph_that_computes_the_same(make):
    torch._dynamo.reset()
    eager, weighting = make(), make()
    call = torch.compile(weighting.__call__, backend="aot_eager", fullgraph=True)
    for row in rows(4):
        given = dict(zip("abc", row.tolist(), strict=True))
        losses, others = ({name: leaf(value) for name, value in given.items()} for _ in range(2))
        call(losses).backward()
        eager(others).backward()
        for name in given:
            assert losses[name].grad.item() == pytest.approx(others[name].grad.item(), rel=1e-6)
        weighting.step()
        eager.step()


@pytest.mark.parametrize("strategy", ["uncertainty", "log_sum", "initial", "geometric_mean"])
def test_factors_make_up_for_a_loss_in_another_unit(strategy):
    """So the same training follows; the total of `geometric_mean` changes by a constant, the same for all tasks."""
    made = [UncertaintyWeighting({"a": "gaussian", "b": "gaussian", "c": "gaussian"}, strategy=strategy) for _ in "12"]
    scale = torch.tensor([1.0, 1000.0, 1.0])
    metres = torch.tensor(learn(made[0], rows(30)))
    millimetres = torch.tensor(learn(made[1], rows(30) * scale)) * scale
    constant = 10.0 if strategy == "geometric_mean" else 1.0
    torch.testing.assert_close(millimetres, metres * constant, rtol=1e-4, atol=0.0)
