"""Controls: how much of the gain is in the ratios of the weights, in their sum, and in the learning rate.

Learned weights change their ratios, and also their sum, which grows while the losses fall. Adam divides by the size of
the gradient and so takes no notice of a constant factor; but it remembers that size for about a thousand steps, so that
a sum that grows makes larger steps, like a learning-rate schedule of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from experiments.scenes.experiment.cells import Cell, grid_cell
from experiments.scenes.experiment.grid import best_point
from experiments.scenes.experiment.results import Results
from experiments.scenes.model.scene_model import LIKELIHOODS

__all__ = ["LEAST_CONTROLS", "LR_FACTORS", "control_cells", "lr_row", "of_constant_sum", "of_learned_sum"]

LR_FACTORS = (0.5, 2.0)
"""Learning rates, as parts of that of the table, with which its most important rows are trained again."""

LEAST_CONTROLS = 2 + 2 * len(LR_FACTORS)
"""How many there are of a seed if equal weights are the best ones by hand; else more."""


def of_constant_sum(row: str) -> str:
    """The name of a row with learned weights that are divided by their sum."""
    return f"{row}-of-constant-sum"


def of_learned_sum(row: str) -> str:
    """The name of a row whose fixed weights are scaled at each step to the sum of the learned ones."""
    return f"{row}-of-learned-sum"


def lr_row(row: str, factor: float) -> str:
    """The name of a row with another learning rate."""
    return row if factor == 1.0 else f"{row}-lr-{factor:g}"


def control_cells(results: Results) -> Iterator[Cell]:
    """The controls of all seeds.

    Args:
        results: with the learned row and the grid.
    """
    factor, best = results.settings.grid_factor, best_point(results.grid)
    for seed in range(results.settings.seeds):
        learned = Cell("learned", seed, dict(LIKELIHOODS))
        by_hand = [grid_cell(point, seed, factor) for point in dict.fromkeys([(0, 0), best])]
        yield replace(learned, row=of_constant_sum(learned.row), total=(1.0,))
        for cell in by_hand:
            yield replace(cell, row=of_learned_sum(cell.row), total=_sums(results, seed))
        for cell in (learned, *by_hand):
            for lr_factor in LR_FACTORS:
                yield replace(cell, row=lr_row(cell.row, lr_factor), lr_factor=lr_factor)


def _sums(results: Results, seed: int) -> Sequence[float]:
    """Of the learned weights over the training."""
    path = results.outcome("learned", seed).path
    return [sum(weights) for weights in zip(*(path[task] for task in LIKELIHOODS), strict=True)]
