"""The size of the experiment, and what each training of it is made of: the same for every row of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from experiments.scenes.data.datamodule import ScenesDataModule
from experiments.scenes.data.label_noise import LabelNoise
from experiments.scenes.data.street import CLASS_NAMES
from experiments.scenes.model.scene_model import SceneModel
from lightning_uncertainty.cross_entropy import CrossEntropy
from lightning_uncertainty.trainer.callback import UncertaintyCallback

__all__ = ["CHECKPOINT", "FULL", "QUICK", "ScaledModel", "Settings", "make_data", "make_model", "trainer_options"]

CHECKPOINT = "checkpoints/network.ckpt"
"""The place of the trained network in the folder of a run."""


@dataclass(frozen=True)
class Settings:
    """Network, budget, schedule and data, the same in every run.

    Attributes:
        seeds: Number of seeds, from 0.
        steps: Optimizer steps of each run of the table.
        start_steps: Optimizer steps of each run that shows where weights go from other initial values.
        train: Number of training scenes.
        test: Number of test scenes.
        batch_size: Scenes in a batch.
        width: Channels of the encoder.
        lr: Highest learning rate of AdamW.
        grid_factor: Factor between neighbouring weights of the grid.
        noise: Noise of the training labels.
        size: Height and width of the images, in pixels.
    """

    seeds: int = 3
    steps: int = 600
    start_steps: int = 1200
    train: int = 256
    test: int = 256
    batch_size: int = 4
    width: int = 32
    lr: float = 4e-3
    grid_factor: float = 4.0
    noise: LabelNoise = field(default_factory=LabelNoise)
    size: tuple[int, int] = (64, 128)


FULL = Settings()
"""The settings of the committed results."""

QUICK = Settings(seeds=1, steps=150, start_steps=300, train=128, test=128)
"""Settings for a few minutes on two cores: they show whether all works, not who is best."""


class ScaledModel(SceneModel):
    """A SceneModel whose factors before the losses are scaled: they sum to ``total``, evenly over the steps."""

    def __init__(self, total: Sequence[float], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.total = total

    def weigh(self, losses: Mapping[str, Tensor | CrossEntropy], **options: Any) -> Tensor:  # type: ignore[override]
        weighted = super().weigh(losses, **options)
        inputs = [loss for loss in losses.values() if isinstance(loss, Tensor)]
        factors = torch.autograd.grad(weighted, inputs, retain_graph=True)
        place = self.trainer.global_step * len(self.total) // self.trainer.max_steps
        return weighted * (self.total[place] / torch.stack(factors).sum())


def make_model(settings: Settings, *, lr_factor: float = 1.0, total: Sequence[float] | None = None) -> SceneModel:
    """Return a new network.

    Args:
        settings: Settings of the experiment.
        lr_factor: Factor of its learning rate.
        total: Sums of the factors before the losses over the training; None leaves them alone.
    """
    options: dict[str, Any] = {"lr": lr_factor * settings.lr, "width": settings.width}
    classes = len(CLASS_NAMES)
    model = SceneModel(classes, **options) if total is None else ScaledModel(total, classes, **options)
    model.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU
    return model


def make_data(settings: Settings) -> ScenesDataModule:
    """Return the scenes of the seed that was just set; those to test on are the same for all."""
    height, width = settings.size
    return ScenesDataModule(
        train=settings.train,
        test=settings.test,
        seed=torch.initial_seed(),
        batch_size=settings.batch_size,
        noise=settings.noise,
        height=height,
        width=width,
    )


def trainer_options(steps: int, folder: Path) -> dict[str, Any]:
    """Return the options of a Trainer for so many steps, which keeps some 300 points of the weights' path.

    The total is that of the article, from the first step.
    """
    return {
        "accelerator": "cpu",  # the numbers are the same everywhere
        "max_steps": steps,
        "log_every_n_steps": max(steps // 300, 1),
        "limit_val_batches": 0,  # nothing is chosen while it trains
        "callbacks": [
            UncertaintyCallback(scale=None, lr=0.01),
            ModelCheckpoint((folder / CHECKPOINT).parent, filename="network", every_n_train_steps=steps, save_top_k=1),
        ],
    }
