"""The losses between two optimizer steps, and the one thing that ranks tell each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Call", "LossWindow", "WindowMeans", "mean_over_ranks", "sum_over_ranks", "world_size"]


class WindowMeans(NamedTuple):
    """The means over micro-batches and ranks, each of shape (K,).

    Attributes:
        present: bool: True if the task took part at least once.
        raw_loss: The mean loss over the calls (or samples) in which it took part; of no meaning where absent.
        slope: The mean derivative of the loss itself with respect to ``s`` (tempered tasks); None if there is none.
        refused: The number of calls with a NaN or infinite loss, as bool or integer.
    """

    present: Tensor
    raw_loss: Tensor
    slope: Tensor | None
    refused: Tensor


class Call(NamedTuple):
    """The losses of one call, each of shape (K,).

    Attributes:
        raw_loss: The losses, fp32, without a graph.
        marked: NaN where the task sat out.
        slope: The derivatives of the losses themselves with respect to ``s``; None for all 0.
        given: bool: True if the loss was passed; None for all.
        samples: The number of samples that each loss is the mean of; None for one.
    """

    raw_loss: Tensor
    marked: Tensor
    slope: Tensor | None
    given: Tensor | None
    samples: Tensor | None = None

    @property
    def present(self) -> Tensor:
        """True where the task took part."""
        return self.marked.eq(self.marked)

    @property
    def refused(self) -> Tensor:
        """True where the loss was NaN or infinite; a loss that is left out is not refused."""
        absent = self.marked.ne(self.marked)
        return absent if self.given is None else absent & self.given

    def means(self) -> WindowMeans:
        """Return the means of this call alone."""
        present = self.present if self.slope is None else self.present & torch.isfinite(self.slope)
        return WindowMeans(present, self.raw_loss, self.slope, self.refused)


class LossWindow:
    """The sums over the calls since the last step, on the device of the losses: one small tensor, no history.

    The last call is held as it came. If it stays alone, as without accumulation, it is its own mean and nothing has to
    be summed.

    Args:
        size: The number of tasks, K.
    """

    def __init__(self, size: int) -> None:
        self.sums = torch.zeros(4, size, dtype=torch.float32)  # raw losses, calls or samples, slopes, refused losses
        self._summed = False  # whether there is anything in the sums
        self._held: Call | None = None

    def record(self, call: Call) -> None:
        """Add one call."""
        if torch.compiler.is_compiling():  # what a graph leaves behind must be where the next run of it finds it
            self._add(call)
        else:
            self.flush()
            self._held = call

    def flush(self) -> None:
        """Add the call that is held to the sums."""
        if self._held is not None:
            self._add(self._held)
            self._held = None

    def _add(self, call: Call) -> None:
        present, slope, samples = call.present, call.slope, call.samples
        self.sums[0] += torch.where(present, call.raw_loss if samples is None else call.raw_loss * samples, 0.0)
        self.sums[1] += present if samples is None else torch.where(present, samples, 0.0)
        if slope is not None:
            self.sums[2] += torch.where(present, slope if samples is None else slope * samples, 0.0)
        self.sums[3] += call.refused
        self._summed = True

    def clear(self) -> None:
        """Forget all calls."""
        self.sums.zero_()
        self._summed, self._held = False, None

    @property
    def empty(self) -> bool:
        """True if no task took part since the last step; costs a transfer to the host."""
        held = self._held is not None and bool(self._held.present.any())
        return not held and not self.sums[1].any()

    def close(self, group: dist.ProcessGroup | None) -> WindowMeans:
        """Return the means over all calls on the ranks of ``group``, at one all-reduce; then forget the calls."""
        if self._held is not None and self._held.samples is None and not self._summed and world_size(group) == 1:
            call, self._held = self._held, None
            return call.means()
        self.flush()
        sum_over_ranks(self.sums, group)
        losses, calls, slopes, refused = self.sums.clone()
        self.clear()
        present = (calls > 0.0) & torch.isfinite(losses + slopes)
        return WindowMeans(present, losses / calls, slopes / calls, refused.to(torch.long))


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Return the number of processes in ``group`` (by default: all), 1 without ``torch.distributed``."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensor: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Replace ``tensor`` by its sum over the processes of ``group``: one all-reduce, none for a single process."""
    if world_size(group) > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM, group=group)


def mean_over_ranks(raw_loss: Tensor, samples: Tensor | None, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the mean over the processes of ``group`` of the finite losses of one call, weighted by ``samples``."""
    if world_size(group) == 1:
        return raw_loss
    finite = torch.isfinite(raw_loss)
    counts = finite.to(raw_loss.dtype) if samples is None else torch.where(finite, samples, 0.0)
    stats = torch.stack([torch.where(finite, raw_loss * counts, 0.0), counts.to(raw_loss.dtype)])
    sum_over_ranks(stats, group)
    return stats[0] / stats[1]
