"""What the demo watches while a Trainer trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["BarAdvance"]


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
