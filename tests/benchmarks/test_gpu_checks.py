"""benchmarks/gpu_checks.py runs where there is no GPU too, and can fail."""

import pytest
import torch

from benchmarks import gpu_checks

NEED_A_GPU = {
    "Trainer, 16-mixed, Lightning's scaler",
    "no synchronisation, Trainer",
    "no synchronisation, engine",
    "compile_step",
}


def table(text):
    """Result and remark by check."""
    lines = text.split("\n\n")[1].splitlines()
    return {line[:42].strip(): (line[43:51].strip(), line[52:]) for line in lines}


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch._dynamo.reset()
    torch.set_flush_denormal(False)  # inductor leaves it on


def test_every_check_passes_here_or_says_that_it_needs_a_gpu(capsys):
    assert gpu_checks.main() == 0
    printed = capsys.readouterr().out
    assert printed.startswith("machine: ")
    assert f"torch {torch.__version__}" in printed
    results = {name: result for name, (result, _) in table(printed).items()}
    not_run = set() if gpu_checks.CUDA else NEED_A_GPU
    expected = {name: "not run" if name in not_run else "ok" for name in gpu_checks.CHECKS}
    assert results == {**expected, **dict.fromkeys(gpu_checks.MEASUREMENTS, "measured")}
    assert {name for name in expected if "16" in name} >= {"Trainer, 16-true", "Trainer, bf16-mixed"}


def test_a_check_that_fails_is_told_and_hides_no_other(capsys, monkeypatch):
    checks = {
        "fails": lambda: gpu_checks.check(False, "too far"),
        "breaks": lambda: 1 / 0,
        "passes": lambda: gpu_checks.check(True, "near"),
    }
    monkeypatch.setattr(gpu_checks, "CHECKS", checks)
    monkeypatch.setattr(gpu_checks, "MEASUREMENTS", {})
    assert gpu_checks.main() == 1
    assert table(capsys.readouterr().out) == {
        "fails": ("FAILED", "AssertionError: too far"),
        "breaks": ("FAILED", "ZeroDivisionError: division by zero"),
        "passes": ("ok", "near"),
    }


def test_a_wrong_sigma_fails_the_checks_of_precision_and_overflow(monkeypatch):
    """Nobody steps, or a loss in fp16 is never infinite: each check that should notice does."""
    monkeypatch.setattr(gpu_checks, "OVERFLOWS", ())
    monkeypatch.setattr(gpu_checks, "EPS", dict.fromkeys(gpu_checks.EPS, 0.0))
    with gpu_checks.quiet():
        with pytest.raises(AssertionError, match="40 steps"):
            gpu_checks.precision("16-true")
        monkeypatch.setattr(gpu_checks.UncertaintyWeighting, "_learn", lambda *_: None)
        with pytest.raises(AssertionError, match="batches that moved nothing"):
            gpu_checks.overflow("16-true")
