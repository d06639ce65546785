"""The comparison itself: rehearse, run what is not done yet, and put the results together."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lightning_uncertainty._arguments import as_number, check_choice, require, suggest
from lightning_uncertainty._warnings import Notices, is_main_rank
from lightning_uncertainty.comparison.arms import EQUAL, LEARNED, Arm, ComparisonError, ours_in, parse_arms, tasks_of
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
from lightning_uncertainty.comparison.result import ComparisonResult, FinishedRun
from lightning_uncertainty.comparison.runs import Job, RunFolder, check_can_be_sent, run_jobs
from lightning_uncertainty.comparison.statistics import Direction, check_directions
from lightning_uncertainty.trainer.attachment import was_given
from lightning_uncertainty.trainer.packages import quiet_lightning

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


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
    batches (both are checked), so that they are compared in pairs. No code of the network changes. Tasks that the
    module gives a fixed weight keep it in the arm ``"equal"``; the learned arm takes the options of an
    ``UncertaintyCallback`` among the Trainer's callbacks, if any.

    First of all, one batch is trained and evaluated, to find out within seconds what cannot work. A finished run is
    stored in ``folder`` and not run again, unless its settings, a version, or one of your own source files that were
    imported when it ended have changed. (The script that calls ``compare`` counts if it defines a part of the run; in a
    notebook, only the classes and functions that are given to ``compare``.) An interrupted run starts anew.

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
            ``{"tasks": {...}}``), which count over those of the callback that is there; weights of the losses by task
            (0 leaves a task out); a strategy; or a function that returns one of these for a seed. Under the names
            ``"equal"`` and ``"learned"`` it replaces these arms, and None leaves them out (``{"equal": None}``).
        fixed: A short form for arms of given weights: weights of the losses by task, by the name of the arm.
        baseline: The arm that the others are compared with.
        evaluate: ``"validate"`` or ``"test"``.
        state: The state of the network that is evaluated: the ``"last"``, or the ``"best"`` of the ModelCheckpoint.
        folder: Folder of the runs and of ``comparison.json``.
        version: A part of the definition of each run; change it when something has changed that cannot be seen, such
            as the content of a file that the data is read from.
        workers: Number of trainings side by side, each in a process of its own with one thread. Module and data must
            then be importable: no lambda, and nothing typed into a notebook. With 1 the runs are trained in this
            process, with its threads; after ``torch.set_num_threads(1)`` the numbers are the same.
        progress: True or False to show a bar or not; by default it is shown on a terminal.

    Returns:
        The metrics of all runs, with a table and a sentence. ``ComparisonResult.load`` reads them from ``folder``.

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
    """Run what is not done yet. Arguments and errors are those of :func:`compare`."""
    require("compare", "rich", "scipy")  # better said now than after all runs
    with random_state_kept(), quiet_lightning():
        # Decided once, before anything runs: processes that start later, as for DDP, come to the same list.
        jobs = [job for seed in plan.seeds for job in _jobs(plan, source, seed)]
        runs = {(run.arm, run.seed): run for job in jobs if (run := job.folder.read()) is not None}
        left = [job for job in jobs if (job.arm.name, job.folder.seed) not in runs]
        if not left:
            return _put_together(plan, runs, Notices())
        if plan.workers > 1:
            check_can_be_sent(left[0])
        _rehearse(plan, source)
        notices, bar = Notices(), progress_bar(len(jobs), len(runs), wanted=progress)
        with bar as shown, closing(run_jobs(left, workers=plan.workers, bar=shown)) as trained:
            for run in trained:
                runs[run.arm, run.seed] = run
                result = _put_together(plan, runs, notices)
    return result


def _put_together(plan: Plan, runs: Mapping[tuple[str, int], FinishedRun], notices: Notices) -> ComparisonResult:
    """Return what is known so far, and write it; warn if the arms of a seed differ in more than their weights."""
    names, first = [arm.name for arm in plan.arms], dict[int, FinishedRun]()
    done = [runs[key] for key in product(names, plan.seeds) if key in runs]
    for run in done:
        known = first.setdefault(run.seed, run)
        if differing := [what for what, seen in known.start.items() if run.start.get(what, seen) != seen]:
            notices.warn(
                "not paired",
                f"The arms {known.arm!r} and {run.arm!r} of seed {run.seed} did not start alike: "
                f"{', '.join(differing)} differ. The comparison then has more noise than it needs. Make the module and "
                "the data anew for each run, with functions that draw all that is random from the global generators of "
                "torch, numpy and Python.",
            )
    result = ComparisonResult(plan.metrics, names, list(plan.seeds), done)
    if is_main_rank():
        result.write(plan.folder)
    return result


def _jobs(plan: Plan, source: Source, seed: int) -> list[Job]:
    """Return the runs of all arms, each with what defines it."""
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


def _rehearse(plan: Plan, source: Source) -> None:
    """Train and evaluate on one batch, with the weights learned; raise ``ComparisonError`` for what cannot work."""
    seed_everything(plan.seeds[0])
    with tempfile.TemporaryDirectory() as folder:
        parts = source.build(plan.seeds[0], Path(folder), rehearsal=True)
        if source.module(plan.seeds[0]) is parts.module:
            raise ComparisonError("The function gave the same module twice. It has to make a new one in each call.")
        Arm(LEARNED).apply(parts.module, parts.trainer)
        tasks = tasks_of(parts.module, parts.trainer)
        for arm in plan.arms:
            for seed in plan.seeds:
                arm.at(seed).check(tasks, given=was_given(parts.module))
        parts.check_data(plan.evaluate)
        _check_trainer(plan, parts.trainer)
        parts.fit()
        seed_everything(plan.seeds[0])
        known = parts.evaluate(plan.evaluate)
        for name in plan.metrics:
            if name not in known:
                ours = tuple(f"{callback.log_prefix}/" for callback in ours_in(parts.trainer))
                hint = suggest(name, [key for key in known if not key.startswith(ours)] or known)
                raise ComparisonError(f"After `trainer.{plan.evaluate}` there is no metric {name!r}. {hint}")
        # No two alike, and none that training would lead to.
        others = {task.name: 1.7 + index for index, task in enumerate(tasks)}
        Arm("rehearsal", others).apply(parts.module, parts.trainer)
        seed_everything(plan.seeds[0])  # the same noise again, should there be any
        otherwise = parts.evaluate(plan.evaluate)
    for name in plan.metrics:
        one, other = known[name], otherwise[name]
        if not (math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))):
            raise ComparisonError(
                f"Metric {name!r} depends on the weights of the losses: on one batch, the same network has "
                f"{one:g} with its own weights and {other:g} with others. So it cannot compare them. "
                "Log the raw losses or a metric of each task, and not what `self.weigh` returns."
            )


def _check_trainer(plan: Plan, trainer: Trainer) -> None:
    callbacks: list[Any] = trainer.checkpoint_callbacks
    if plan.state == "best" and not (callbacks and getattr(callbacks[0], "monitor", None)):
        raise ComparisonError(
            'state="best" needs a ModelCheckpoint that says what is best, first of its kind among the Trainer\'s '
            'callbacks: `ModelCheckpoint(monitor="val/loss")`.'
        )
    if plan.workers > 1 and (trainer.world_size > 1 or trainer.strategy.launcher is not None):
        raise ComparisonError(
            f"workers={plan.workers} is for trainings of one process each, but {type(trainer.strategy).__name__} "
            f"starts {trainer.world_size} processes for each training. Write workers=1, or train on one device."
        )
