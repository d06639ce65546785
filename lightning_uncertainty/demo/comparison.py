"""Metrics of several runs beside each other, and how much each run gains or loses against the first."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_uncertainty.comparison.statistics import relative_gain as relative_change
from lightning_uncertainty.demo.target import Target

__all__ = ["Comparison", "Run", "relative_change"]


@dataclass(frozen=True)
class Run:
    """One of the trainings that are compared.

    Attributes:
        name: of its files.
        title: for people.
        learned: whether the weights of the losses are learned.
        standardised: whether the targets of the regressions are standardised by hand.
    """

    name: str
    title: str
    learned: bool
    standardised: bool


@dataclass(frozen=True)
class Comparison:
    """The result of the demo.

    Attributes:
        targets: the tasks.
        runs: the trainings; the first is the reference.
        metrics: by name of the run, then by task, in natural units.
    """

    targets: tuple[Target, ...]
    runs: tuple[Run, ...]
    metrics: dict[str, dict[str, float]]

    def change(self, run: Run, target: Target) -> float:
        """Of one task, in percent against the first run, positive where better."""
        value, reference = (self.metrics[which.name][target.name] for which in (run, self.runs[0]))
        return relative_change(value, reference, higher_is_better=target.higher_is_better)

    def mean_change(self, run: Run) -> float:
        """The mean over the tasks, in percent against the first run, positive where better."""
        return math.fsum(self.change(run, target) for target in self.targets) / len(self.targets)

    def write_csv(self, path: Path) -> Path:
        """Write a row per task, and one with the mean change."""
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self._rows())
        return path

    def _rows(self) -> Iterator[Sequence[object]]:
        others = self.runs[1:]
        names, changed = [run.name for run in self.runs], [f"{run.name}: change in %" for run in others]
        yield "task", "metric", "unit", "higher_is_better", *names, *changed
        for target in self.targets:
            values = [self.metrics[run.name][target.name] for run in self.runs]
            changes = [self.change(run, target) for run in others]
            yield target.name, target.metric_name, target.unit, target.higher_is_better, *values, *changes
        yield "mean", "", "", "", *("" for _ in self.runs), *(self.mean_change(run) for run in others)
