"""What a data set of the demo consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_uncertainty.demo.target import Target

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DataSet", "Table"]


@dataclass(frozen=True)
class Table:
    """Rows of a data set, cleaned; all parts have the same index.

    Attributes:
        inputs: what is known: numbers, where NaN means unknown, and indicators (bool).
        labels: a column per target, complete.
        group: rows of one group are either all trained on, or all held out.
    """

    inputs: pd.DataFrame
    labels: pd.DataFrame
    group: pd.Series

    def sample(self, rows: int, seed: int) -> Table:
        """So many rows, chosen at random (the files are sorted); all if there are fewer."""
        chosen = self.inputs.sample(min(rows, len(self.inputs)), random_state=seed).index
        return Table(self.inputs.loc[chosen], self.labels.loc[chosen], self.group.loc[chosen])


@dataclass(frozen=True)
class DataSet:
    """One choice of ``--data``.

    Attributes:
        name: as the user writes it.
        packages: that hold the files.
        targets: the tasks.
        read: gives the table, from files on this machine.
        epochs: so many fit the time that a demo may take.
        batch_size: rows in a training batch.
    """

    name: str
    packages: tuple[str, ...]
    targets: tuple[Target, ...]
    read: Callable[[], Table]
    epochs: int
    batch_size: int
