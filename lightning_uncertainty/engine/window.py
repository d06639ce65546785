"""The losses between two optimizer steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["LossWindow", "WindowMeans", "mean_over_ranks", "sum_over_ranks", "world_size"]


class WindowMeans(NamedTuple):
    """What the micro-batches of all ranks come to; every entry of shape (K,).

    Attributes:
        present: bool: the task took part at least once.
        raw_loss: mean raw loss over the calls (or samples) in which it took part; of no meaning where absent.
        slope: mean derivative of the loss itself with respect to ``s`` (tempered tasks), as ``raw_loss``; None if no
            loss had one.
        refused: number of calls with a NaN or infinite loss, as bool or integer.
    """

    present: Tensor
    raw_loss: Tensor
    slope: Tensor | None
    refused: Tensor


class LossWindow:
    """Sums over the calls since the last step, on the device of the losses; one small tensor, no history.

    The last call is held as it came. If it stays alone, as without accumulation, it is its own mean and nothing has to
    be summed.

    Args:
        size: number of tasks, K.
    """

    def __init__(self, size: int) -> None:
        self.sums = torch.zeros(4, size, dtype=torch.float32)  # raw losses, calls or samples, slopes, refused losses
        self._summed = False  # whether there is anything in the sums
        self._held: _Call | None = None

    def record(
        self,
        raw_loss: Tensor,
        marked: Tensor,
        slope: Tensor | None,
        given: Tensor | None,
        samples: Tensor | None = None,
    ) -> None:
        """Add one call.

        Args:
            raw_loss: fp32, of shape (K,), without a graph.
            marked: NaN where the task sat out, of shape (K,).
            slope: derivative of the loss itself with respect to ``s``, of shape (K,).
            given: bool: tasks whose loss was passed, of shape (K,); None for all.
            samples: how often ``raw_loss`` and ``slope`` count, of shape (K,); None for once each.
        """
        if torch.compiler.is_compiling():  # what a graph leaves behind must be where the next run of it finds it
            self._add(raw_loss, marked, slope, given, samples)
        else:
            self.flush()
            self._held = _Call(raw_loss, marked, slope, given, samples)

    def flush(self) -> None:
        """Add the call that is held to the sums."""
        if self._held is not None:
            self._add(*self._held)
            self._held = None

    def _add(
        self, raw_loss: Tensor, marked: Tensor, slope: Tensor | None, given: Tensor | None, samples: Tensor | None
    ) -> None:
        present = _present(marked)
        self.sums[0] += torch.where(present, raw_loss if samples is None else raw_loss * samples, 0.0)
        self.sums[1] += present if samples is None else torch.where(present, samples, 0.0)
        if slope is not None:
            self.sums[2] += torch.where(present, slope if samples is None else slope * samples, 0.0)
        self.sums[3] += _refused(marked, given)
        self._summed = True

    def clear(self) -> None:
        """Forget all calls."""
        self.sums.zero_()
        self._summed, self._held = False, None

    @property
    def empty(self) -> bool:
        """True if no task took part since the last step; a host transfer."""
        held = self._held is not None and bool(_present(self._held.marked).any())
        return not held and not self.sums[1].any()

    def close(self, group: dist.ProcessGroup | None) -> WindowMeans:
        """The means over all calls on the ranks of ``group``, for which it takes one all-reduce; then forget them."""
        if self._held is not None and self._held.samples is None and not self._summed and world_size(group) == 1:
            call, self._held = self._held, None
            return call.means()
        self.flush()
        sum_over_ranks(self.sums, group)
        losses, calls, slopes, refused = self.sums.clone()
        self.clear()
        present = (calls > 0.0) & torch.isfinite(losses + slopes)
        return WindowMeans(present, losses / calls, slopes / calls, refused.to(torch.long))


class _Call(NamedTuple):
    """The arguments of :meth:`LossWindow.record`."""

    raw_loss: Tensor
    marked: Tensor
    slope: Tensor | None
    given: Tensor | None
    samples: Tensor | None

    def means(self) -> WindowMeans:
        """Of this call alone."""
        present = _present(self.marked)
        if self.slope is not None:
            present = present & torch.isfinite(self.slope)
        return WindowMeans(present, self.raw_loss, self.slope, _refused(self.marked, self.given))


def _present(marked: Tensor) -> Tensor:
    return marked.eq(marked)


def _refused(marked: Tensor, given: Tensor | None) -> Tensor:
    """Left out is not refused."""
    absent = marked.ne(marked)
    return absent if given is None else absent & given


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of processes in ``group`` (by default: all), 1 without ``torch.distributed``."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensor: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Replace ``tensor`` by its sum over the processes of ``group``: one all-reduce, none for a single process."""
    if world_size(group) > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM, group=group)


def mean_over_ranks(raw_loss: Tensor, counts: Tensor | None, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the mean over the processes of ``group`` of the losses of one call, each of shape (K,).

    Args:
        raw_loss: The losses of this process; those that are not finite do not count.
        counts: How many samples each is the mean of; None for one.
        group: The processes.
    """
    if world_size(group) == 1:
        return raw_loss
    finite = torch.isfinite(raw_loss)
    counts = finite.to(raw_loss.dtype) if counts is None else torch.where(finite, counts, 0.0)
    stats = torch.stack([torch.where(finite, raw_loss * counts, 0.0), counts.to(raw_loss.dtype)])
    sum_over_ranks(stats, group)
    return stats[0] / stats[1]
