"""Runs one after the other in this process, or side by side in worker processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Literal

import torch

from lightning_uncertainty._warnings import is_main_rank
from lightning_uncertainty.comparison.arms import Arm, ComparisonError
from lightning_uncertainty.comparison.fingerprint import own_files
from lightning_uncertainty.comparison.parts import Evaluation, Source, Start, seed_everything
from lightning_uncertainty.comparison.progress import Bar, RunAdvance
from lightning_uncertainty.comparison.store import FinishedRun, RunFolder
from lightning_uncertainty.trainer.attachment import attached_weighting
from lightning_uncertainty.trainer.packages import brings_state_home, callbacks_of, quiet_lightning

__all__ = ["Job", "RunError", "check_can_be_sent", "run_jobs"]


class RunError(RuntimeError):
    """A worker failed: the message names its run and has the traceback. It is the cause of the error that is raised."""


@dataclass(frozen=True)
class Job:
    """A run that is to be trained: the source of its parts, its arm and folder, and what is evaluated in the end."""

    source: Source
    arm: Arm
    folder: RunFolder
    evaluate: Evaluation
    state: Literal["last", "best"]

    @property
    def title(self) -> str:
        """Arm and seed, for people."""
        return f"{self.folder.arm}, seed {self.folder.seed}"

    def run(self, tell: Callable[[float], None]) -> FinishedRun:
        """Train, evaluate and store; ``tell`` takes the fraction of the training that is done."""
        start, begin, seed = Start(), time.perf_counter(), self.folder.seed
        path = self.folder.begin() if is_main_rank() else self.folder.path
        seed_everything(seed)
        parts = self.source.build(seed, path, rehearsal=False)
        self.arm.apply(parts.module, parts.trainer)
        # Processes that are spawned or forked would keep what these see, and could not even be given a bar.
        if not brings_state_home(parts.trainer):
            callbacks_of(parts.trainer)[:0] = [start, RunAdvance(tell)]
        own_files(script=True)  # as they are now is what this process has imported, whatever is edited meanwhile
        parts.fit()
        seed_everything(seed)  # whatever the training drew
        metrics = parts.evaluate(self.evaluate, best=self.state == "best")
        engine = attached_weighting(parts.module)
        assert engine is not None  # the callback has attached it
        factors = {name: task.factor for name, task in engine.snapshot().tasks.items()}
        seconds = time.perf_counter() - begin
        run = FinishedRun(self.folder.arm, seed, metrics, seconds, start.seen, engine.weights, factors, path)
        if is_main_rank():
            self.folder.write(run)
        parts.trainer.strategy.barrier("run stored")  # whoever compares next finds it, on every rank
        return run


def run_jobs(jobs: Sequence[Job], *, workers: int, bar: Bar) -> Iterator[FinishedRun]:
    """Run all jobs, in this process or in several workers, and yield each run when it has finished.

    Raises:
        ComparisonError: if a job cannot be sent to a worker.
        RunError: if a worker has ended in the middle of a run.
    """
    if workers > 1 and jobs:
        yield from _run_in_workers(jobs, min(workers, len(jobs)), bar)
        return
    for job in jobs:
        bar.begin(job.title)
        yield job.run(partial(bar.reach, job.title))
        bar.reach(job.title)


def check_can_be_sent(job: Job) -> bytes:
    """Return a job as bytes for a worker; raise ``ComparisonError`` if that cannot be done."""
    try:
        content = pickle.dumps(job)
        if b"__main__" in content and not hasattr(sys.modules["__main__"], "__file__"):
            raise pickle.PicklingError("a part of __main__, which is no file")
    except Exception as error:
        raise ComparisonError(
            "Several workers need a module, data and Trainer options that can be sent to other processes: no lambda, "
            f"and no class or function inside another function or typed into a notebook. Found: {error}. Write what "
            "makes the module and the data at the top level of a file, with functools.partial for arguments: "
            "`compare(functools.partial(Net, width=64), ...)`; or write workers=1."
        ) from error
    return content


def _run_in_workers(jobs: Sequence[Job], number: int, bar: Bar) -> Iterator[FinishedRun]:
    waiting, said = list(reversed(jobs)), dict[Any, Any]()
    workers: list[_Worker] = []
    try:
        with _without_ctrl_c():
            workers.extend(_Worker() for _ in range(number))
        busy = {worker.connection: worker for worker in workers}
        for worker in workers:
            worker.give(waiting.pop(), bar)
        while busy:
            for worker in [busy[connection] for connection in wait(list(busy))]:  # type: ignore[index]
                kind, content = worker.hear()
                if kind == "reached":
                    bar.reach(worker.title, content)
                elif kind == "warning":
                    message, category, filename, line = content
                    warnings.warn_explicit(message, category, filename, line, registry=said)
                elif kind == "failed":
                    error, text = content
                    raise error from RunError(f"The run '{worker.title}' failed in its worker.\n\n{text}")
                else:
                    bar.reach(worker.title)
                    if waiting:
                        worker.give(waiting.pop(), bar)
                    else:
                        del busy[worker.connection]
                    yield content
    except BaseException:
        for worker in workers:
            worker.process.kill()  # nobody waits for trainings that are under way: what was finished is on disk
        raise
    finally:
        for worker in workers:
            worker.connection.close()  # by which it ends
        for worker in workers:
            worker.process.join()


class _Worker:
    """A process that trains one run after the other, and the connection to it."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_work, args=(theirs,))
        self.process.start()
        theirs.close()
        self.title = ""

    def give(self, job: Job, bar: Bar) -> None:
        self.title, content = job.title, check_can_be_sent(job)
        with self._missed():
            self.connection.send_bytes(content)
        bar.begin(self.title)

    def hear(self) -> Any:
        """Return the next message, its kind and its content."""
        with self._missed():
            return self.connection.recv()

    @contextmanager
    def _missed(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError):
            self.process.join()
            raise RunError(
                f"The worker of the run '{self.title}' has ended with exit code {self.process.exitcode}. If it has not "
                'said why: a script that calls `compare` with workers must do it below `if __name__ == "__main__":`, '
                "and a worker that the system kills (-9) lacked memory, so use fewer workers."
            ) from None


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Ignore Ctrl-C within. A process that is started meanwhile ignores it from its first moment."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------------ in a worker


def _work(connection: Any) -> None:
    """Train job after job until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the process that compares ends workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock:  # threads of loaders may warn
            connection.send((kind, content))

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        send("warning", (str(message), category, filename, lineno))

    warnings.showwarning = show  # type: ignore[assignment]  # it takes no file
    with quiet_lightning(), suppress(EOFError):  # the other side has closed the connection
        while True:
            content = connection.recv_bytes()
            try:
                send("done", pickle.loads(content).run(partial(send, "reached")))
            except BaseException as error:
                send("failed", (_sendable(error), traceback.format_exc()))


def _sendable(error: BaseException) -> BaseException:
    """Return the error, or one that can be sent and does not end the process that hears of it."""
    try:
        as_it_is = isinstance(pickle.loads(pickle.dumps(error)), Exception)
    except Exception:
        as_it_is = False
    return error if as_it_is else RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """End this process with the one that started it, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
