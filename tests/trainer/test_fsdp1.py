"""FSDP1 through FSDPStrategy, on two processes without a GPU."""

import pytest
import torch

from tests.trainer.test_sharded import BF16, assert_same_engine
from tests.workers import fsdp1
from tests.workers.processes import run_ranks
from tests.workers.ranks import COUNT, TASKS

SIZE = 6 * len(TASKS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both ranks' records of all cases."""
    folder = tmp_path_factory.mktemp("fsdp1")
    return run_ranks(fsdp1.train_all_cases, folder, folder=folder)


@pytest.mark.parametrize("case", fsdp1.CASES)
def test_the_ranks_are_bit_identical_after_every_epoch(trained, case):
    one, other = (record[case]["epochs"] for record in trained)
    assert len(one) == 2
    for ours, theirs in zip(one, other, strict=True):
        assert_same_engine(ours["engine"], theirs["engine"])
        assert repr(ours["metrics"]) == repr(theirs["metrics"])
        assert ours["engine"]["log_var"].dtype == torch.float32
        assert ours["engine"]["count"].max() == ours["engine"]["steps"] - 1  # all but the first step learn


@pytest.mark.parametrize("case", fsdp1.CASES)
def test_each_step_adds_one_all_reduce(trained, case):
    for record in trained:
        first, *others = record[case]["calls"]
        assert first == ("step 0", "all_reduce", 2 * len(TASKS))
        assert others == [(f"step {step}", "all_reduce", SIZE) for step in range(2 * COUNT)]


@pytest.mark.parametrize("case", ["root", "part"])
def test_each_rank_holds_half_of_the_network_and_all_learn_what_ddp_learns(trained, case):
    for record in trained:
        sharded, whole = record[case]["epochs"][-1], record["ddp"]["epochs"][-1]
        assert 0.4 < sharded["held"] / whole["held"] < 0.6
        torch.testing.assert_close(sharded["engine"]["log_var"], whole["engine"]["log_var"], rtol=0, atol=1e-6)
        for ours, theirs in zip(sharded["network"], whole["network"], strict=True):
            torch.testing.assert_close(ours.flatten(), theirs.flatten(), rtol=1e-5, atol=1e-6)


def test_clipping_and_half_precision_reach_the_network_and_s_only_through_the_losses(trained):
    start = {case: trained[0][case]["epochs"][0]["engine"]["start"] for case in fsdp1.CASES}
    started = trained[0]["root"]["epochs"][0]["engine"]["started"]
    torch.testing.assert_close(start["clipping"], start["part"], rtol=0, atol=1e-6)
    for case in ("bf16-true", "bf16-mixed"):
        torch.testing.assert_close(start[case][started], start["part"][started], rtol=0, atol=BF16)
    ends = [trained[0][case]["epochs"][-1]["network"][0] for case in ("part", "clipping")]
    assert not torch.equal(*ends)


@pytest.mark.parametrize(("kind", "case"), fsdp1.RESUMED.items())
def test_resumed_equals_uninterrupted_bit_for_bit(trained, kind, case):
    """From a checkpoint in one file, and from one with a file per rank."""
    for record in trained:
        assert record[kind]["is_folder"] == (kind == "sharded")
        assert record[kind]["steps"] == record[case]["steps"] == 2 * COUNT
        (rest,), whole = record[kind]["epochs"], record[case]["epochs"][-1]
        assert_same_engine(rest["engine"], whole["engine"])
        assert repr(rest["metrics"]) == repr(whole["metrics"])
        for ours, theirs in zip(rest["network"], whole["network"], strict=True):
            assert torch.equal(ours, theirs)
        again = range(COUNT, 2 * COUNT)
        assert record[kind]["calls"] == [(f"step {step}", "all_reduce", SIZE) for step in again]
