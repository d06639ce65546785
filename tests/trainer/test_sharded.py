"""Sharded parameters: FSDP2 and tensor parallelism through ModelParallelStrategy, on two processes."""

import pytest
import torch

from tests.workers import sharded
from tests.workers.processes import run_ranks
from tests.workers.ranks import COUNT, TASKS

SIZE = 6 * len(TASKS)
BF16 = 2 * 4 * 2**-9  # s moves by twice the relative error of a loss at most (Laplace), and that is of four roundings


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both ranks' records of all cases."""
    folder = tmp_path_factory.mktemp("sharded")
    return run_ranks(sharded.train_all_cases, folder, folder=folder, timeout=240.0)


def assert_same_engine(one, other):
    for key, value in one.items():
        same = other[key]
        assert torch.equal(value.nan_to_num(), same.nan_to_num()) if isinstance(value, torch.Tensor) else value == same


@pytest.mark.parametrize("case", sharded.CASES)
def test_the_ranks_are_bit_identical_after_every_epoch(trained, case):
    one, other = (record[case]["epochs"] for record in trained)
    assert len(one) == 2
    for ours, theirs in zip(one, other, strict=True):
        assert_same_engine(ours["engine"], theirs["engine"])
        assert repr(ours["metrics"]) == repr(theirs["metrics"])
        assert ours["engine"]["log_var"].dtype == torch.float32
        assert ours["engine"]["count"].max() == ours["engine"]["steps"] - 1  # all but the first step learn
        for mine, its in zip(ours["network"], theirs["network"], strict=True):
            assert torch.equal(mine, its)


@pytest.mark.parametrize("case", sharded.CASES)
def test_each_step_adds_one_all_reduce(trained, case):
    for record in trained:
        first, *others = record[case]["calls"]
        assert first == ("step 0", "all_reduce", 2 * len(TASKS))
        assert others == [(f"step {step}", "all_reduce", SIZE) for step in range(2 * COUNT)]


def test_clipping_and_half_precision_reach_the_network_and_s_only_through_the_losses(trained):
    """The first losses are those of the same network, so s starts from the same values, to the precision of these."""
    start = {case: trained[0][case]["epochs"][0]["engine"]["start"] for case in sharded.CASES}
    started = trained[0]["root"]["epochs"][0]["engine"]["started"]
    torch.testing.assert_close(start["clipping"], start["root"], rtol=0, atol=1e-6)
    for case in ("bf16-true", "bf16-mixed"):
        torch.testing.assert_close(start[case][started], start["root"][started], rtol=0, atol=BF16)
    ends = [trained[0][case]["epochs"][-1]["network"][0] for case in ("root", "clipping")]
    assert not torch.equal(*ends)


def test_with_tensor_parallelism_the_ranks_have_the_same_losses_and_their_mean_is_that_loss(trained):
    one, other = (record["tensor parallel"] for record in trained)
    assert one["raw"] == other["raw"]
    last = [losses["a"] for losses in one["raw"]][-1]
    assert one["epochs"][-1]["metrics"]["uncertainty/loss/a"] == pytest.approx(last, rel=1e-6)


def assert_close_end(one, other):
    torch.testing.assert_close(one["engine"]["log_var"], other["engine"]["log_var"], rtol=0, atol=1e-6)
    for mine, its in zip(one["network"], other["network"], strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)


def test_it_learns_the_same_whatever_is_sharded_together(trained):
    for record in trained:
        for parts, root in zip(record["part"]["epochs"], record["root"]["epochs"], strict=True):
            assert_close_end(parts, root)


def test_two_tensor_parallel_ranks_learn_what_one_process_learns_from_their_data(trained, tmp_path):
    (whole,) = run_ranks(sharded.train_whole, tmp_path, folder=tmp_path, world=1)
    for record in trained:
        for split, one in zip(record["tensor parallel"]["epochs"], whole["epochs"], strict=True):
            assert_close_end(split, one)


@pytest.mark.parametrize("kind", ["full", "distributed"])
def test_resumed_equals_uninterrupted_bit_for_bit(trained, kind):
    """From a checkpoint in one file, and from one with a file per rank."""
    for record in trained:
        assert record[kind]["is_folder"] == (kind == "distributed")
        assert record[kind]["steps"] == record["root"]["steps"] == 2 * COUNT
        (rest,), whole = record[kind]["epochs"], record["root"]["epochs"][-1]
        assert_same_engine(rest["engine"], whole["engine"])
        assert repr(rest["metrics"]) == repr(whole["metrics"])
        for ours, theirs in zip(rest["network"], whole["network"], strict=True):
            assert torch.equal(ours, theirs)
        again = range(COUNT, 2 * COUNT)
        assert record[kind]["calls"] == [(f"step {step}", "all_reduce", SIZE) for step in again]


def test_on_a_mesh_of_two_replicas_with_two_tensor_parallel_ranks_s_is_that_of_the_two_replicas(tmp_path):
    """Each loss counts once per tensor-parallel rank, so the mean over all four is that over the two replicas."""
    mesh = run_ranks(sharded.train_on_a_mesh, tmp_path / "mesh", folder=tmp_path / "mesh", world=4)
    pair = run_ranks(sharded.train_on_a_mesh, tmp_path / "pair", folder=tmp_path / "pair")
    for number, record in enumerate(mesh):
        assert record["steps"] == 2 * COUNT
        first, *others = record["calls"]
        assert first == ("step 0", "all_reduce", 2 * len(TASKS))
        assert others == [(f"step {step}", "all_reduce", SIZE) for step in range(2 * COUNT)]
        assert record["raw"] == mesh[number // 2 * 2]["raw"]
        for epoch, (ours, theirs) in enumerate(zip(record["epochs"], pair[number // 2]["epochs"], strict=True)):
            assert_same_engine(ours["engine"], mesh[0]["epochs"][epoch]["engine"])
            assert repr(ours["metrics"]) == repr(mesh[0]["epochs"][epoch]["metrics"])
            torch.testing.assert_close(ours["engine"]["log_var"], theirs["engine"]["log_var"], rtol=0, atol=1e-5)
            for mine, its in zip(ours["network"], theirs["network"], strict=True):
                torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
        (rest,), whole = record["resumed"]["epochs"], record["epochs"][-1]
        assert_same_engine(rest["engine"], whole["engine"])
        assert all(torch.equal(mine, its) for mine, its in zip(rest["network"], whole["network"], strict=True))
    assert mesh[0]["raw"] != mesh[2]["raw"]
