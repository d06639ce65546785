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
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import torch

from lightning_uncertainty._warnings import is_main_rank
from lightning_uncertainty.comparison.arms import Arm, ComparisonError
from lightning_uncertainty.comparison.fingerprint import own_files
from lightning_uncertainty.comparison.parts import Evaluation, Source, Start, seed_everything
from lightning_uncertainty.comparison.progress import Bar, RunAdvance
from lightning_uncertainty.comparison.store import FinishedRun, RunFolder
from lightning_uncertainty.trainer.attachment import attached_weighting
from lightning_uncertainty.trainer.packages import callbacks_of, quiet_lightning

__all__ = ["Job", "RunError", "check_can_be_sent", "run_jobs"]

_NEWS_EVERY = 0.1  # seconds between two messages of a worker about its progress


class RunError(RuntimeError):
    """A worker failed: the message names its run and has the traceback. It is the cause of the error that is raised."""


@dataclass(frozen=True)
class Job:
    """A run that is to be trained.

    Attributes:
        source: The source of its parts.
        arm: The way in which the losses are weighed.
        folder: The folder where it is stored.
        evaluate: The evaluation.
        state: The state of the network that is evaluated.
    """

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
        """Train, evaluate and store.

        Args:
            tell: Takes the fraction of the training that is done.
        """
        start, begin, seed = Start(), time.perf_counter(), self.folder.seed
        path = self.folder.begin() if is_main_rank() else self.folder.path
        seed_everything(seed)
        parts = self.source.build(seed, path, rehearsal=False)
        self.arm.apply(parts.module, parts.trainer)
        # Processes that are spawned or forked would keep what these see, and could not even be given a bar.
        if not hasattr(parts.trainer.strategy.launcher, "get_extra_results"):
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
    """Run all jobs and yield each run when it has finished.

    Args:
        jobs: The runs that are to be trained.
        workers: Number of processes; 1 trains in this one, with its threads.
        bar: Shows the progress.

    Raises:
        ComparisonError: if a job cannot be sent to a worker.
        RunError: if a worker has ended in the middle of a run.
    """
    if workers > 1 and jobs:
        with _Workers(min(workers, len(jobs)), bar) as pool:
            yield from pool.run(jobs)
        return
    for job in jobs:
        bar.begin(job.title)
        yield job.run(lambda fraction, title=job.title: bar.reach(title, fraction))  # type: ignore[misc]
        bar.end(job.title)


def check_can_be_sent(job: Job) -> bytes:
    """Return a job as bytes for a worker.

    Raises:
        ComparisonError: if that cannot be done.
    """
    advice = (
        "Write what makes the module and the data at the top level of a file, with functools.partial for arguments: "
        "`compare(functools.partial(Net, width=64), ...)`; or write workers=1."
    )
    try:
        content = pickle.dumps(job)
    except Exception as error:
        raise ComparisonError(
            f"Several workers need a module, data and Trainer options that can be sent to other processes: no lambda, "
            f"and no class or function inside another function. Found: {error}. {advice}"
        ) from error
    if b"__main__" in content and not hasattr(sys.modules["__main__"], "__file__"):
        raise ComparisonError(f"Several workers cannot see what was typed into a notebook or an interpreter. {advice}")
    return content


class _Workers:
    """Worker processes, which end with the block: at once if it is left by an error or by Ctrl-C."""

    def __init__(self, number: int, bar: Bar) -> None:
        self._number, self._bar = number, bar
        self._processes: dict[Any, BaseProcess] = {}  # by connection, whose class depends on the system
        self._jobs: dict[Any, Job] = {}
        self._said: dict[Any, Any] = {}  # of the warnings, as a module has it

    def __enter__(self) -> _Workers:
        spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        with _without_ctrl_c():
            for _ in range(self._number):
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=_work, args=(theirs,))
                process.start()
                theirs.close()
                self._processes[ours] = process
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for connection, process in self._processes.items():
            if kind is not None:
                process.kill()  # nobody waits for trainings that are under way: what was finished is on disk
            connection.close()
        for process in self._processes.values():
            process.join()

    def run(self, jobs: Sequence[Job]) -> Iterator[FinishedRun]:
        """Yield each run when it has finished."""
        waiting = list(reversed(jobs))
        for connection in self._processes:
            self._give(connection, waiting.pop())
        while self._jobs:
            for connection in wait(list(self._jobs)):
                run = self._hear(connection)
                if run is not None:
                    self._bar.end(self._jobs.pop(connection).title)
                    if waiting:
                        self._give(connection, waiting.pop())
                    yield run

    def _give(self, connection: Any, job: Job) -> None:
        content = check_can_be_sent(job)
        try:
            connection.send_bytes(content)
        except ConnectionError:
            raise self._ended(connection, job.title) from None
        self._jobs[connection] = job
        self._bar.begin(job.title)

    def _hear(self, connection: Any) -> FinishedRun | None:
        """Take one message of a worker; return the run if it has finished."""
        title = self._jobs[connection].title
        try:
            kind, content = connection.recv()
        except (EOFError, ConnectionError):
            raise self._ended(connection, title) from None
        if kind == "reached":
            self._bar.reach(title, content)
        elif kind == "warning":
            message, category, filename, lineno = content
            warnings.warn_explicit(message, category, filename, lineno, registry=self._said)
        elif kind == "failed":
            error, text = content
            raise error from RunError(f"The run '{title}' failed in its worker.\n\n{text}")
        elif kind == "done":
            run: FinishedRun = content
            return run
        return None

    def _ended(self, connection: Any, title: str) -> RunError:
        process = self._processes[connection]
        process.join()
        return RunError(
            f"The worker of the run '{title}' has ended with exit code {process.exitcode}. If it has not said why: "
            'a script that calls `compare` with workers must do it below `if __name__ == "__main__":`, and a worker '
            "that the system kills (-9) lacked memory, so use fewer workers."
        )


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
    lock, told = threading.Lock(), 0.0

    def send(kind: str, content: Any) -> None:
        with lock:  # threads of loaders may warn
            connection.send((kind, content))

    def tell(fraction: float) -> None:
        nonlocal told
        if time.monotonic() - told > _NEWS_EVERY:
            told = time.monotonic()
            send("reached", fraction)

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        send("warning", (str(message), category, filename, lineno))

    warnings.showwarning = show  # type: ignore[assignment]  # it takes no file
    with quiet_lightning(), suppress(EOFError):  # the other side has closed the connection
        while True:
            content = connection.recv_bytes()
            try:
                send("done", pickle.loads(content).run(tell))
            except BaseException as error:
                send("failed", (_sendable(error), traceback.format_exc()))


def _sendable(error: BaseException) -> BaseException:
    """Return the error, or one that can be sent and does not end the process that hears of it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


def _end_with_parent() -> None:
    """End this process with the one that started it, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
