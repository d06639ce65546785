"""Tables in memory: rows to train, to choose and to test on, and one network for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from lightning_uncertainty.demo.data import Batch, TensorBatches
from lightning_uncertainty.demo.model import MultiTaskNet

__all__ = ["SPLITS", "Table", "TableData", "TableNet", "make_table", "score", "split_rows"]

SPLITS = ("val", "test")
"""The parts that each training is measured on: all choices are made on the first."""


@dataclass(frozen=True)
class Table:
    """One set of data, split.

    Attributes:
        tasks: Tasks as the network declares them, with likelihood and unit.
        train, val, test: Inputs (rows, inputs) and labels by task.
    """

    tasks: Mapping[str, Mapping[str, str]]
    train: Batch
    val: Batch
    test: Batch

    @property
    def scales(self) -> dict[str, list[float]]:
        """Mean and standard deviation over the training rows of each label that is no class."""
        labels = {name: label for name, label in self.train[1].items() if label.is_floating_point()}
        return {name: [float(label.mean()), float(label.std())] for name, label in labels.items()}

    @property
    def classes(self) -> dict[str, int]:
        """The number of classes of each softmax task."""
        parts = self.train, self.val, self.test
        names = [name for name, task in self.tasks.items() if task["likelihood"] == "softmax"]
        return {name: 1 + max(int(labels[name].max()) for _, labels in parts) for name in names}


def split_rows(groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three masks of rows, for three, one and one fifths of the groups; no group is in two of them.

    >>> [int(mask.sum()) for mask in split_rows(np.arange(10), seed=0)]
    [6, 2, 2]
    """
    known = np.unique(groups)
    order = np.random.default_rng(seed).permutation(known)
    first, second = round(0.6 * len(known)), round(0.8 * len(known))
    train, val, test = (np.isin(groups, part) for part in np.split(order, [first, second]))
    return train, val, test


def make_table(
    tasks: Mapping[str, Mapping[str, str]],
    inputs: np.ndarray,
    labels: Mapping[str, np.ndarray],
    parts: Sequence[np.ndarray],
    *,
    unit_labels: bool = False,
) -> Table:
    """Return a table from arrays, with inputs standardised over the training rows, and cut at ten deviations.

    Args:
        tasks: Tasks with likelihood and unit.
        inputs: Inputs, of shape (rows, inputs).
        labels: Labels of shape (rows,) by task, in their own units.
        parts: Masks of the rows to train on, to choose on and to test on.
        unit_labels: True standardises the labels of regressions, too.
    """
    train, batches = parts[0], []
    inputs = _standardised(inputs, train).clip(-10.0, 10.0)  # a rare kind would be a huge number
    for part in parts:
        known = {}
        for name, task in tasks.items():
            number = task["likelihood"] in ("gaussian", "laplace")
            label = _standardised(labels[name], train) if number and unit_labels else labels[name]
            known[name] = torch.tensor(label[part], dtype=torch.float32 if number else torch.long)
        batches.append((torch.tensor(inputs[part], dtype=torch.float32), known))
    return Table(tasks, *batches)


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    std = values[train].std(0)
    standard: np.ndarray = (values - values[train].mean(0)) / np.where(std > 0.0, std, 1.0)
    return standard


class TableData(L.LightningDataModule):
    """The loaders of a table: shuffled batches to train on, each other part as one batch."""

    def __init__(self, table: Table, *, batch_size: int, seed: int) -> None:
        super().__init__()
        self.table, self.batch_size, self.seed = table, batch_size, seed

    def train_dataloader(self) -> TensorBatches:
        return TensorBatches(*self.table.train, batch_size=self.batch_size, seed=self.seed)

    def test_dataloader(self) -> list[TensorBatches]:
        parts = self.table.val, self.table.test
        return [TensorBatches(*part, batch_size=len(part[0])) for part in parts]


class TableNet(MultiTaskNet):
    """The network of the demo. It logs ``val/<task>`` and ``test/<task>``, see :func:`score`."""

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        inputs, labels = batch
        outputs = self(inputs)
        for name, kind in self.likelihoods.items():
            value = score(kind, outputs[name], labels[name])
            self.log(f"{SPLITS[dataloader_idx]}/{name}", value, add_dataloader_idx=False)


def score(likelihood: str, output: Tensor, label: Tensor) -> Tensor:
    """Return the metric of a task over a whole part: RMSE, mean absolute error, accuracy, or area under the ROC curve.

    >>> round(score("gaussian", torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])).item(), 4)
    1.4142
    """
    if likelihood == "softmax":
        return (output.argmax(1) == label).float().mean()
    if likelihood == "bernoulli":
        return binary_auroc(output, label)
    error = (output - label).abs()
    return error.mean() if likelihood == "laplace" else error.square().mean().sqrt()
