"""All outcomes by row and seed, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from experiments.scenes.data.batch import TASKS
from experiments.scenes.experiment.cells import Cell, GridPoint
from experiments.scenes.experiment.gain import mean_relative_gain
from experiments.scenes.experiment.settings import Settings
from experiments.scenes.experiment.train import Outcome

__all__ = ["Results"]


@dataclass
class Results:
    """What is known so far.

    Attributes:
        settings: of all cells.
        outcomes: by row, then by seed.
        grid: mean relative gain of each weighting that was tried by hand, over all seeds.
        cells: how many were asked for.
    """

    settings: Settings
    outcomes: dict[str, dict[int, Outcome]] = field(default_factory=dict)
    grid: dict[GridPoint, float] = field(default_factory=dict)
    cells: int = 0

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Take in a finished cell."""
        self.outcomes.setdefault(cell.row, {})[cell.seed] = outcome

    def outcome(self, row: str, seed: int) -> Outcome:
        """Of one cell."""
        return self.outcomes[row][seed]

    def single(self, seed: int) -> Mapping[str, float]:
        """Metrics of the single-task nets of a seed, by task."""
        return {task: self.outcomes[f"single-{task}"][seed].metrics[task] for task in TASKS}

    def gains(self, row: str) -> list[float]:
        """Mean relative gain over the single-task nets of the same seed, for each seed, in percent."""
        return [mean_relative_gain(o.metrics, self.single(seed)) for seed, o in sorted(self.outcomes[row].items())]

    def gain(self, row: str) -> float:
        """The mean of :meth:`gains` over the seeds."""
        return fmean(self.gains(row))
