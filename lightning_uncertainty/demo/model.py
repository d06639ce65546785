"""The network of the demo: a trunk that all tasks share, and a linear head for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_uncertainty.demo.catalogue import DATA_SETS
from lightning_uncertainty.demo.datamodule import Batch
from lightning_uncertainty.demo.target import Target
from lightning_uncertainty.trainer.mixin import UncertaintyMixin

__all__ = ["MultiTaskNet"]


class MultiTaskNet(UncertaintyMixin, L.LightningModule):
    """A perceptron with a head per task, for the targets of one data set.

    With ``output_scales``, the head of a regression is a linear layer followed by a fixed ``mean + std * output``. A
    plain linear head in dollars has to grow to thousands first, which a weight of the loss does not help it to do: in
    20 epochs on diamonds its mean absolute error of the price was 828 $ under the plain sum and 3835 $ under learned
    weights, with scaled heads 788 $ and 790 $. The runs are to differ in how losses are summed, so all have scaled
    heads, unless plain ones are asked for.

    Its hyperparameters are plain values, so that ``MultiTaskNet.load_from_checkpoint(path)`` needs nothing else.

    Args:
        data: name of the data set.
        num_inputs: how many inputs there are.
        learned: learn the weights of the losses; else each weighs 1, which is the plain sum.
        output_scales: mean and standard deviation of the training labels, by task; the others have plain heads.
        standardised: measure the losses of these tasks in their standard deviations instead of natural units.
        width: of the hidden layers.
        lr: highest learning rate of the one-cycle schedule.
    """

    def __init__(
        self,
        *,
        data: str,
        num_inputs: int,
        learned: bool,
        output_scales: Mapping[str, Sequence[float]] | None = None,
        standardised: bool = False,
        width: int = 128,
        lr: float = 3e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.standardised, self.output_scales = lr, standardised, output_scales or {}
        self.targets = {target.name: target for target in DATA_SETS[data].targets}
        self.tasks = {
            name: {"likelihood": target.likelihood if learned else 1.0, "unit": target.unit}
            for name, target in self.targets.items()
        }
        self.trunk = nn.Sequential(nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(width, t.outputs) for name, t in self.targets.items()})
        self.metrics = nn.ModuleDict({name: target.metric() for name, target in self.targets.items()})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Outputs of shape (batch, outputs) by task: logits, or numbers in natural units."""
        features = self.trunk(inputs)
        outputs = {}
        for name, head in self.heads.items():
            mean, std = self.output_scales.get(name, (0.0, 1.0))
            outputs[name] = mean + std * head(features)
        return outputs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.weigh(self.losses(batch))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The raw loss of each task."""
        inputs, labels = batch
        outputs = self(inputs)
        return {name: self._loss(target, outputs[name], labels[name]) for name, target in self.targets.items()}

    def _loss(self, target: Target, output: Tensor, label: Tensor) -> Tensor:
        if not self.standardised or target.name not in self.output_scales:
            return target.loss(output, label)
        _, std = self.output_scales[target.name]
        return target.loss(output / std, label / std)  # the mean would cancel

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        inputs, labels = batch
        outputs = self(inputs)
        for name, target in self.targets.items():
            metric = self.metrics[name]
            assert isinstance(metric, Metric)
            metric.update(target.prediction(outputs[name]), labels[name])
            self.log(f"test/{name}", metric)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
