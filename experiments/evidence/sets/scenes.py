"""Generated street scenes (:mod:`experiments.scenes`), smaller: semantics, instances and depth from a picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch.optim.lr_scheduler import OneCycleLR

from experiments.evidence.table import SPLITS
from experiments.scenes.arms import grid_weights
from experiments.scenes.data.batch import TASKS, SceneBatch
from experiments.scenes.data.datamodule import ScenesDataModule
from experiments.scenes.data.street import CLASS_NAMES
from experiments.scenes.model.metrics import METRICS
from experiments.scenes.model.scene_model import SceneModel
from lightning_uncertainty.comparison.statistics import Direction

__all__ = ["ScenesProblem"]

GRID_FACTOR = 4.0


class Scenes(ScenesDataModule):
    """Scenes with two parts to measure on: one to choose, one to test."""

    def setup(self, stage: str) -> None:
        for each in ("fit", "test"):  # also those to validate on
            super().setup(each)

    def test_dataloader(self) -> Any:
        return [self.val_dataloader(), super().test_dataloader()]


class Net(SceneModel):
    """The network of the scenes. It logs ``val/<task>`` and ``test/<task>``."""

    def test_step(self, batch: SceneBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        metrics = (self.validation_metrics, self.test_metrics)[dataloader_idx]
        metrics.update(self(batch["image"]), batch)
        for task in self.trained:
            name = f"{SPLITS[dataloader_idx]}/{task}"
            self.log(name, getattr(metrics, task), on_epoch=True, add_dataloader_idx=False)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=1e-2)
        schedule = OneCycleLR(
            optimizer, self.lr, total_steps=int(self.trainer.estimated_stepping_batches), pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class ScenesProblem:
    """The scenes as a problem; see :class:`~experiments.evidence.problems.TableProblem`.

    Attributes:
        train, val, test: Number of scenes in each part.
        size: Height and width of the pictures.
    """

    title: str = "street scenes"
    units: bool = False
    seeds: int = 3
    tuning: int = 1
    steps: int = 240
    batch_size: int = 4
    lrs: tuple[float, ...] = (2e-3, 6e-3, 2e-2)
    width: int = 16
    train: int = 192
    val: int = 64
    test: int = 128
    size: tuple[int, int] = (48, 96)

    @property
    def directions(self) -> dict[str, Direction]:
        """``"min"`` or ``"max"`` for the metric of each task."""
        return {task: "max" if METRICS[task].higher_is_better else "min" for task in TASKS}

    @property
    def hand(self) -> dict[str, dict[str, float]]:
        """The weightings that are tried by hand: equal weights and their eight neighbours on the grid."""
        points = product((-1, 0, 1), (-1, 0, 1))
        return {f"hand_{index}": grid_weights(point, GRID_FACTOR) for index, point in enumerate(points)}

    def make_data(self) -> Scenes:
        """Return the scenes of the seed that was just set."""
        return _scenes(self, torch.initial_seed())

    def make_net(self, lr: float) -> Net:
        """Return a new network."""
        net = Net(len(CLASS_NAMES), lr=lr, width=self.width)
        net.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net


@cache
def _scenes(problem: ScenesProblem, seed: int) -> Scenes:
    height, width = problem.size
    return Scenes(
        train=problem.train,
        validation=problem.val,
        test=problem.test,
        seed=seed,
        batch_size=problem.batch_size,
        height=height,
        width=width,
    )
