"""Two hosts with two processes each, as network namespaces: real torchrun, real TCP, nothing shared but a folder."""

import os
import subprocess
import sys

import pytest
import torch

from tests.trainer.test_faults_distributed import assert_same_end
from tests.workers.processes import ROOT
from tests.workers.two_hosts import BATCHES, EPOCHS

STEPS = EPOCHS * BATCHES
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
    script = [ROOT / "tests" / "workers" / "two_hosts.sh", tmp_path]
    done = subprocess.run(
        script, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=500, check=False
    )
    logs = "\n".join(f"-- {path}\n{path.read_text()[-4000:]}" for path in sorted(tmp_path.glob("*/*.log")))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{logs}"
    assert "the first host ended with an error" in done.stdout
    whole, resumed = ([torch.load(tmp_path / run / f"rank{r}.pt") for r in range(4)] for run in ("whole", "resumed"))
    for record in whole:
        assert (record["start"], record["step"]) == (0, STEPS)
        assert_same_end(record, whole[0])
        size = 6 * TASKS
        assert record["calls"] == [("all_reduce", 2 * TASKS)] + STEPS * [("all_reduce", size)]
    for record, twin in zip(resumed, whole, strict=True):
        assert 50 <= record["start"] < STEPS
        assert_same_end(record, twin)
        assert record["calls"] == (STEPS - record["start"]) * [("all_reduce", size)]
