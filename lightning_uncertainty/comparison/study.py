"""The comparison itself: rehearse, run what is not done yet, and put the results together."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lightning_uncertainty._arguments import as_number, check_choice, require
from lightning_uncertainty._warnings import Notices, is_main_rank
from lightning_uncertainty.comparison.arms import EQUAL, Arm, parse_arms
from lightning_uncertainty.comparison.fingerprint import describe, describe_module
from lightning_uncertainty.comparison.parts import (
    Evaluation,
    Options,
    PythonSource,
    Source,
    lightning_of,
    random_state_kept,
    seed_everything,
)
from lightning_uncertainty.comparison.progress import progress_bar
from lightning_uncertainty.comparison.rehearsal import rehearse
from lightning_uncertainty.comparison.result import ComparisonResult
from lightning_uncertainty.comparison.runs import Job, check_can_be_sent, run_jobs
from lightning_uncertainty.comparison.statistics import Direction, check_directions
from lightning_uncertainty.comparison.store import FinishedRun, RunFolder
from lightning_uncertainty.trainer.packages import quiet_lightning

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

__all__ = ["Plan", "compare", "run_plan"]


def compare(
    make_module: Callable[[], LightningModule],
    data: Any = None,
    *,
    metrics: Mapping[str, Direction],
    seeds: Sequence[int] = (0, 1, 2),
    trainer: Options | None = None,
    arms: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Mapping[str, float]] | None = None,
    baseline: str = EQUAL,
    evaluate: Evaluation = "validate",
    state: Literal["last", "best"] = "last",
    folder: str | os.PathLike[str] = "comparison",
    version: str = "",
    workers: int = 1,
    progress: bool | None = None,
) -> ComparisonResult:
    """Compare ways to weigh the losses: the same module and data with equal, learned and other weights.

    For each seed it trains one network per arm. All arms of a seed start from the same initial weights and see the same
    batches (both are checked), so that they are compared in pairs. No code of the network changes: in the arms
    without learning, the tasks get fixed weights, 1 in the arm ``"equal"``; tasks that the module gives a fixed weight
    keep it. The learned arm takes the options of an ``UncertaintyCallback`` among the Trainer's callbacks, if any.

    First of all, one batch is trained and evaluated, to find out within seconds what cannot work. Then every finished
    run is stored in ``folder`` and not run again, unless something that defines it has changed: the seed, the weights
    and options of its arm, the attributes and initial weights of the module, the data as far as it can be described,
    the Trainer's options, the versions of torch, Lightning and this package, or one of your own source files that were
    imported when the run ended. (The script that calls ``compare`` counts if it defines a part of the run; in a
    notebook, only the classes and functions count that are given to ``compare``.) An interrupted run starts anew.

    Args:
        make_module: Makes a new LightningModule; called for each run, right after seeding.
        data: A LightningDataModule, loaders by name (``{"train": ..., "val": ..., "test": ...}``), or, safest, a class
            or function that makes one of them for each run (an object with a generator of its own would go on where
            the last run ended); None if the module has its own loaders.
        metrics: ``"min"`` or ``"max"`` by name, as in ``trainer.callback_metrics`` after the evaluation. They must not
            depend on the weights of the losses; the weighted total does, and is refused.
        seeds: Seeds of the runs; with one there is no telling a difference from noise.
        trainer: Options of the Trainer, copied for each run; or a function that makes them, from the folder of the
            run. Logs go to that folder, unless ``logger`` is among the options.
        arms: More arms by their names. An arm is one of: options of the callback (``{"lr": 0.02}``,
            ``{"freeze_after": 0}``, ``{"tasks": {...}}``), which count over those of the callback that is there;
            weights of the losses by task (0 leaves a task out: it gives no gradient); a strategy; or a function that
            returns one of these for a seed. Equal and learned weights are arms in any case: one of these names gives
            them other options or weights, and None leaves them out (``{"equal": None}``).
        fixed: A short form for arms of given weights: weights of the losses by task, by the name of the arm.
        baseline: The arm that the others are compared with.
        evaluate: ``"validate"`` or ``"test"``.
        state: The state of the network that is evaluated: as it is at the end (``"last"``), or as the ModelCheckpoint
            among the callbacks found it ``"best"``.
        folder: Folder of the runs and tables.
        version: A part of the definition of each run; change it when something has changed that cannot be seen, such
            as the content of a file that the data is read from.
        workers: Number of trainings side by side, each in a process of its own with one thread. Module and data must
            then be importable: no lambda, and nothing typed into a notebook. With 1 the runs are trained in this
            process, with its threads; after ``torch.set_num_threads(1)`` the numbers are the same.
        progress: True or False to show a bar or not; by default it is shown on a terminal, if rich is installed.

    Returns:
        The metrics of all runs, with tables and a sentence. They are also in ``folder``, as ``comparison.json`` (see
        ``ComparisonResult.load``), ``comparison.csv`` and ``comparison.md``.

    Raises:
        ValueError: if an argument is not valid, the module has no tasks, there is no data, a metric is unknown or
            depends on the weights, or something cannot be sent to workers.
        TypeError: if ``make_module``, ``data`` or ``trainer`` is of a type that cannot be used.

    Example::

        result = compare(Net, Data, metrics={"val/mae": "min", "val/accuracy": "max"}, trainer={"max_epochs": 10})
        print(result)
    """
    chosen = parse_arms(arms or {}, fixed or {}, baseline)
    plan = Plan(metrics, seeds, chosen, evaluate, state, Path(folder), version, workers)
    return run_plan(plan, PythonSource(make_module, data, trainer or {}), progress=progress)


@dataclass(frozen=True)
class Plan:
    """The checked arguments of :func:`compare`, which describes them; the first of ``arms`` is the baseline."""

    metrics: Mapping[str, Direction]
    seeds: Sequence[int]
    arms: Sequence[Arm]
    evaluate: Evaluation
    state: Literal["last", "best"]
    folder: Path
    version: str = ""
    workers: int = 1

    def __post_init__(self) -> None:
        check_directions(self.metrics)
        check_choice("evaluate", self.evaluate, ("validate", "test"))
        check_choice("state", self.state, ("last", "best"))
        seeds, workers = [as_number(seed) for seed in self.seeds], as_number(self.workers)
        whole = all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds)
        if not seeds or not whole or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be different whole numbers from 0 to {2**32 - 1}; got {list(self.seeds)!r}.")
        if not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers must be a whole number of at least 1; got {self.workers!r}.")
        for name, value in (("seeds", seeds), ("workers", workers)):
            object.__setattr__(self, name, value)


def run_plan(plan: Plan, source: Source, *, progress: bool | None = None) -> ComparisonResult:
    """Run what is not done yet, and write the tables. Arguments and errors are those of :func:`compare`."""
    require("compare", "scipy")  # better said now than after all runs
    runs: dict[tuple[str, int], FinishedRun] = {}
    names = [arm.name for arm in plan.arms]
    with random_state_kept(), quiet_lightning(), closing(_run_all(plan, source, progress)) as finished:
        for run in finished:
            runs[run.arm, run.seed] = run
            done = [runs[key] for key in product(names, plan.seeds) if key in runs]
            result = ComparisonResult(plan.metrics, names, list(plan.seeds), done)
            if is_main_rank() and (result.finished or not run.reused):
                result.write(plan.folder)
    return result


def _run_all(plan: Plan, source: Source, progress: bool | None) -> Generator[FinishedRun]:
    # Decided once, before anything runs: processes that start later, as for DDP, come to the same list.
    jobs = [job for seed in plan.seeds for job in _jobs(plan, source, seed)]
    found = {job.title: run for job in jobs if (run := job.folder.read()) is not None}
    left = [job for job in jobs if job.title not in found]
    if left:
        if plan.workers > 1:
            check_can_be_sent(left[0])
        rehearse(source, plan)
    notices, first = Notices(), dict[int, FinishedRun]()
    with progress_bar(len(jobs), len(found), wanted=progress) as bar:
        for run in chain(found.values(), run_jobs(left, workers=plan.workers, bar=bar)):
            _check_pair(first.setdefault(run.seed, run), run, notices)
            yield run


def _jobs(plan: Plan, source: Source, seed: int) -> list[Job]:
    """Return the runs of all arms; the names of their folders depend on all settings."""
    seed_everything(seed)
    module = source.module(seed)
    common = {
        "module": describe_module(module),
        "evaluate": plan.evaluate,
        "state": plan.state,
        "version": plan.version,
        "torch": torch.__version__,
        "lightning": lightning_of(type(module)).__version__,
        "lightning_uncertainty": import_module("lightning_uncertainty").__version__,
    }
    jobs = []
    for arm in (each.at(seed) for each in plan.arms):
        own = {"weights": arm.weights, "options": describe(arm.options)}
        definition = {**common, **own, "settings": source.settings(learned=arm.weights is None)}
        folder = RunFolder(plan.folder, arm.name, seed, definition)
        jobs.append(Job(source, arm, folder, plan.evaluate, plan.state))
    return jobs


def _check_pair(first: FinishedRun, run: FinishedRun, notices: Notices) -> None:
    """Warn if the arms of a seed differ in more than their weights."""
    if differing := [what for what in first.start if run.start.get(what, first.start[what]) != first.start[what]]:
        notices.warn(
            "not paired",
            f"The arms {first.arm!r} and {run.arm!r} of seed {run.seed} did not start alike: {', '.join(differing)} "
            "differ. The comparison then has more noise than it needs. Make the module and the data anew for each run, "
            "with functions that draw all that is random from the global generators of torch, numpy and Python.",
        )
