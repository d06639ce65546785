"""Where a demo writes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

__all__ = ["OutputFolder"]


@dataclass(frozen=True)
class OutputFolder:
    """The files of one demo; ``run`` is the short name of one of its runs.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def create(cls, output: Path, data: str) -> OutputFolder:
        """A new ``<output>/<data>/version_<n>``, so that an earlier demo is never overwritten.

        Raises:
            OSError: if it cannot be created.
        """
        for version in count():
            try:
                (path := output / data / f"version_{version}").mkdir(parents=True)
            except FileExistsError:
                continue
            return cls(path)
        raise AssertionError("there is always another number")

    @property
    def picture(self) -> Path:
        """Weights, sigmas, raw losses and shares over the steps of the run that learns."""
        return self.path / "training.png"

    @property
    def page(self) -> Path:
        """The same, with what was found and a table, to be opened in a browser."""
        return self.path / "report.html"

    @property
    def comparison(self) -> Path:
        """The table."""
        return self.path / "comparison.csv"

    @property
    def csv(self) -> Path:
        """A folder per run with its ``metrics.csv``."""
        return self.path / "csv"

    @property
    def tensorboard(self) -> Path:
        """What ``tensorboard --logdir`` takes: a folder per run."""
        return self.path / "tensorboard"

    def loggers(self, run: str) -> list[Logger]:
        """What writes a run's metrics, as CSV and for TensorBoard."""
        csv = CSVLogger(self.csv, name=run, version="")
        return [csv, TensorBoardLogger(self.tensorboard, name=run, version="", default_hp_metric=False)]

    def metrics(self, run: str) -> Path:
        """What was logged, as CSV."""
        return self.csv / run / "metrics.csv"

    def checkpoint(self, run: str) -> Path:
        """The network at the end, with its weights of the losses."""
        return self.path / "checkpoints" / f"{run}.ckpt"
