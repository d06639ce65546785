"""The LightningModule: network, losses and metrics, with the weights of the losses learned or given."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from experiments.scenes.data.batch import SceneBatch
from experiments.scenes.model.losses import scene_losses
from experiments.scenes.model.metrics import SceneMetrics
from experiments.scenes.model.network import SceneNet
from lightning_uncertainty.trainer.mixin import UncertaintyMixin

__all__ = ["LIKELIHOODS", "SceneModel"]

LIKELIHOODS = MappingProxyType({"semantic": "softmax", "instance": "laplace", "depth": "laplace"})
"""What each loss of :func:`~experiments.scenes.model.losses.scene_losses` is."""


class SceneModel(UncertaintyMixin, L.LightningModule):
    """A module that learns semantics, instances and depth with one network.

    Args:
        num_classes: Number of classes of the semantic task.
        tasks: Tasks to train, and how each is weighed: by a likelihood (learned) or a number (a fixed weight);
            a task left out is not trained. By default all three, learned.
        lr: Highest learning rate of AdamW, on a one-cycle schedule over the whole training.
        width: Channels of the encoder.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        tasks: Mapping[str, str | float] = LIKELIHOODS,
        lr: float = 4e-3,
        width: int = 48,
    ) -> None:
        super().__init__()
        tasks = dict(tasks)
        self.save_hyperparameters()
        self.tasks, self.lr = tasks, lr
        self.trained = tuple(tasks)
        self.net = SceneNet(num_classes, width=width)
        self.validation_metrics, self.test_metrics = SceneMetrics(num_classes), SceneMetrics(num_classes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return what :meth:`SceneNet.forward` returns."""
        outputs: dict[str, Tensor] = self.net(image)
        return outputs

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        losses = scene_losses(self(batch["image"]), batch)
        return self.weigh({task: losses[task] for task in self.trained})

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        self._measure("val", self.validation_metrics, batch)

    def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
        self._measure("test", self.test_metrics, batch)

    def _measure(self, stage: str, metrics: SceneMetrics, batch: SceneBatch) -> None:
        metrics.update(self(batch["image"]), batch)
        for task in self.trained:
            self.log(f"{stage}/{task}", getattr(metrics, task), on_step=False, on_epoch=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.lr, weight_decay=1e-2)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = OneCycleLR(optimizer, self.lr, total_steps=steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
