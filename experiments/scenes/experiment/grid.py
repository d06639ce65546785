"""The search by hand: a lattice of weights that grows until its best point is not on its edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from experiments.scenes.experiment.cells import GridPoint

__all__ = ["best_point", "expected_best", "missing_neighbours"]


def best_point(gains: Mapping[GridPoint, float]) -> GridPoint:
    """The point with the highest gain."""
    return max(gains, key=gains.__getitem__)


def missing_neighbours(gains: Mapping[GridPoint, float]) -> list[GridPoint]:
    """The neighbours of the best point, sideways and across, that were not tried; none if it is inside.

    >>> missing_neighbours({(0, 0): 2.0, **dict.fromkeys([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1)], 1.0)})
    [(1, -1), (1, 0), (1, 1)]
    """
    x, y = best_point(gains)
    around = [(x + dx, y + dy) for dx, dy in product((-1, 0, 1), repeat=2)]
    return [point for point in around if point not in gains]


def expected_best(gains: Sequence[float]) -> list[float]:
    """The mean of the best of n points chosen at random without repetition, for n = 1, 2, ... to all of them.

    Exact: the k-th lowest of N values is the best of a random n with probability ``C(k - 1, n - 1) / C(N, n)``.

    >>> expected_best([1.0, 2.0, 3.0])
    [2.0, 2.6666666666666665, 3.0]
    """
    values = np.sort(np.asarray(gains, dtype=float))
    total = len(values)
    best = []
    for n in range(1, total + 1):
        chances = np.zeros(total)
        chances[-1] = n / total  # of the highest value to be among them
        for k in range(total - 2, -1, -1):  # given that none above it is
            chances[k] = chances[k + 1] * max(k + 1 - (n - 1), 0) / (k + 1)
        best.append(float(chances @ values))
    return best
