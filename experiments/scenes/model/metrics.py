"""The metrics of the three tasks: the columns of the article's Table 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassJaccardIndex

from experiments.scenes.data.batch import IGNORE, SceneBatch
from experiments.scenes.model.losses import masked_errors

__all__ = ["METRICS", "SceneMetric", "SceneMetrics"]


@dataclass(frozen=True)
class SceneMetric:
    """The metric of one task.

    Attributes:
        title: Name for people.
        unit: Unit of the value.
        higher_is_better: True if more is better.
        factor: Factor that brings the logged value to that unit.
        decimals: Number of decimals to print.
    """

    title: str
    unit: str
    higher_is_better: bool
    factor: float
    decimals: int


METRICS = {
    "semantic": SceneMetric("semantic: mean IoU", "%", True, 100.0, 2),
    "instance": SceneMetric("instance: mean error", "px", False, 1.0, 3),
    "depth": SceneMetric("inverse depth: mean error", "px", False, 1.0, 4),
}
"""By task. Errors are absolute (L1), means over pixels; that of offsets is the mean of both components."""


class SceneMetrics(nn.Module):
    """The metrics of all tasks, by torchmetrics, as a module so that they move with the network.

    Args:
        num_classes: Number of classes of the semantic task.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.semantic = MulticlassJaccardIndex(num_classes, ignore_index=IGNORE)
        self.instance = MeanMetric()
        self.depth = MeanMetric()

    @torch.no_grad()
    def update(self, outputs: Mapping[str, Tensor], batch: SceneBatch) -> None:
        """Take in a batch; a task without labels in it takes no part."""
        self.semantic.update(outputs["semantic"].argmax(1), batch["classes"])
        pairs = (
            (self.instance, "instance", batch["offsets"], batch["instance_mask"]),
            (self.depth, "depth", batch["inverse_depth"], batch["depth_mask"]),
        )
        for metric, task, target, mask in pairs:
            if len(errors := masked_errors(outputs[task], target, mask)):
                metric.update(errors)
