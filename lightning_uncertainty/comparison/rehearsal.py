"""One batch before hours of runs: what cannot work is said within seconds."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_uncertainty.comparison.arms import LEARNED, Arm, tasks_of
from lightning_uncertainty.comparison.errors import ComparisonError
from lightning_uncertainty.comparison.parts import Evaluation, Parts, Source
from lightning_uncertainty.comparison.randomness import seed_everything
from lightning_uncertainty.names import suggest

__all__ = ["rehearse"]


def rehearse(source: Source, seed: int, arms: Sequence[Arm], metrics: Mapping[str, str], evaluate: Evaluation) -> None:
    """Train and evaluate on one batch, with the weights learned.

    Raises:
        ComparisonError: if a metric is unknown or depends on the weights, there is no data, or an arm's weights are not
            those of the module's tasks.
    """
    with tempfile.TemporaryDirectory() as folder:
        parts = source.build(seed, Path(folder), rehearsal=True)
        Arm(LEARNED).apply(parts.module, parts.trainer)
        tasks = tasks_of(parts.module, parts.trainer)
        for arm in arms:
            if arm.name != LEARNED:
                arm.fixed_weights(tasks)
        parts.fit()
        known = _evaluate(parts, evaluate, seed)
        for name in metrics:
            if name not in known:
                raise ComparisonError(f"After `trainer.{evaluate}` there is no metric {name!r}. {suggest(name, known)}")
        # No two alike, and none that training would lead to.
        Arm("rehearsal", {task.name: 1.7 + index for index, task in enumerate(tasks)}).apply(
            parts.module, parts.trainer
        )
        otherwise = _evaluate(parts, evaluate, seed)
    for name in metrics:
        if not _close(known[name], otherwise[name]):
            raise ComparisonError(
                f"Metric {name!r} depends on the weights of the losses: on one batch, the same network has "
                f"{known[name]:g} with its own weights and {otherwise[name]:g} with others. So it cannot compare them. "
                "Log the raw losses or a metric of each task, and not what `self.weigh` returns."
            )


def _evaluate(parts: Parts, evaluate: Evaluation, seed: int) -> dict[str, float]:
    seed_everything(seed)  # the same noise twice, should there be any
    return parts.evaluate(evaluate)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))
