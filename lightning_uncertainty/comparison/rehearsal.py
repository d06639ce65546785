"""A rehearsal trains one batch before hours of runs: what cannot work is said within seconds."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_uncertainty._arguments import suggest
from lightning_uncertainty.comparison.arms import LEARNED, Arm, ComparisonError, ours_in, tasks_of
from lightning_uncertainty.comparison.parts import Parts, Source, seed_everything
from lightning_uncertainty.trainer.attachment import was_given

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from lightning_uncertainty.comparison.study import Plan

__all__ = ["rehearse"]


def rehearse(source: Source, plan: Plan) -> None:
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
        known = _evaluate(plan, parts)
        for name in plan.metrics:
            if name not in known:
                prefixes = tuple(f"{callback.log_prefix}/" for callback in ours_in(parts.trainer))
                theirs = [key for key in known if not key.startswith(prefixes)] or known
                hint = suggest(name, theirs)
                raise ComparisonError(f"After `trainer.{plan.evaluate}` there is no metric {name!r}. {hint}")
        # No two alike, and none that training would lead to.
        others = {task.name: 1.7 + index for index, task in enumerate(tasks)}
        Arm("rehearsal", others).apply(parts.module, parts.trainer)
        otherwise = _evaluate(plan, parts)
    for name in plan.metrics:
        if not _close(known[name], otherwise[name]):
            raise ComparisonError(
                f"Metric {name!r} depends on the weights of the losses: on one batch, the same network has "
                f"{known[name]:g} with its own weights and {otherwise[name]:g} with others. So it cannot compare them. "
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


def _evaluate(plan: Plan, parts: Parts) -> dict[str, float]:
    seed_everything(plan.seeds[0])  # the same noise twice, should there be any
    return parts.evaluate(plan.evaluate)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))
