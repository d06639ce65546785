"""The losses between two optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_uncertainty.collective import sum_over_ranks

__all__ = ["LossWindow", "WindowMeans"]


@dataclass(frozen=True)
class WindowMeans:
    """What the micro-batches of all ranks come to; every entry of shape (K,).

    Attributes:
        present: bool: the task took part at least once.
        raw_loss: mean raw loss over the calls (or samples) in which it took part, 0 where absent.
        slope: mean derivative of the loss itself with respect to ``s`` (tempered tasks), 0 elsewhere.
        refused: number of calls with a NaN or infinite loss.
    """

    present: Tensor
    raw_loss: Tensor
    slope: Tensor
    refused: Tensor


class LossWindow:
    """Sums over the calls since the last step, on the device of the losses; one small tensor, no history.

    Args:
        size: number of tasks, K.
    """

    def __init__(self, size: int) -> None:
        self.sums = torch.zeros(4, size, dtype=torch.float32)  # raw losses, calls or samples, slopes, refused losses

    def record(
        self,
        raw_loss: Tensor,
        present: Tensor,
        slope: Tensor | None,
        refused: Tensor,
        samples: Tensor | None = None,
    ) -> None:
        """Add one call; ``raw_loss`` and ``slope`` count where ``present``, as often as ``samples`` says."""
        if samples is not None:
            raw_loss = raw_loss * samples
            slope = None if slope is None else slope * samples
        self.sums[0] += torch.where(present, raw_loss, 0.0)
        self.sums[1] += present if samples is None else torch.where(present, samples, 0.0)
        if slope is not None:
            self.sums[2] += torch.where(present, slope, 0.0)
        self.sums[3] += refused

    def clear(self) -> None:
        """Forget all calls."""
        self.sums.zero_()

    def close(self, group: dist.ProcessGroup | None) -> WindowMeans:
        """The means over all calls on the ranks of ``group``, for which it takes one all-reduce; then forget them."""
        sum_over_ranks(self.sums, group)
        losses, calls, slopes, refused = self.sums.clone()
        self.clear()
        present = (calls > 0.0) & torch.isfinite(losses + slopes)
        raw_loss, slope = (torch.where(present, total / calls, 0.0) for total in (losses, slopes))
        return WindowMeans(present, raw_loss, slope, refused)
