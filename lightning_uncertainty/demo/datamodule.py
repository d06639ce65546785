"""From a table to batches on the fly: whole tensors in memory, sliced, never collated row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import lightning as L
import torch
from torch import Tensor

from lightning_uncertainty.demo.dataset import Table
from lightning_uncertainty.demo.target import Quantity, Target

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Batch", "TableDataModule", "TensorBatches"]

Batch = tuple[Tensor, dict[str, Tensor]]
"""Inputs of shape (batch, inputs), and labels of shape (batch,) by the name of their task."""

_TEST_BATCH_SIZE = 8192


class TableDataModule(L.LightningDataModule):
    """A table, split by its groups, with standardised inputs and labels in their natural units.

    Args:
        table: what to serve.
        targets: which labels, as which dtype.
        batch_size: rows in a training batch.
        seed: of the split and of the order of the training rows.
        held_out: the part of the groups that is tested on.
    """

    def __init__(
        self, table: Table, targets: tuple[Target, ...], *, batch_size: int, seed: int, held_out: float = 0.2
    ) -> None:
        super().__init__()
        self.targets, self.batch_size, self.seed = targets, batch_size, seed
        self.train_table, self.test_table = split(table, held_out=held_out, seed=seed)
        inputs = standardised(self.train_table.inputs, self.test_table.inputs)
        self._train = inputs[0], self._labels(self.train_table)
        self._test = inputs[1], self._labels(self.test_table)

    @property
    def num_inputs(self) -> int:
        """Columns of the inputs."""
        return self._train[0].shape[1]

    def label_scales(self) -> dict[str, list[float]]:
        """Mean and standard deviation over the training rows, of each regression target."""
        labels = self._train[1]
        return {t.name: _mean_and_std(labels[t.name]) for t in self.targets if isinstance(t, Quantity)}

    def train_dataloader(self) -> TensorBatches:
        return TensorBatches(*self._train, batch_size=self.batch_size, seed=self.seed)

    def test_dataloader(self) -> TensorBatches:
        return TensorBatches(*self._test, batch_size=_TEST_BATCH_SIZE)

    def _labels(self, table: Table) -> dict[str, Tensor]:
        return {t.name: torch.tensor(table.labels[t.name].to_numpy(), dtype=t.dtype) for t in self.targets}


class TensorBatches:
    """Batches of tensors that fit into memory; a loader for Lightning, many times faster than a row-wise one.

    Args:
        inputs: of shape (rows, inputs).
        labels: of shape (rows,), by name.
        batch_size: rows in a batch; the last one may be smaller.
        seed: shuffle by it, each time anew; None keeps the order.

    Example:
        >>> batches = TensorBatches(torch.eye(3), {"a": torch.arange(3)}, batch_size=2)
        >>> [labels["a"].tolist() for inputs, labels in batches]
        [[0, 1], [2]]
    """

    def __init__(
        self, inputs: Tensor, labels: Mapping[str, Tensor], *, batch_size: int, seed: int | None = None
    ) -> None:
        self.inputs, self.labels, self.batch_size = inputs, labels, batch_size
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        rows = len(self.inputs)
        order = torch.arange(rows) if self._generator is None else torch.randperm(rows, generator=self._generator)
        for chosen in torch.split(order, self.batch_size):
            yield self.inputs[chosen], {name: label[chosen] for name, label in self.labels.items()}


def split(table: Table, *, held_out: float, seed: int) -> tuple[Table, Table]:
    """The rows to train on and the rows to test on, with no group in both."""
    groups = table.group.drop_duplicates()
    tested = table.group.isin(groups.sample(frac=held_out, random_state=seed))
    train, test = (Table(table.inputs[rows], table.labels[rows], table.group[rows]) for rows in (~tested, tested))
    return train, test


def standardised(train: pd.DataFrame, test: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Both with mean 0 and standard deviation 1 over ``train``; unknown values become the mean.

    Indicators stay 0 and 1: a rare one would come out as a huge number.
    """
    numbers = train.select_dtypes("number")
    mean, std = numbers.mean(), numbers.std().replace(0.0, 1.0)

    def tensor(inputs: pd.DataFrame) -> Tensor:
        scaled = ((inputs[numbers.columns] - mean) / std).fillna(0.0)
        return torch.tensor(inputs.assign(**scaled).to_numpy(dtype="float32"))

    return tensor(train), tensor(test)


def _mean_and_std(label: Tensor) -> list[float]:
    return [float(label.mean()), float(label.std())]
