"""A callback for searches of a learning rate or a batch size, which put the Trainer's own callbacks aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightning_uncertainty.trainer.packages import CallbackBase, callbacks_of, trainer_around
from lightning_uncertainty.weighting import UncertaintyWeighting

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["join_search"]


def join_search(module: Any, weighting: UncertaintyWeighting) -> None:
    """Let the weights learn where a Trainer trains ``module`` without the callback that steps them.

    Otherwise each batch would be weighed by the ``s`` of its own loss, and the curve of the search would be that of no
    training. Lightning loads the state from before the search when it ends, and its callbacks with it. The total is
    without regularisers meanwhile, since ``lr_find`` ends at ``loss > 4 * best_loss``, where a negative best always is.
    """
    trainer = trainer_around(module)
    if not torch.is_grad_enabled() or not getattr(trainer, "training", False):
        return
    if not any(getattr(callback, "_weighting", None) is weighting for callback in callbacks_of(trainer)):
        callbacks_of(trainer).append(_SearchCallback(weighting, trainer.global_step))
        weighting.train().searching = True


class _SearchCallback(CallbackBase):
    """A callback that steps the weights and does nothing else."""

    def __init__(self, weighting: UncertaintyWeighting, global_step: int) -> None:
        self._weighting, self._batch_began_at = weighting, global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch_began_at = trainer.global_step
        self._weighting.train().searching = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._weighting.eval()
        if trainer.global_step != self._batch_began_at:
            self._weighting.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._weighting.searching = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._weighting.searching = False
