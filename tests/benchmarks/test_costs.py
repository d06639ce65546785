"""What a step costs, in numbers that no other process can disturb: operations, host reads, collectives, graphs.

A number here may fall whenever someone finds a way; it may rise only with a reason, in the commit that raises it.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd.graph import Node

from benchmarks.counting import Operations, collectives, host_reads
from lightning_uncertainty import CrossEntropy, UncertaintyWeighting
from lightning_uncertainty.engine import window
from tests.workers.processes import run_ranks

PAIR = {"a": "gaussian", "b": "laplace"}


def leaf(value=2.0, dtype=torch.float32):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def exact():
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    return {"a": CrossEntropy(logits, torch.tensor([0, 1])), "b": leaf()}


CASES = {
    # The scale of the total is 20 operations of step().
    # what is weighed: tasks, losses, options; operations that compute in the call, in backward(), in step()
    "two tasks": (PAIR, lambda: {"a": leaf(), "b": leaf()}, {}, (8, 2, 60)),
    "thirty tasks": (
        {f"task{i}": "softmax" for i in range(30)},
        lambda: {f"task{i}": leaf() for i in range(30)},
        {},
        (8, 2, 60),
    ),
    "a NaN": (PAIR, lambda: {"a": leaf(), "b": leaf(float("nan"))}, {}, (8, 2, 60)),
    "a task left out": (PAIR, lambda: {"a": leaf()}, {}, (10, 2, 61)),
    "half precision": (PAIR, lambda: {"a": leaf(dtype=torch.float16), "b": leaf()}, {}, (15, 3, 60)),
    "double precision": (PAIR, lambda: {"a": leaf(dtype=torch.float64), "b": leaf()}, {}, (18, 3, 60)),
    "exact softmax": ({"a": "softmax_exact", "b": "laplace"}, exact, {}, (37, 5, 66)),
    "equation (7) as printed": (PAIR, lambda: {"a": leaf(), "b": leaf()}, {"regularizer": "sigma"}, (8, 2, 72)),
    "the article": (PAIR, lambda: {"a": leaf(), "b": leaf()}, {"scale": None}, (8, 2, 42)),
    "frozen": (PAIR, lambda: {"a": leaf(), "b": leaf()}, {"freeze_after": 2}, (8, 2, 33)),
}


def settled(tasks, losses, **options):
    """An engine whose tasks have all started, and whose guard is over, which know it."""
    weighting = UncertaintyWeighting(tasks, **options)
    weighting.expect(1)
    weighting.log_vars = {name: 0.1 for name, task in weighting.tasks.items() if task.likelihood.learned}
    weighting._state.base_loss.fill_(1.0)  # the first loss of each has come
    for _ in range(3):
        weighting(losses()).backward()
        weighting.step()
    return weighting


@pytest.fixture
def other_device(monkeypatch):
    """As on a device other than a CPU, where each operation is a launch of its own, and each read waits."""
    monkeypatch.setattr(window, "NUMPY", False)


@pytest.mark.usefixtures("other_device")
@pytest.mark.parametrize(("tasks", "losses", "options", "expected"), CASES.values(), ids=CASES)
def test_operations_of_a_step(tasks, losses, options, expected):
    weighting, given = settled(tasks, losses, **options), losses()
    with Operations() as call:
        total = weighting(given)
    with Operations() as backward:
        total.backward()
    with Operations() as step:
        weighting.step()
    found = call.computed, backward.computed, step.computed
    assert found == expected, (call.seen, backward.seen, step.seen)


@pytest.mark.parametrize("count", [3, 30, 100])
@pytest.mark.parametrize("scale", ["auto", None])
def test_on_a_cpu_the_total_is_a_dot_product_and_a_step_has_no_operation_of_torch(count, scale):
    """Views are counted, too: what goes from torch to numpy and back."""
    names = [f"task{i}" for i in range(count)]
    weighting = settled(names, lambda: {name: leaf() for name in names}, scale=scale)
    losses = {name: leaf() for name in names}
    with Operations() as call:
        total = weighting(losses)
    total.backward()
    with Operations() as step:
        weighting.step()
    expected = {"stack": 1, "detach": 1, "dot": 1, "_local_scalar_dense": 1}
    article = {"stack": 1, "detach": 2, "dot": 1, "sum": 1, "_local_scalar_dense": 2, "add_": 1}
    assert call.seen == (expected if scale else article)
    assert step.computed == 0
    assert sum(step.seen.values()) == (
        0 if count <= 30 else 4 if scale else 3
    )  # few tasks are worked out by Python alone


@pytest.mark.parametrize("count", [3, 30])
def test_the_graph_of_the_total_is_a_dot_product_of_a_stack(count):
    """However many tasks there are: no node per task."""
    losses = {f"task{i}": leaf() for i in range(count)}
    weighting = settled(dict.fromkeys(losses, "gaussian"), lambda: {name: leaf() for name in losses})
    node: Node = weighting(losses).grad_fn
    assert node.name() == "DotBackward0"
    (stack, _), *others = node.next_functions
    assert stack.name() == "StackBackward0"
    assert all(other is None for other, _ in others)
    assert {leaf.name() for leaf, _ in stack.next_functions} == {"torch::autograd::AccumulateGrad"}


@pytest.mark.usefixtures("other_device")
@pytest.mark.parametrize("case", list(CASES))
def test_a_step_reads_nothing_and_a_snapshot_reads_once(case):
    tasks, losses, options, _ = CASES[case]
    weighting = settled(tasks, losses, **options)
    with host_reads() as reads:
        weighting(losses()).backward()
        weighting.step()
        assert reads.count == 0
        if case != "a NaN":  # of which a snapshot warns
            weighting.snapshot()
            assert reads.count == 1


def test_the_counter_of_reads_sees_each_kind():
    """The check of the check."""
    with host_reads() as reads:
        leaf().item()
        if leaf() > 1.0:
            leaf().detach().tolist()
    assert reads.count == 3


def communicate():
    """Collectives of three steps, after the start, of one without losses, and of two calls in one step."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    weighting = settled(PAIR, lambda: {"a": leaf(), "b": leaf()})
    found = []
    for calls in (1, 0, 2):
        with collectives() as seen:
            for _ in range(calls):
                weighting({"a": leaf(), "b": leaf()}).backward()
            weighting.step()
        found.append(list(seen))
    dist.destroy_process_group()
    return found


def test_a_step_is_one_all_reduce_of_six_numbers_per_task(tmp_path):
    """Whatever was weighed since the last one: the other processes wait for it."""
    one = [("all_reduce", 4 * 6 * len(PAIR))]
    assert run_ranks(communicate, folder=tmp_path) == [[one, one, one]] * 2


def test_compiled_it_is_one_graph_that_is_never_made_again():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    weighting = UncertaintyWeighting(PAIR)
    call = torch.compile(weighting.__call__, backend=counter, fullgraph=True)
    for step in range(6):
        call({"a": leaf(2.0 + step), "b": leaf(float("nan") if step == 3 else 1.0)}).backward()
        weighting.step()
    assert counter.frame_count == 1
    torch._dynamo.reset()
