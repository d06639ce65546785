"""Runs: kept in folders, trained one after the other in this process, or side by side in worker processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_uncertainty._warnings import is_main_rank
from lightning_uncertainty.comparison.arms import Arm, ComparisonError
from lightning_uncertainty.comparison.fingerprint import digest, digest_file, own_files
from lightning_uncertainty.comparison.parts import Evaluation, Source, Start, seed_everything
from lightning_uncertainty.comparison.progress import Bar, RunAdvance
from lightning_uncertainty.comparison.result import FinishedRun, from_json, to_json
from lightning_uncertainty.reporting.files import write_whole
from lightning_uncertainty.trainer.attachment import attached_weighting
from lightning_uncertainty.trainer.packages import brings_state_home, callbacks_of, quiet_lightning


class RunError(RuntimeError):
    """A run failed in its worker: the message names the run and has the traceback."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: its logs, and ``run.json`` once it has finished.

    ``definition`` has the settings that define the run, as plain data.
    """

    parent: Path
    arm: str
    seed: int
    definition: Any

    @property
    def path(self) -> Path:
        """``<arm>-seed<seed>-<digest of the definition>``."""
        return self.parent / f"{self.arm}-seed{self.seed}-{digest(self.definition)}"

    def read(self) -> FinishedRun | None:
        """Return the finished run; None if there is none, its code has changed, or its file is not whole."""
        try:
            content = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            definition, files, parent = content.pop("definition"), content.pop("files"), self.parent.resolve()
            unchanged = all(digest_file(parent / path) == known for path, known in files.items())
            return from_json(content, self.path) if unchanged and definition == self.definition else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def begin(self) -> Path:
        """Return the folder, empty: what an interrupted run left in it is gone."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        return self.path

    def write(self, run: FinishedRun) -> None:
        """Store a run with its definition and the user's files that were imported for it."""
        script = '"__main__.' in json.dumps(self.definition)
        # By their paths from the comparison's folder, so that both can move together.
        files = {_relative(path, self.parent): known for path, known in own_files(script=script).items()}
        content = {**to_json(run), "definition": self.definition, "files": files}
        write_whole(self.path / "run.json", json.dumps(content, indent=2))


def _relative(path: str, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder.resolve())
    except ValueError:  # on another drive of Windows
        return path


@dataclass(frozen=True)
class Job:
    """A run that is to be trained."""

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
        learned = any(task.likelihood.learned for task in engine.tasks.values())
        strategy = engine.strategy.name if learned else ""
        seen = start.seen, engine.weights, factors
        run = FinishedRun(self.folder.arm, seed, metrics, seconds, *seen, folder=path, strategy=strategy)
        if is_main_rank():
            self.folder.write(run)
        parts.trainer.strategy.barrier("run stored")  # whoever compares next finds it, on every rank
        return run


def run_jobs(jobs: Sequence[Job], *, workers: int, bar: Bar) -> Generator[FinishedRun]:
    """Run all jobs, in this process or in several workers, and yield each run when it has finished."""
    if workers > 1:
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


def _run_in_workers(jobs: Sequence[Job], number: int, bar: Bar) -> Generator[FinishedRun]:
    waiting, said = list(reversed(jobs)), dict[Any, Any]()
    with _without_ctrl_c():
        workers = {worker.connection: worker for worker in (_Worker() for _ in range(number))}
    try:
        for worker in workers.values():
            worker.give(waiting.pop(), bar)
        while workers:
            for worker in [workers[connection] for connection in wait(list(workers))]:  # type: ignore[index]
                kind, content = worker.hear()
                if kind == "reached":
                    bar.reach(worker.title, content)
                elif kind == "warning":
                    message, category, filename, line = content
                    warnings.warn_explicit(message, category, filename, line, registry=said)
                elif kind == "failed":
                    raise RunError(f"The run '{worker.title}' failed in its worker.\n\n{content}")
                else:
                    bar.reach(worker.title)
                    if waiting:
                        worker.give(waiting.pop(), bar)
                    else:
                        del workers[worker.connection]
                        worker.connection.close()  # by which it ends
                        worker.process.join()
                    yield content
    finally:
        for worker in workers.values():
            worker.process.kill()  # nobody waits for trainings that are under way: what was finished is on disk
            worker.process.join()


class _Worker:
    """A process that trains one run after the other, and the connection to it."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_work, args=(theirs,))
        self.process.start()
        theirs.close()

    def give(self, job: Job, bar: Bar) -> None:
        self.title = job.title
        bar.begin(self.title)
        with suppress(ConnectionError):  # then there is nothing to hear either
            self.connection.send_bytes(check_can_be_sent(job))

    def hear(self) -> Any:
        """Return the next message, its kind and its content."""
        try:
            return self.connection.recv()
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
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


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
            except BaseException:
                send("failed", traceback.format_exc())


def _end_with_parent() -> None:
    """End this process with the one that started it, even if that was killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
