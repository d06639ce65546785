"""The engine on several processes without a Trainer: plain torch, Fabric, groups of processes, and for a long time."""

import pytest
import torch

from tests.workers import fault_ranks, loop_ranks, ranks
from tests.workers.processes import ROOT, Ranks, run_ranks

EXAMPLES = ROOT / "docs" / "examples"


def assert_same(one, other):
    for key, value in one.items():
        same = other[key]
        assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same


def test_the_example_in_plain_torch_learns_the_same_on_both_ranks(tmp_path):
    (one,), (other,) = run_ranks(loop_ranks.example, EXAMPLES / "plain_torch.py", folder=tmp_path)
    assert_same(one, other)
    assert one["steps"] == 30


def test_the_example_with_fabric_learns_the_same_on_both_ranks_and_saves_and_loads_it(tmp_path):
    one, other = run_ranks(loop_ranks.example, EXAMPLES / "fabric.py", tmp_path / "fabric.ckpt", folder=tmp_path)
    for state in (*one, *other):
        assert_same(state, one[0])
    assert one[0]["steps"] == 30


def test_a_given_group_is_averaged_over_by_itself_and_copies_stay_in_it(tmp_path):
    zero, one, two = run_ranks(loop_ranks.groups, folder=tmp_path, world=3)
    assert torch.equal(zero["s"], one["s"])
    assert not torch.equal(zero["s"], two["s"])
    for record in (zero, one, two):
        assert record["moved"]
        assert record["same group"]
        assert torch.equal(record["twin"], record["s"])
        assert torch.equal(record["loaded"], record["s"])


def test_a_moving_average_of_the_module_can_be_kept_beside_a_given_group(tmp_path):
    one, other = run_ranks(loop_ranks.averaged, tmp_path, folder=tmp_path)
    assert torch.equal(one["s"], other["s"])
    assert one["steps"] == 2 * ranks.COUNT


def test_with_uneven_batches_a_run_ends_as_it_does_without_the_package(tmp_path):
    """Lightning does not make up for missing batches; the package neither hides that nor makes it worse."""
    ends = {}
    for weighed in (True, False):
        folder = tmp_path / str(weighed)
        codes = Ranks(fault_ranks.uneven, folder, weighed, folder=folder).wait(timeout=60.0)
        ends[weighed] = codes, [(folder / f"steps{rank}").read_text() for rank in (0, 1)]
    assert ends[True] == ends[False]


def test_soak_of_3000_steps_with_five_tasks_missing_at_random(tmp_path):
    """The same with 100,000 steps was run by hand; docs/distributed.md has the numbers."""
    one, other = run_ranks(loop_ranks.soak, 3000, folder=tmp_path, timeout=240.0)
    assert_same(one["engine"], other["engine"])
    assert one["engine"]["steps"] == 3000
    expected = {"a": 0.1, "b": 3.0**2, "c": 2 * 0.7, "d": 2 * 0.3, "e": 50.0}  # closed-form optima of sigma^2
    learned = dict(zip(loop_ranks.FIVE, one["engine"]["log_var"].exp().tolist(), strict=True))
    assert learned == pytest.approx(expected, rel=0.35)
    for record in (one, other):
        assert record["resident"][-1] - record["resident"][6] < 2**18  # bytes, in the last 900 steps
        # A step does as much at the end as at a tenth of the way, with as much: it cannot have become slower.
        assert min(record["operations"]) > 30
        assert set(record["operations"]) == {record["operations"][0]}
        assert set(record["held"]) == {record["held"][0]}
