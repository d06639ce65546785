"""Trainings side by side: the same numbers, and an end when the comparison ends."""

import functools
import os
import signal
import subprocess
import sys
import warnings

import pytest
import torch

from lightning_uncertainty.comparison import ComparisonError, RunError
from tests.comparison.test_study import QUICK, Net, run, serve
from tests.workers import comparison_runs
from tests.workers.comparison_runs import Failing, Killed, Telling
from tests.workers.processes import ROOT


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_two_workers_give_the_numbers_of_one_process_bit_for_bit(tmp_path, monkeypatch):
    """And warn like it, and move the bar to its end, and use one thread each."""
    from rich.progress import Progress

    reached, trainer = [], {**QUICK, "logger": False}  # in the workers its pictures would be drawn
    monkeypatch.setattr(Progress, "update", lambda *_, **fields: reached.append(fields.get("completed", 0.0)))
    results = []
    for workers in (1, 2):
        reached.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("once", category=DeprecationWarning)
            folder = tmp_path / str(workers)
            options = {"arms": {"mine": {"a": 0.1, "b": 3.0}}, "workers": workers, "folder": folder, "progress": True}
            results.append(run(tmp_path, Telling, trainer=trainer, **options))
        assert [str(each.message) for each in caught].count("once is enough") >= 1
        assert reached[-1] == 6.0
    one, two = ([(r.arm, r.seed, r.metrics, r.weights, r.factors, r.start) for r in each.runs] for each in results)
    assert one == two
    assert {r.metrics["threads"] for r in results[1].runs} == {1.0}
    assert all(r.reused for r in run(tmp_path, Telling, trainer=trainer, folder=tmp_path / "2", seeds=[0]).runs)


@pytest.mark.usefixtures("forked_workers")
def test_an_error_in_a_worker_comes_with_the_name_of_its_run_and_its_traceback(tmp_path):
    with pytest.raises(RunError, match="OSError: the disk is full") as caught:
        run(tmp_path, Failing, seeds=[4], workers=2)
    assert "seed 4' failed in its worker" in str(caught.value)
    assert "in fail\n    raise OSError" in str(caught.value)


@pytest.mark.usefixtures("forked_workers")
def test_a_worker_that_is_killed_is_missed(tmp_path):
    with pytest.raises(RunError, match=r"The worker of the run '\w+, seed 0' has ended with exit code -9"):
        run(tmp_path, Killed, seeds=[0], workers=2)


class Local:
    """A place for a class that other processes cannot import."""

    def make(self):
        class Hidden(Net):
            pass

        return Hidden()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"make_module": lambda: Net()}, "top level of a file, with functools.partial"),
        ({"data": lambda: serve()}, "no lambda, and no class or function inside another"),
        ({"trainer": {**QUICK, "strategy": "ddp", "devices": 2}}, "DDPStrategy starts 2 processes for each training"),
        ({"workers": 0}, "workers must be a whole number of at least 1; got 0"),
        ({"workers": True}, "workers must be a whole number of at least 1; got True"),
    ],
    ids=["module", "data", "DDP", "none", "no number"],
)
def test_what_cannot_be_done_by_workers_is_refused_before_any_run(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        run(tmp_path, **{"workers": 2, **options})
    assert not (tmp_path / "runs").exists()


def test_what_was_typed_into_a_notebook_is_refused(tmp_path, monkeypatch):
    typed = type("Typed", (Net,), {"__module__": "__main__"})
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # none under pytest-xdist
    monkeypatch.setattr(sys.modules["__main__"], "Typed", typed, raising=False)
    with pytest.raises(ComparisonError, match="typed into a notebook"):
        run(tmp_path, functools.partial(typed, lr=0.1), workers=2)


# ------------------------------------------------------------------------------------------------ the end


@pytest.fixture
def comparing(tmp_path):
    """A script whose two workers are in the middle of their runs; nothing of it is left afterwards."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    command = [sys.executable, "-W", "ignore", comparison_runs.__file__, str(tmp_path)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options) as process:
        pids = []
        try:
            pids += [int(process.stdout.readline()) for _ in range(2)]
            assert len(set(pids)) == 2
            yield process
        finally:  # nobody waits for what does not end
            for pid in (process.pid, *pids):
                if os.path.exists(f"/proc/{pid}"):
                    os.kill(pid, signal.SIGKILL)


def test_ctrl_c_ends_a_comparison_and_its_workers_at_once(comparing):
    """A terminal sends it to all of them; a worker that finished its training first would let everyone wait."""
    os.killpg(comparing.pid, signal.SIGINT)
    _, said = comparing.communicate(timeout=60)  # the pipe ends when nobody holds it any more
    assert said.strip() == "interrupted"  # no traceback of a worker
    assert comparing.returncode == 130


def test_workers_end_when_the_comparison_is_killed(comparing):
    comparing.kill()
    comparing.communicate(timeout=60)
