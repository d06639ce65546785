"""What a run started from: proof that the arms of one seed differ in nothing but their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_uncertainty.comparison.fingerprint import digest, digest_weights
from lightning_uncertainty.trainer.packages import CallbackBase

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["Start"]

_BATCHES = 3


class Start(CallbackBase):
    """Takes the fingerprints of the initial weights and of the first batches.

    Attributes:
        seen: fingerprints by what they are of.
    """

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen["initial weights"] = digest_weights(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 0 and batch_idx < _BATCHES:
            self.seen[f"batch {batch_idx}"] = digest([digest(tensor) for tensor in _tensors(batch)])


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from _tensors(value)
