"""What goes wrong on one of several processes: the run ends with its reason, or goes on as if nothing had been."""

import random
import re
import signal
import time

import pytest
import torch

from tests.trainer.test_ddp import learned_by_hand
from tests.trainer.test_sharded import assert_same_engine
from tests.workers import fault_ranks, ranks
from tests.workers.processes import Ranks, run_ranks, run_script


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("kind", ["raises in training_step", "raises"])
@pytest.mark.parametrize("step", [0, 5])
def test_an_error_on_one_rank_ends_the_run_with_that_error(tmp_path, kind, who, step):
    job = Ranks(fault_ranks.with_fault, tmp_path, kind, who, step, folder=tmp_path)
    assert all(code not in (0, None) for code in job.wait(timeout=60.0))
    assert "OSError: the disk of this rank is full" in job.output(who)
    assert "OSError" not in job.output(1 - who)


@pytest.mark.parametrize(("kind", "words"), [("killed", "closed|reset|refused"), ("stopped", "[Tt]imed? ?out")])
def test_the_others_end_with_a_message_when_a_rank_is_lost(tmp_path, kind, words):
    job = Ranks(fault_ranks.with_fault, tmp_path, kind, 1, 5, folder=tmp_path)
    job.processes[0].join(60.0)
    assert job.processes[0].exitcode == 1
    job.kill(1)
    assert job.wait()[1] == -signal.SIGKILL
    message = job.output(0).rsplit("Error: ", 1)[1]
    assert re.search(words, message), job.output(0)


def test_an_infinite_loss_on_one_rank_is_named_if_it_is_to_raise(tmp_path):
    job = Ranks(fault_ranks.with_fault, tmp_path, "infinite", 1, 5, folder=tmp_path)
    assert 0 not in job.wait(timeout=60.0)
    assert "FloatingPointError: The loss of 'a' " in job.output(1)
    assert "is NaN or infinite in step 5" in job.output(1)


@pytest.fixture(scope="module", params=[0, 5], ids="step {}".format)
def poisoned(request, tmp_path_factory):
    """Both ranks' records of the runs in which rank 1 was poisoned in that step."""
    folder = tmp_path_factory.mktemp("poisoned")
    return run_ranks(fault_ranks.poisoned, folder, request.param, folder=folder)


@pytest.mark.parametrize("kind", fault_ranks.POISONS)
def test_what_is_not_finite_on_one_rank_leaves_s_finite_and_the_same_on_both(poisoned, kind):
    """Learned from all losses that were finite, and from nothing else: against the second computation by hand."""
    one, other = (record[kind, True] for record in poisoned)
    assert_same_engine(one["engine"], other["engine"])
    raw = [record["raw"] for record in (one, other)]
    by_hand = [learned_by_hand(raw, task, steps=ranks.COUNT) for task in ranks.TASKS]
    assert one["engine"]["log_var"].tolist() == pytest.approx(by_hand, abs=2e-5)


@pytest.mark.parametrize("kind", fault_ranks.POISONS)
def test_what_is_not_finite_on_one_rank_spoils_those_parameters_that_it_spoils_without_the_package(poisoned, kind):
    one, other = (record[kind, True]["network"] for record in poisoned)
    for record in poisoned:
        spoiled, as_without = (
            {name for name, value in record[kind, weighed]["network"].items() if not value.isfinite().all()}
            for weighed in (True, False)
        )
        assert spoiled == as_without
        assert ("trunk.weight" in spoiled) == (kind != "NaN loss")
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0, equal_nan=True)


def assert_same_end(one, other):
    assert one["step"] == other["step"]
    assert_same_engine(one["engine"], other["engine"])
    for ours, theirs in zip(one["network"], other["network"], strict=True):
        assert torch.equal(ours, theirs)


def test_killed_five_times_and_resumed_it_ends_where_it_would_have_ended_bit_for_bit(tmp_path):
    """SIGKILL for all processes at random moments, also while a checkpoint is being written."""
    epochs, chance = 25, random.Random(0)
    whole = run_ranks(fault_ranks.resumable, tmp_path / "whole", epochs, folder=tmp_path / "whole")
    folder = tmp_path / "killed"
    resumed_at = []
    for life in range(1, 6):
        job = Ranks(fault_ranks.resumable, folder, epochs, folder=folder)
        target = life * epochs * ranks.COUNT // 7
        while all(fault_ranks.step_of(path) < target for path in folder.glob("step=*.ckpt")):
            assert job.processes[0].exitcode is None, job.output()
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.03))
        job.kill()
        assert job.wait() == [-signal.SIGKILL] * 2
        resumed_at.append(fault_ranks.step_of(fault_ranks.newest_checkpoint(folder)))
    end = run_ranks(fault_ranks.resumable, folder, epochs, folder=folder)
    assert resumed_at == sorted(set(resumed_at))
    assert [record["start"] for record in end] == [resumed_at[-1]] * 2
    for ours, theirs in zip(end, whole, strict=True):
        assert_same_end(ours, theirs)


def test_torchrun_restarts_after_a_lost_worker_and_goes_on_from_the_last_checkpoint(tmp_path):
    epochs = 4
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "--max-restarts", 1]
    # Without the variable, torch may connect to the dead worker (gloo, also without Lightning and this package).
    done = run_script(
        [*torchrun, "-m", "tests.workers.elastic", tmp_path, epochs, 23],
        environment={"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )
    assert done.returncode == 0, done.stdout
    whole = run_ranks(fault_ranks.resumable, tmp_path / "whole", epochs, folder=tmp_path / "whole")
    for number, theirs in enumerate(whole):
        ours = torch.load(tmp_path / f"rank{number}.pt")
        assert ours["start"] == 20
        assert_same_end(ours, theirs)
