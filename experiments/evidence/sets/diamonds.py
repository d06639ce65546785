"""Diamonds [ggplot2, shipped in plotnine]: five measurements to price, weight and three grades."""

from __future__ import annotations

import numpy as np

from experiments.evidence.table import Table, make_table, split_rows
from lightning_uncertainty.demo.diamonds import INPUTS, TASKS, read

__all__ = ["TASKS", "dollars", "standardised"]

ROWS = 16_000


def dollars(seed: int) -> Table:
    """Return diamonds with labels in dollars and carats."""
    return _table(seed, unit_labels=False)


def standardised(seed: int) -> Table:
    """Return the same with labels of mean 0 and standard deviation 1."""
    return _table(seed, unit_labels=True)


def _table(seed: int, *, unit_labels: bool) -> Table:
    diamonds = read().sample(ROWS, random_state=seed)
    inputs, labels = diamonds[INPUTS].to_numpy("float64"), {task: diamonds[task].to_numpy() for task in TASKS}
    return make_table(TASKS, inputs, labels, split_rows(np.arange(ROWS), seed), unit_labels=unit_labels)
