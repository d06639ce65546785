"""The runs by row and seed, and what follows from them: gains, the search by hand, and the paths of the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import comb, fsum
from statistics import fmean

import numpy as np
import torch

from experiments.scenes.data.batch import TASKS
from experiments.scenes.model.metrics import METRICS
from experiments.scenes.settings import Settings
from lightning_uncertainty.comparison import FinishedRun, MeanRelativeGain
from lightning_uncertainty.comparison.statistics import Direction
from lightning_uncertainty.reporting.files import read_report

__all__ = [
    "GridPoint",
    "Results",
    "StartPath",
    "expected_best",
    "first_step_within",
    "gain_over_singles",
    "grid_point",
    "grid_row",
    "missing_neighbours",
]

GridPoint = tuple[int, int]
"""Weights of instances and of depth, that of semantics being 1, as powers of the grid's factor."""

TOLERANCE = 0.05


@dataclass
class Results:
    """The runs that are known so far.

    Attributes:
        settings: Settings of all runs.
        runs: Runs by row and seed.
    """

    settings: Settings
    runs: dict[tuple[str, int], FinishedRun] = field(default_factory=dict)

    def add(self, runs: Iterable[FinishedRun], suffix: str = "") -> None:
        """Take in finished runs, whose rows are their arms with that suffix."""
        self.runs |= {(run.arm + suffix, run.seed): run for run in runs}

    @property
    def rows(self) -> list[str]:
        """Names of the rows, in the order in which they were run."""
        return list(dict.fromkeys(row for row, _ in self.runs))

    def of(self, row: str) -> list[FinishedRun]:
        """Return the runs of a row, by seed."""
        return [self.runs[key] for key in sorted(key for key in self.runs if key[0] == row)]

    def factors(self, run: FinishedRun) -> dict[str, float]:
        """Return the factors of the tasks that were trained."""
        return {task: run.factors[task] for task in TASKS if run.factors[task] > 0.0}

    def metrics(self, run: FinishedRun) -> dict[str, float]:
        """Return the metrics of the tasks that were trained, in the units of ``METRICS``."""
        return {task: METRICS[task].factor * run.metrics[f"test/{task}"] for task in self.factors(run)}

    def gains(self, row: str) -> list[float]:
        """Return the mean relative gain over the single-task nets of the same seed, for each seed, in percent."""
        return [gain_over_singles(self.metrics(run), self._single(run.seed)) for run in self.of(row)]

    def _single(self, seed: int) -> dict[str, float]:
        return {task: self.metrics(self.runs[f"single-{task}", seed])[task] for task in TASKS}

    def gain(self, row: str) -> float:
        """Return the mean of :meth:`gains` over the seeds."""
        return fmean(self.gains(row))

    @property
    def grid(self) -> dict[GridPoint, float]:
        """The gain of each weighting that was tried by hand, over all seeds."""
        points = {row: grid_point(row) for row in self.rows}
        return {point: self.gain(row) for row, point in points.items() if point is not None}

    @property
    def best_point(self) -> GridPoint:
        """The weighting by hand with the highest gain."""
        return max(self.grid, key=self.grid.__getitem__)

    @property
    def best_row(self) -> str:
        """The name of its row."""
        return grid_row(self.best_point)

    def path(self, row: str, seed: int) -> dict[str, list[float]]:
        """Return the effective weights over the steps: ``{"step": [...], "<task>": [...]}``."""
        history = read_report(self.runs[row, seed].folder).history
        assert history is not None  # each run writes one
        return {"step": [float(step) for step in history.steps], **{t: history.series("precision", t) for t in TASKS}}

    def start_paths(self) -> list[StartPath]:
        """Return the paths from all starts; the one from the data first."""
        reference = self.path("start_data", 0)
        paths = []
        for row in (row for row in self.rows if row.startswith("start_")):
            path, start = self.path(row, 0), row.removeprefix("start_")
            steps, weights = path["step"], {task: path[task] for task in TASKS}
            settled = {t: first_step_within(steps, w, [w[-1]] * len(w)) for t, w in weights.items()}
            met = {t: first_step_within(steps, w, reference[t]) for t, w in weights.items()}
            paths.append(
                StartPath("from the data" if start == "data" else f"s = {start}", steps, weights, settled, met)
            )
        return paths


