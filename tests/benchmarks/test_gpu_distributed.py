"""benchmarks/gpu_distributed.py runs on the CPU what needs no GPU, and can fail."""

import re

import pytest

from benchmarks import gpu_distributed
from tests.workers.processes import ROOT

TWO = "ddp, 2 processes on one GPU, gloo"


@pytest.fixture(autouse=True)
def _ranks_find_the_package(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("case", [TWO, "fsdp2"])
def test_a_case_that_needs_no_gpu_trains_and_its_ranks_agree(case):
    result = gpu_distributed.run(case, "cpu")
    assert re.fullmatch(r"ran, 50 steps; ranks agree bit for bit; s = \[[-\d.]+, [-\d.]+\]", result), result


def test_of_a_case_that_fails_the_last_line_of_each_rank_is_told(tmp_path, monkeypatch):
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho Traceback\necho rank $LOCAL_RANK of $WORLD_SIZE has no GPU\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(failing))
    assert gpu_distributed.run(TWO) == "failed: rank 0 of 2 has no GPU | rank 1 of 2 has no GPU"


def test_without_a_gpu_it_names_what_waits_for_one(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_distributed.main() == 1
    printed = capsys.readouterr().out
    assert printed.startswith("No GPU: nothing was run.")
    assert all(case in printed for case in gpu_distributed.CASES)


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ("ran, 50 steps; ranks agree bit for bit", 0),
        ("ran, 50 steps; ranks DIFFER", 1),
        ("failed: no such thing", 1),
        ("did not end within 300 s", 1),
    ],
)
def test_the_status_tells_whether_each_case_ran_and_agreed(capsys, monkeypatch, result, status):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "a GPU")
    well = "ran, 50 steps; ranks agree bit for bit"
    monkeypatch.setattr(gpu_distributed, "run", lambda case: result if case == "fsdp2" else well)
    assert gpu_distributed.main() == status
    assert f"fsdp2: {result}\n" in capsys.readouterr().out
