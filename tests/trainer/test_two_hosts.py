"""Two hosts with two processes each, as network namespaces: real torchrun, real TCP, nothing shared but a folder."""

import os
import subprocess
import sys

import pytest
import torch

from tests.trainer.test_faults_distributed import assert_same_end
from tests.workers import two_hosts
from tests.workers.processes import ROOT, run_ranks

STEPS = two_hosts.EPOCHS * two_hosts.BATCHES
TASKS = 5  # of the diamonds


def can_make_namespaces():
    """Whether this user may; on CI it has to."""
    if os.environ.get("CI"):
        return True
    probe = f"uncertainty-probe-{os.getpid()}"
    try:
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return made.returncode == 0


@pytest.mark.skipif(not can_make_namespaces(), reason="needs root and iproute2 (`apt-get install -y iproute2`)")
def test_two_hosts_train_together_and_go_on_after_one_was_lost(tmp_path):
    """And end where four processes on one host end, which nothing interrupted, bit for bit."""
    whole = run_ranks(two_hosts.train, tmp_path / "whole", folder=tmp_path / "whole", world=4)
    script, folder = ROOT / "tests" / "workers" / "two_hosts.sh", tmp_path / "resumed"
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([script, folder], env=environment, capture_output=True, text=True, timeout=500, check=False)
    logs = "\n".join(f"-- {path}\n{path.read_text()[-4000:]}" for path in sorted(folder.glob("*.log")))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{logs}"
    assert "the first host ended with an error" in done.stdout
    size = 6 * TASKS
    for record in whole:
        assert (record["start"], record["step"]) == (0, STEPS)
        assert_same_end(record, whole[0])
        assert record["calls"] == [("all_reduce", 2 * TASKS)] + STEPS * [("all_reduce", size)]
    for rank, twin in enumerate(whole):
        record = torch.load(folder / f"rank{rank}.pt")
        assert 50 <= record["start"] < STEPS
        assert_same_end(record, twin)
        assert record["calls"] == (STEPS - record["start"]) * [("all_reduce", size)]
