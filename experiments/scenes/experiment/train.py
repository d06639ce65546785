"""One cell: a training from its seed, and what the network then does on the test scenes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from experiments.scenes.data.datamodule import ScenesDataModule
from experiments.scenes.data.street import CLASS_NAMES
from experiments.scenes.experiment.cells import Cell
from experiments.scenes.experiment.settings import Settings
from experiments.scenes.model.metrics import METRICS
from experiments.scenes.model.scene_model import SceneModel
from lightning_uncertainty.cross_entropy import CrossEntropy
from lightning_uncertainty.engine.losses import SampleCounts
from lightning_uncertainty.trainer.callback import UncertaintyCallback
from lightning_uncertainty.trainer.packages import quiet_lightning

__all__ = ["Outcome", "train", "train_model"]

_POINTS = 300  # of the path of the weights that are kept


@dataclass(frozen=True)
class Outcome:
    """What one cell gave; plain values, as in its file.

    Attributes:
        metrics: on the test scenes, by task, in the units of :data:`~experiments.scenes.model.metrics.METRICS`.
        weights: factors before the losses at the end, by task.
        path: of the effective weights over the steps: ``{"step": [...], "<task>": [...]}``.
        seconds: that the run took.
    """

    metrics: Mapping[str, float]
    weights: Mapping[str, float]
    path: Mapping[str, list[float]]
    seconds: float


class _PathRecorder(L.Callback):
    """Keeps the effective weights every few steps. To be listed after the UncertaintyCallback."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.path: dict[str, list[float]] = {"step": []}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, SceneModel)
        if trainer.global_step % self.every == 0:
            self.path["step"].append(trainer.global_step)
            for task, weight in pl_module.uncertainty.weights.items():
                self.path.setdefault(task, []).append(weight)


class _Scaled(SceneModel):
    """A SceneModel whose factors before the losses are scaled: they sum to ``total``, evenly over the steps."""

    def __init__(self, total: Sequence[float], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.total = total

    def weigh(self, losses: Mapping[str, Tensor | CrossEntropy], *, samples: SampleCounts | None = None) -> Tensor:
        weighted = super().weigh(losses, samples=samples)
        inputs = [loss for loss in losses.values() if isinstance(loss, Tensor)]
        factors = torch.autograd.grad(weighted, inputs, retain_graph=True)
        place = self.trainer.global_step * len(self.total) // self.trainer.max_steps
        return weighted * (self.total[place] / torch.stack(factors).sum())


def train(cell: Cell, settings: Settings) -> Outcome:
    """Train and test one cell."""
    begin = time.perf_counter()
    model, data, path = train_model(cell, settings)
    with _quiet():
        (tested,) = _trainer().test(model, data, verbose=False)
    metrics = {task: METRICS[task].factor * tested[f"test/{task}"] for task in model.trained}
    snapshot = model.uncertainty.snapshot()
    weights = {task: values.factor for task, values in snapshot.tasks.items()}
    return Outcome(metrics, weights, path, time.perf_counter() - begin)


def train_model(cell: Cell, settings: Settings) -> tuple[SceneModel, ScenesDataModule, dict[str, list[float]]]:
    """The trained network of a cell, its data, and the path of its weights."""
    L.seed_everything(cell.seed, verbose=False)
    data = ScenesDataModule(
        train=settings.train,
        test=settings.test,
        seed=cell.seed,
        batch_size=settings.batch_size,
        noise=settings.noise,
        height=settings.height,
        width=settings.image_width,
    )
    options: dict[str, Any] = {"tasks": cell.weights, "lr": cell.lr_factor * settings.lr, "width": settings.width}
    classes = len(CLASS_NAMES)
    model = SceneModel(classes, **options) if cell.total is None else _Scaled(cell.total, classes, **options)
    model.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU
    steps = cell.steps or settings.steps
    weights = UncertaintyCallback(
        init="auto" if cell.init is None else cell.init, freeze_after=0 if cell.frozen else None, summary=False
    )
    recorder = _PathRecorder(max(steps // _POINTS, 1))
    with _quiet():
        _trainer(max_steps=steps, callbacks=[weights, recorder]).fit(model, data)
    return model, data, recorder.path


@contextmanager
def _quiet() -> Iterator[None]:
    with quiet_lightning():
        warnings.filterwarnings("ignore", ".*does not have many workers")  # the scenes are in memory
        warnings.filterwarnings("ignore", ".*smaller than the logging interval")
        yield


def _trainer(**options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",  # the numbers are the same everywhere
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,  # nothing is chosen while it trains
        **options,
    )
