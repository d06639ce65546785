"""The comparison itself: rehearse, run what is not done yet, and put the results together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lightning_uncertainty._warnings import Notices, is_main_rank
from lightning_uncertainty.comparison.arms import EQUAL, LEARNED, Arm, name_arms
from lightning_uncertainty.comparison.fingerprint import describe_module
from lightning_uncertainty.comparison.parts import Evaluation, Parts, PythonSource, Source, lightning_of
from lightning_uncertainty.comparison.plan import Plan
from lightning_uncertainty.comparison.progress import NoBar, RunAdvance, progress_bar
from lightning_uncertainty.comparison.randomness import random_state_kept, seed_everything
from lightning_uncertainty.comparison.rehearsal import rehearse
from lightning_uncertainty.comparison.result import ComparisonResult
from lightning_uncertainty.comparison.start import Start
from lightning_uncertainty.comparison.statistics import Direction
from lightning_uncertainty.comparison.store import FinishedRun, RunFolder
from lightning_uncertainty.trainer.attachment import attached_weighting
from lightning_uncertainty.trainer.packages import callbacks_of, quiet_lightning

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

__all__ = ["compare", "run_plan"]


def compare(
    make_module: Callable[[], LightningModule],
    data: Any = None,
    *,
    metrics: Mapping[str, Direction],
    seeds: Sequence[int] = (0, 1, 2),
    trainer: Mapping[str, Any] | Callable[[Path], Mapping[str, Any]] | None = None,
    fixed: Mapping[str, Mapping[str, float]] | None = None,
    baseline: str = EQUAL,
    evaluate: Evaluation = "validate",
    state: Literal["last", "best"] = "last",
    folder: str | os.PathLike[str] = "comparison",
    version: str = "",
    progress: bool | None = None,
) -> ComparisonResult:
    """Whether learned weights help: the same module and data with equal, with learned, and with given weights.

    For each seed it trains one network per arm. All arms of a seed start from the same initial weights and see the same
    batches (both are checked), so that they are compared in pairs. No code of the network changes: in the arms
    without learning, the tasks get fixed weights, 1 in the arm ``"equal"``; tasks that the module gives a fixed weight
    keep it. The learned arm takes the options of an ``UncertaintyCallback`` among the Trainer's callbacks, if there is
    one.

    First of all, one batch is trained and evaluated, to find out within seconds what cannot work. Then every finished
    run is stored in ``folder`` and not run again, unless something that defines it has changed: the seed, the weights,
    the initial weights of the module, its attributes, the data as far as it can be described, the Trainer's options,
    the code of all these and what it refers to in the user's own files, or the versions of torch, Lightning and this
    package. A run that was interrupted starts anew.

    Args:
        make_module: makes a new LightningModule; called for each run, right after seeding.
        data: a LightningDataModule, loaders by name (``{"train": ..., "val": ..., "test": ...}``), or a class or
            function that makes one of them for each run (safest: an object with a generator of its own would go on
            where the last run ended); None if the module has its own loaders.
        metrics: ``"min"`` or ``"max"`` by name, as in ``trainer.callback_metrics`` after the evaluation. They must not
            depend on the weights of the losses; the weighted total does, and is refused.
        seeds: of the runs; with one there is no telling a difference from noise.
        trainer: options of the Trainer, copied for each run; or a function that makes them, from the folder of the
            run. Logs go to that folder, unless ``logger`` is among the options.
        fixed: more arms: weights of the losses by task, by the name of the arm.
        baseline: the arm that the others are compared with.
        evaluate: ``"validate"`` or ``"test"``.
        state: evaluate the network as it is at the end (``"last"``), or the one that the ModelCheckpoint among the
            callbacks found ``"best"``.
        folder: of the runs and tables.
        version: part of the definition of each run; change it when something has changed that cannot be seen, such as
            the content of a file that the data is read from.
        progress: show a bar; by default on a terminal, if rich is installed.

    Returns:
        The metrics of all runs, with tables and a sentence. Its tables are also in ``folder``, as ``comparison.csv``
        and ``comparison.md``.

    Raises:
        ValueError: if an argument is not valid, the module has no tasks, there is no data, or a metric is unknown or
            depends on the weights.
        TypeError: if ``make_module``, ``data`` or ``trainer`` is of a type that cannot be used.

    Example::

        result = compare(Net, Data, metrics={"val/mae": "min", "val/accuracy": "max"}, trainer={"max_epochs": 10})
        print(result)
    """
    plan = Plan(metrics, seeds, name_arms(fixed or {}, baseline), evaluate, state, Path(folder), version)
    return run_plan(plan, PythonSource(make_module, data, trainer or {}), progress=progress)


def run_plan(plan: Plan, source: Source, *, progress: bool | None = None) -> ComparisonResult:
    """Run what is not done yet, and write the tables. Arguments and errors are those of :func:`compare`."""
    with random_state_kept(), quiet_lightning():
        runs = {(run.arm, run.seed): run for run in _run_all(plan, source, progress)}
    result = ComparisonResult(
        metrics=plan.metrics,
        arms=[arm.name for arm in plan.arms],
        seeds=list(plan.seeds),
        runs=[runs[arm.name, seed] for arm in plan.arms for seed in plan.seeds],
    )
    if is_main_rank():
        result.to_csv(plan.folder / "comparison.csv")
        (plan.folder / "comparison.md").write_text(result.to_markdown(), encoding="utf-8")
    return result


def _run_all(plan: Plan, source: Source, progress: bool | None) -> Iterator[FinishedRun]:
    # Decided once, before anything runs: processes that start later, as for DDP, come to the same list.
    folders = [folder for seed in plan.seeds for folder in _folders(plan, source, seed)]
    found = {folder.path: run for folder in folders if (run := folder.read()) is not None}
    if len(found) < len(folders):
        seed_everything(plan.seeds[0])
        rehearse(source, plan)
    arms = {arm.name: arm for arm in plan.arms}
    notices, first = Notices(), dict[int, FinishedRun]()
    with progress_bar(len(folders), len(found), wanted=progress) as bar:
        for folder in folders:
            run = found.get(folder.path) or _run(plan, source, arms[folder.arm], folder, bar)
            _check_pair(first.setdefault(run.seed, run), run, notices)
            yield run


def _folders(plan: Plan, source: Source, seed: int) -> list[RunFolder]:
    """The folders of all arms; their names depend on all that defines a run."""
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
    folders = []
    for arm in plan.arms:
        settings = source.settings(learned=arm.name == LEARNED)
        definition = {**common, "weights": arm.weights, "settings": settings}
        folders.append(RunFolder(plan.folder, arm.name, seed, definition))
    return folders


def _run(plan: Plan, source: Source, arm: Arm, folder: RunFolder, bar: NoBar) -> FinishedRun:
    bar.begin(f"{folder.arm}, seed {folder.seed}")
    start, begin = Start(), time.perf_counter()
    path = folder.begin() if is_main_rank() else folder.path
    seed_everything(folder.seed)
    parts = source.build(folder.seed, path, rehearsal=False)
    arm.apply(parts.module, parts.trainer)
    _watch(parts, start, bar)
    parts.fit()
    seed_everything(folder.seed)  # whatever the training drew
    metrics = parts.evaluate(plan.evaluate, best=plan.state == "best")
    engine = attached_weighting(parts.module)
    assert engine is not None  # the callback has attached it
    run = FinishedRun(folder.arm, folder.seed, metrics, time.perf_counter() - begin, start.seen, engine.weights)
    if is_main_rank():
        folder.write(run)
    parts.trainer.strategy.barrier("run stored")  # whoever compares next finds it, on every rank
    bar.end()
    return run


def _watch(parts: Parts, start: Start, bar: NoBar) -> None:
    # Processes that are spawned or forked would keep what these see, and could not even be given a bar.
    if not hasattr(parts.trainer.strategy.launcher, "get_extra_results"):
        callbacks_of(parts.trainer)[:0] = [start, RunAdvance(bar)]


def _check_pair(first: FinishedRun, run: FinishedRun, notices: Notices) -> None:
    """Say so if the arms of a seed differ in more than their weights."""
    if differing := [what for what in first.start if run.start.get(what, first.start[what]) != first.start[what]]:
        notices.warn(
            "not paired",
            f"The arms {first.arm!r} and {run.arm!r} of seed {run.seed} did not start alike: {', '.join(differing)} "
            "differ. The comparison then has more noise than it needs. Make the module and the data anew for each run, "
            "with functions that draw all that is random from the global generators of torch, numpy and Python.",
        )