@dataclass(frozen=True)
class StartPath:
    """The path of the weights from one start.

    Attributes:
        title: Name of the start, for people.
        steps: Steps at which weights are known.
        weights: Effective weights by task.
        settled: The first step, by task, from which the weight stays within 5 % of its own end.
        met: The first step, by task, from which it stays within 5 % of the run that starts from the data.
    """

    title: str
    steps: Sequence[float]
    weights: Mapping[str, Sequence[float]]
    settled: Mapping[str, float | None]
    met: Mapping[str, float | None]


def gain_over_singles(metrics: Mapping[str, float], single: Mapping[str, float]) -> float:
    """Return the mean over the tasks of the change against their single-task nets, in percent, positive if better.

    >>> single = {"semantic": 60.0, "instance": 2.0, "depth": 0.5}
    >>> round(gain_over_singles({"semantic": 66.0, "depth": 0.4}, single), 6)
    15.0
    """
    directions: dict[str, Direction] = {t: "max" if METRICS[t].higher_is_better else "min" for t in metrics}
    gain = MeanRelativeGain({task: single[task] for task in metrics}, directions, sync_on_compute=False)
    gain.set_dtype(torch.float64)
    gain.update(metrics)
    return float(gain.compute())


def grid_row(point: GridPoint) -> str:
    """Return the name of the row of a point of the grid."""
    return "equal" if point == (0, 0) else f"grid_{point[0]}_{point[1]}"


def grid_point(row: str) -> GridPoint | None:
    """Return the point of the grid that a row is; None for other rows.

    >>> [grid_point(row) for row in ("equal", "grid_-1_2", "grid_-1_2-lr-2")]
    [(0, 0), (-1, 2), None]
    """
    found = re.fullmatch(r"grid_(-?\d+)_(-?\d+)", "grid_0_0" if row == "equal" else row)
    return (int(found[1]), int(found[2])) if found else None


def missing_neighbours(gains: Mapping[GridPoint, float]) -> list[GridPoint]:
    """Return the neighbours of the best point, sideways and across, that were not tried; none if it is inside.

    >>> missing_neighbours({(0, 0): 2.0, **dict.fromkeys([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1)], 1.0)})
    [(1, -1), (1, 0), (1, 1)]
    """
    x, y = max(gains, key=gains.__getitem__)
    around = [(x + dx, y + dy) for dx, dy in product((-1, 0, 1), repeat=2)]
    return [point for point in around if point not in gains]


def expected_best(gains: Sequence[float]) -> list[float]:
    """Return the mean of the best of n points chosen at random without repetition, for n = 1, 2, ... to all of them.

    Exact: the k-th lowest of N values is the best of a random n with probability ``C(k - 1, n - 1) / C(N, n)``.

    >>> expected_best([1.0, 2.0, 3.0])
    [2.0, 2.6666666666666665, 3.0]
    """
    values = sorted(gains)
    total = len(values)
    chances = ([comb(k, n - 1) / comb(total, n) for k in range(total)] for n in range(1, total + 1))
    return [fsum(chance * value for chance, value in zip(each, values, strict=True)) for each in chances]


def first_step_within(
    steps: Sequence[float], values: Sequence[float], reference: Sequence[float], tolerance: float = TOLERANCE
) -> float | None:
    """Return the first step from which ``values`` stay within that part of ``reference``; None if they end outside.

    >>> first_step_within([10, 20, 30, 40], [1.0, 2.0, 0.5, 1.01], [1.0, 1.0, 1.0, 1.0])
    40
    """
    outside = np.abs(np.asarray(values) / np.asarray(reference) - 1.0) > tolerance
    if outside[-1]:
        return None
    return steps[int(outside.nonzero()[0][-1]) + 1 if outside.any() else 0]
