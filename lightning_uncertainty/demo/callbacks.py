"""What the demo watches while a Trainer trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L

from lightning_uncertainty.demo.model import MultiTaskNet
from lightning_uncertainty.snapshot import Snapshot

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["BarAdvance", "SnapshotRecorder"]


class SnapshotRecorder(L.Callback):
    """Keeps a snapshot of the weights of every so many steps. To be listed after the UncertaintyCallback.

    Args:
        every: how many steps lie between two snapshots.

    Attributes:
        snapshots: those kept so far.
    """

    def __init__(self, *, every: int) -> None:
        self.every = every
        self.snapshots: list[Snapshot] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, MultiTaskNet)
        if trainer.global_step % self.every == 0:
            self.snapshots.append(pl_module.uncertainty.snapshot())


class BarAdvance(L.Callback):
    """Moves a progress bar on by one for each training batch.

    Args:
        progress: the display.
        bar: which of its bars.
    """

    def __init__(self, progress: Progress, bar: TaskID) -> None:
        self.progress, self.bar = progress, bar

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.progress.advance(self.bar)
