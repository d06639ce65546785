"""The single runs of the experiment: one row of the table, with one seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

from experiments.scenes.data.batch import TASKS
from experiments.scenes.model.scene_model import LIKELIHOODS

__all__ = ["Cell", "GridPoint", "first_cells", "grid_cell", "retrained_cell", "start_cells"]

GridPoint = tuple[int, int]
"""Weights of instances and of depth, that of semantics being 1, as powers of the grid's factor."""

FIRST_GRID: tuple[GridPoint, ...] = tuple(product((-1, 0, 1), (-1, 0, 1)))
"""Around equal weights; widened until the best point has neighbours on all sides."""

STARTS = (-2.0, 0.0, 2.0, 5.0)
"""Initial ``s`` of the article's Appendix B."""


@dataclass(frozen=True)
class Cell:
    """What one run trains.

    Attributes:
        row: of the table, and of the file.
        seed: of the training scenes, the network and the batches.
        weights: by task: a likelihood, to be learned, or a fixed weight.
        init: of ``s``, None for the start from the data.
        frozen: whether learned weights stay at their start.
        steps: of the optimizer, None for those of the settings.
        total: what the factors before the losses are made to sum to, evenly over the steps; None leaves them alone.
        lr_factor: times the learning rate of the settings.
    """

    row: str
    seed: int
    weights: Mapping[str, str | float]
    init: float | None = None
    frozen: bool = False
    steps: int | None = None
    total: Sequence[float] | None = None
    lr_factor: float = 1.0

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.row}.seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        total = None if self.total is None else list(self.total)
        return {**asdict(self), "weights": dict(self.weights), "total": total}


def first_cells(seed: int) -> Iterator[Cell]:
    """All that needs no result of another cell: single tasks, never learned, learned, and the first grid."""
    yield Cell("learned", seed, dict(LIKELIHOODS))
    for task in TASKS:
        yield Cell(f"single-{task}", seed, {task: 1.0})
    yield Cell("never-learned", seed, dict(LIKELIHOODS), frozen=True)
    for pair in combinations(TASKS, 2):
        yield Cell("learned-" + "-".join(pair), seed, {task: LIKELIHOODS[task] for task in pair})


def grid_cell(point: GridPoint, seed: int, factor: float) -> Cell:
    """One weighting by hand; the point (0, 0) is equal weights."""
    weights = {"semantic": 1.0, "instance": factor ** point[0], "depth": factor ** point[1]}
    return Cell(f"grid_{point[0]:+d}_{point[1]:+d}", seed, weights)


def retrained_cell(seed: int, learned_weights: Mapping[str, float]) -> Cell:
    """The weights that were learned with this seed, fixed from the first step."""
    return Cell("retrained", seed, dict(learned_weights))


def start_cells(steps: int, starts: Iterable[float] = STARTS) -> Iterator[Cell]:
    """Learned from other initial values, and from the data, for longer."""
    yield Cell("start_data", 0, dict(LIKELIHOODS), steps=steps)
    for start in starts:
        yield Cell(f"start_{start:+g}", 0, dict(LIKELIHOODS), init=start, steps=steps)
