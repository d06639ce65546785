"""The network of the demo: a trunk that all tasks share, and a linear head for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

from lightning_uncertainty.demo.data import Batch
from lightning_uncertainty.trainer.mixin import UncertaintyMixin

_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gaussian": F.mse_loss,
    "laplace": F.l1_loss,
    "softmax": F.cross_entropy,
    "bernoulli": lambda output, label: F.binary_cross_entropy_with_logits(output, label.to(output.dtype)),
}


class MultiTaskNet(UncertaintyMixin, L.LightningModule):
    """A perceptron with a head per task.

    The head of a task with ``scales``, mean and standard deviation of its training labels, is a linear layer followed
    by a fixed ``mean + std * output``. A plain head in dollars has to grow to thousands first, and a weight of the loss
    does not help it: in 20 epochs on diamonds, its mean absolute error of the price was 828 $ with equal weights and
    3835 $ with learned ones (scaled: 788 $, 790 $).

    It logs ``test/<task>``: the mean absolute error of a regression, the accuracy of a softmax, and for a yes or no the
    area under the ROC curve. Its hyperparameters are plain values, as ``load_from_checkpoint`` needs them.
    """

    def __init__(
        self,
        tasks: Mapping[str, Mapping[str, str]],
        *,
        num_inputs: int,
        classes: Mapping[str, int] | None = None,
        scales: Mapping[str, Sequence[float]] | None = None,
        width: int = 128,
        lr: float = 3e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.tasks, self.lr, self.scales, classes = dict(tasks), lr, scales or {}, classes or {}
        self.likelihoods = {name: options["likelihood"] for name, options in tasks.items()}
        self.trunk = nn.Sequential(nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes.get(name, 1)) for name in tasks})
        self.metrics = nn.ModuleDict({t: _metric(kind, classes.get(t, 1)) for t, kind in self.likelihoods.items()})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return logits (batch, classes), or numbers (batch,) in natural units, by task."""
        features = self.trunk(inputs)
        outputs = {}
        for name, head in self.heads.items():
            mean, std = self.scales.get(name, (0.0, 1.0))
            outputs[name] = (mean + std * head(features)).squeeze(-1)
        return outputs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.weigh(self.losses(batch))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the raw loss of each task."""
        inputs, labels = batch
        outputs = self(inputs)
        return {name: _LOSSES[kind](outputs[name], labels[name]) for name, kind in self.likelihoods.items()}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        inputs, labels = batch
        outputs = self(inputs)
        for name, metric in self.metrics.items():
            assert isinstance(metric, Metric)
            metric.update(outputs[name], labels[name])
            self.log(f"test/{name}", metric)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _metric(likelihood: str, classes: int) -> Metric:
    if likelihood == "softmax":
        return MulticlassAccuracy(classes, average="micro")
    return BinaryAUROC() if likelihood == "bernoulli" else MeanAbsoluteError()
