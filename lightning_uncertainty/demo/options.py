"""What the user can choose, checked before anything long begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning_uncertainty._arguments import lookup
from lightning_uncertainty.demo.catalogue import DATA_SETS
from lightning_uncertainty.demo.dataset import DataSet

__all__ = ["MIN_ROWS", "Options"]

MIN_ROWS = 500
"""With fewer, less than a hundred rows are held out, and the metrics are noise."""

_LARGEST_SEED = 2**32 - 1  # that of numpy


@dataclass(frozen=True)
class Options:
    """The choices for one demo.

    Attributes:
        data: name of the data set.
        rows: how many rows to use, all if None or if there are fewer.
        epochs: how often to go through the training rows, the data set's own number if None.
        seed: of the rows, the split, the network and the order of the batches.
        output: the folder for what is written.
        plain_heads: give the regressions of the runs in natural units plain linear heads instead of scaled ones.

    Raises:
        ValueError: if one of them is not valid.
    """

    data: str = "diamonds"
    rows: int | None = None
    epochs: int | None = None
    seed: int = 0
    output: Path = Path("demo_output")
    plain_heads: bool = False

    def __post_init__(self) -> None:
        lookup("data set", self.data, DATA_SETS)
        if self.rows is not None and self.rows < MIN_ROWS:
            raise ValueError(
                f"--rows must be at least {MIN_ROWS}, so that a fifth to hold out says something; got {self.rows}."
            )
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"--epochs must be at least 1; got {self.epochs}.")
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise ValueError(f"--seed must be from 0 to {_LARGEST_SEED}; got {self.seed}.")
        for path in (self.output, *self.output.parents):
            if path.exists() and not path.is_dir():
                raise ValueError(f"--output must be a folder, and {str(path)!r} is a file. Name another.")

    @property
    def data_set(self) -> DataSet:
        """The data set of that name."""
        return DATA_SETS[self.data]

    @property
    def epochs_to_run(self) -> int:
        """The epochs that were chosen, or those of the data set."""
        return self.epochs or self.data_set.epochs
