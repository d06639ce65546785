"""The kinds of targets that a demo predicts: likelihood, loss, metric and unit of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

__all__ = ["Binary", "Category", "Quantity", "Target"]

_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"gaussian": F.mse_loss, "laplace": F.l1_loss}


class Target(ABC):
    """One task of a demo.

    Attributes:
        name: of the task, in logs and tables.
        likelihood: as in ``tasks={"price": "gaussian"}``.
        outputs: how many numbers the network gives for it.
        dtype: of its labels.
        metric_name: for the table.
        higher_is_better: whether a rising metric is an improvement.
        unit: of the metric and of sigma, empty for classifications.
    """

    name: str
    likelihood: str
    outputs: int
    dtype: torch.dtype
    metric_name: str
    higher_is_better: bool
    unit: str

    @property
    def loss_unit(self) -> str:
        """Of the raw loss."""
        return "nats"

    @property
    def weight_unit(self) -> str:
        """Of the effective weight, empty for classifications."""
        return ""

    @abstractmethod
    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        """The scalar loss of a batch, from ``output`` of shape (batch, outputs) and ``label`` of shape (batch,)."""

    @abstractmethod
    def metric(self) -> Metric:
        """A new metric, to be fed with what :meth:`prediction` gives, and labels."""

    def prediction(self, output: Tensor) -> Tensor:
        """What the metric compares with the labels, from ``output`` of shape (batch, outputs)."""
        return output.squeeze(-1)


@dataclass(frozen=True)
class Quantity(Target):
    """A number with a unit: squared errors (gaussian) or absolute errors (laplace), judged by the mean absolute error.

    Args:
        name: of the task.
        unit: of the number.
        likelihood: ``"gaussian"``, or ``"laplace"`` where a few labels lie far out.
    """

    name: str
    unit: str
    likelihood: str = "gaussian"
    outputs: int = field(default=1, init=False)
    dtype: torch.dtype = field(default=torch.float32, init=False)
    metric_name: str = field(default="MAE", init=False)
    higher_is_better: bool = field(default=False, init=False)

    @property
    def loss_unit(self) -> str:
        return f"{self.unit}²" if self.likelihood == "gaussian" else self.unit

    @property
    def weight_unit(self) -> str:
        return f"{self.unit}⁻²" if self.likelihood == "gaussian" else f"{self.unit}⁻¹"

    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        return _LOSSES[self.likelihood](output.squeeze(-1), label)

    def metric(self) -> Metric:
        return MeanAbsoluteError()


@dataclass(frozen=True)
class Category(Target):
    """One of several classes: cross entropy, judged by the accuracy.

    Args:
        name: of the task.
        outputs: how many classes there are.
    """

    name: str
    outputs: int
    likelihood: str = field(default="softmax", init=False)
    dtype: torch.dtype = field(default=torch.long, init=False)
    metric_name: str = field(default="accuracy", init=False)
    higher_is_better: bool = field(default=True, init=False)
    unit: str = field(default="", init=False)

    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(output, label)

    def metric(self) -> Metric:
        return MulticlassAccuracy(self.outputs, average="micro")

    def prediction(self, output: Tensor) -> Tensor:
        return output.argmax(-1)


@dataclass(frozen=True)
class Binary(Target):
    """Yes or no: binary cross entropy, judged by the area under the ROC curve, since most answers are no.

    Args:
        name: of the task.
    """

    name: str
    likelihood: str = field(default="bernoulli", init=False)
    outputs: int = field(default=1, init=False)
    dtype: torch.dtype = field(default=torch.long, init=False)
    metric_name: str = field(default="AUROC", init=False)
    higher_is_better: bool = field(default=True, init=False)
    unit: str = field(default="", init=False)

    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output.squeeze(-1), label.to(output.dtype))

    def metric(self) -> Metric:
        return BinaryAUROC()

    def prediction(self, output: Tensor) -> Tensor:
        return output.squeeze(-1).sigmoid()
