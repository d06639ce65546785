"""Whether learned weights meet from wherever they start: the article's Appendix B."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.scenes.data.batch import TASKS
from experiments.scenes.experiment.results import Results

__all__ = ["TOLERANCE", "StartPath", "first_step_within", "start_paths"]

TOLERANCE = 0.05


@dataclass(frozen=True)
class StartPath:
    """How the weights went from one start.

    Attributes:
        title: of the start.
        steps: at which weights are known.
        weights: effective weights by task.
        settled: by task, the first step from which the weight stays within 5 % of its own end.
        met: by task, the first step from which it stays within 5 % of the run that starts from the data.
    """

    title: str
    steps: Sequence[float]
    weights: Mapping[str, Sequence[float]]
    settled: Mapping[str, float | None]
    met: Mapping[str, float | None]


def start_paths(results: Results) -> list[StartPath]:
    """All starts; the one from the data first."""
    rows = sorted((row for row in results.outcomes if row.startswith("start_")), key=_start)
    reference = results.outcome("start_data", 0).path
    paths = []
    for row in rows:
        path = results.outcome(row, 0).path
        weights = {task: path[task] for task in TASKS}
        settled = {t: first_step_within(path["step"], w, [w[-1]] * len(w)) for t, w in weights.items()}
        met = {t: first_step_within(path["step"], w, reference[t]) for t, w in weights.items()}
        start = row.removeprefix("start_")
        paths.append(
            StartPath(
                "from the data" if start == "data" else f"s = {float(start):g}", path["step"], weights, settled, met
            )
        )
    return paths


def _start(row: str) -> float:
    start = row.removeprefix("start_")
    return -math.inf if start == "data" else float(start)


def first_step_within(
    steps: Sequence[float], values: Sequence[float], reference: Sequence[float], tolerance: float = TOLERANCE
) -> float | None:
    """The first step from which ``values`` stay within that part of ``reference``; None if they end outside.

    >>> first_step_within([10, 20, 30, 40], [1.0, 2.0, 0.5, 1.01], [1.0, 1.0, 1.0, 1.0])
    40
    """
    outside = np.abs(np.asarray(values) / np.asarray(reference) - 1.0) > tolerance
    if outside[-1]:
        return None
    return steps[int(outside.nonzero()[0][-1]) + 1 if outside.any() else 0]
