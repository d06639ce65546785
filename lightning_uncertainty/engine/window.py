"""The losses that the network will learn from in its next step, and the one thing that ranks tell each other.

The window mirrors the gradients: a call counts once backward has gone through its total, and is forgotten when the
gradients are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "NUMPY",
    "Array",
    "Call",
    "LossWindow",
    "WindowMeans",
    "exchange",
    "host_values",
    "in_numpy",
    "is_few",
    "mean_over_ranks",
    "sum_over_ranks",
    "world_size",
]


Array = np.ndarray[Any, np.dtype[Any]]
"""An array of numpy; spelt out, because ``numpy.typing`` takes longer to import than this package."""

NUMPY = True
"""False takes steps on a CPU in torch too, as on other devices."""

_FEW = 64


def in_numpy(tensor: Tensor) -> bool:
    """Return True where steps are taken without torch, in numpy or Python: on a CPU that costs a quarter or less."""
    return NUMPY and tensor.is_cpu and not torch.compiler.is_compiling()


def is_few(values: Any) -> bool:
    """Return True for so few tasks that one after the other in Python costs less than all at once in numpy."""
    return len(values) <= _FEW


def host_values(tensor: Tensor) -> Any:
    """Return the values of a tensor on a CPU: as numbers of Python for a few tasks, else as an array."""
    return tensor.tolist() if is_few(tensor) else tensor.numpy()


class WindowMeans(NamedTuple):
    """The means over micro-batches and ranks, each of shape (K,).

    Attributes:
        present: bool: True if the task took part at least once.
        raw_loss: The mean loss over the calls (or samples) in which it took part; of no meaning where absent.
        slope: The mean derivative of the loss itself with respect to ``s`` (tempered tasks); None if there is none.
        refused: The number of calls with a NaN or infinite loss, as bool or integer.
        used: bool: True if there was any call at all.
        dropped: The number of times that the task was weighed and the network did not learn from it; None for 0.
        whole: True if it is known, without asking a device, that all tasks are present and no loss was refused.
    """

    present: Tensor
    raw_loss: Tensor
    slope: Tensor | None
    refused: Tensor
    used: Tensor | bool = True
    dropped: Tensor | None = None
    whole: bool = False


class Call(NamedTuple):
    """The losses of one call, each of shape (K,).

    Attributes:
        raw_loss: The losses, fp32, without a graph.
        marked: NaN where the task sat out.
        slope: The derivatives of the losses themselves with respect to ``s``; None for all 0.
        given: bool: True if the loss was passed; None for all.
        samples: The number of samples that each loss is the mean of; None for one.
        whole: True if it is known, without asking a device, that no task sat out.
    """

    raw_loss: Tensor
    marked: Tensor
    slope: Tensor | None
    given: Tensor | None
    samples: Tensor | None = None
    whole: bool = False

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
        present = present if self.samples is None else present & (self.samples > 0.0)
        return WindowMeans(present, self.raw_loss, self.slope, self.refused)

    def sums(self) -> Tensor:
        """Return what the call adds to the sums of a window, of shape (5, K)."""
        present, ones = self.present, torch.ones_like(self.raw_loss)
        slope, count = 0.0 * ones if self.slope is None else self.slope, 1.0 if self.samples is None else self.samples
        rows = [torch.where(present, row * count, 0.0) for row in (self.raw_loss, ones, slope)]
        return torch.stack([*rows, self.refused.to(torch.float32), ones])

    def sums_of_whole(self) -> Tensor:
        """Return the sums of a window with nothing but this call, of shape (6, K), without an operation of torch."""
        sums = np.zeros((6, len(self.raw_loss)), dtype=np.float32)
        sums[0], sums[1], sums[4] = self.raw_loss.numpy(), 1.0, 1.0
        return torch.from_numpy(sums)


class LossWindow:
    """The sums over the calls that the network has gradients of, on the device of the losses: one small tensor.

    The last call is held as it came. If it stays alone, as without accumulation, it is its own mean and nothing has to
    be summed.

    Args:
        size: The number of tasks, K.

    Attributes:
        used: True if backward has gone through a call since the last step, and its gradients were not forgotten.
        touched: True if there was a call, used or dropped; or may have been, in a graph of ``torch.compile``.
    """

    def __init__(self, size: int) -> None:
        # Raw losses, calls or samples, slopes, refused losses, calls whether a task took part or not; dropped tasks.
        self.sums = torch.zeros(6, size, dtype=torch.float32)
        self._summed = self._dropped = False  # True if there is anything in the first five, or in the last
        self._held: Call | None = None
        self._weighed: list[Call] = []  # those that backward has not gone through yet
        self._arrivals = 0  # calls that backward has gone through
        self._compiled = _Compiled(size)
        self._all, self._none = torch.ones(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)  # of tasks

    @property
    def used(self) -> bool:
        return self._summed or self._held is not None or self._compiled.used

    @property
    def touched(self) -> bool:
        return self.used or self._dropped or bool(self._weighed) or self._compiled.ran

    def watch(self, total: Tensor, call: Call, before: Callable[[bool], None]) -> Tensor:
        """Record ``call`` once backward goes through ``total``, which is returned; ``before`` is called before that."""
        if torch.compiler.is_compiling():  # a graph can have no hook on what is inside of it
            return self._compiled.watch(total, call)
        self._weighed = [*self._weighed[-7:], call]
        arrivals = self._arrivals

        def arrived(_: Any) -> None:
            before(self._arrivals == arrivals)  # else the gradients of another total may be on their way with these
            self._arrivals += 1
            self._weighed = [other for other in self._weighed if other is not call]
            self.flush()
            self._held = call

        node: Any = total.grad_fn
        node.register_prehook(arrived)  # a hook on the total itself costs more
        return total

    def flush(self) -> None:
        """Add the call that is held, and those of compiled graphs, to the sums."""
        for sums in (None if self._held is None else self._held.sums(), self._compiled.take()):
            if sums is not None:
                self.sums[:5] += sums
                self._summed = True
        self._held = None

    def forget_unless(self, alive: bool | Tensor, *, count: bool) -> None:
        """Forget the calls if their gradients are not ``alive`` (a bool, on the host or on the device).

        Args:
            alive: True if the gradients are there.
            count: True if tasks that are forgotten count as dropped; False for a trial, after which others come.
        """
        if alive is True or not self.used:
            return
        self.flush()
        self._summed, self._dropped = alive is not False, self._dropped or count
        alive = torch.as_tensor(alive, device=self.sums.device)
        if count:
            self.sums[5] += self.sums[1].gt(0.0) & ~alive
        for row in (0, 1, 2, 4):  # a loss that was NaN has been seen, whatever came of it
            self.sums[row] = torch.where(alive, self.sums[row], 0.0)

    def drop_unused(self, *, count: bool = True) -> None:
        """Forget the calls that backward has not gone through; ``count`` their tasks as dropped, or not."""
        for call in self._weighed:
            self.sums[3] += call.refused
        for weighed in [*(call.present for call in self._weighed), *self._compiled.weighed_tasks()]:
            if count:
                self.flush()
                self.sums[5] += weighed & ~self.sums[1].gt(0.0)
                self._dropped = True
        self._weighed = []

    def clear(self) -> None:
        """Forget all calls."""
        self.take()

    @property
    def waiting(self) -> bool:
        """True if a task took part since the last step; costs a transfer to the host."""
        calls = self._weighed if self._held is None else [*self._weighed, self._held]
        tasks = [self.sums[1], *(call.present for call in calls)]
        return any(bool(each.any()) for each in tasks) or self._compiled.used

    @property
    def _is_alone(self) -> bool:
        """True if there is nothing beside the call that is held."""
        return not (self._summed or self._dropped or self._weighed or self._compiled.used)

    def close(self, group: dist.ProcessGroup | None) -> WindowMeans:
        """Return the means over all calls on the ranks of ``group``, at one all-reduce; then begin anew."""
        call = self._held
        if call is not None and world_size(group) == 1 and self._is_alone:
            self._held = None
            if call.whole and call.slope is None and (call.samples is None or call.samples.numpy().all()):
                return WindowMeans(self._all, call.raw_loss, None, self._none, whole=True)
            return call.means()
        return exchange(self.take().unsqueeze(0), group)[0]

    def take(self) -> Tensor:
        """Return the sums of this process, of shape (6, K), and begin anew."""
        call = self._held
        if call is not None and call.whole and call.slope is None and call.samples is None and self._is_alone:
            self._held = None
            return call.sums_of_whole()
        self.flush()
        self.drop_unused()
        sums = self.sums.clone()
        self.sums.zero_()
        self._summed = self._dropped = False
        return sums

    def to(self, device: torch.device) -> None:
        """Move to ``device``, as copies."""
        self.flush()
        self.sums = self.sums.to(device, copy=True)
        self._compiled = _Compiled(self.sums.shape[1], device)


class _Compiled:
    """The calls of graphs of ``torch.compile``: a leaf whose gradient they add their sums to as backward goes through.

    Args:
        size: The number of tasks, K.
        device: The device of the losses.
    """

    def __init__(self, size: int, device: torch.device | None = None) -> None:
        self.leaf = torch.zeros(5, size, dtype=torch.float32, device=device, requires_grad=True)
        self.weighed = torch.zeros(size, dtype=torch.bool, device=device)
        self.ran = False

    def watch(self, total: Tensor, call: Call) -> Tensor:
        """Return ``total``, whose backward adds the sums of the call to the gradient of the leaf."""
        self.ran = True
        self.weighed.copy_(call.present)
        recorded: Tensor = _Recorded.apply(total, self.leaf, call.sums())  # type: ignore[no-untyped-call]
        return recorded

    @property
    def used(self) -> bool:
        """True if backward has gone through a graph."""
        return self.leaf.grad is not None

    def take(self) -> Tensor | None:
        """Return the sums since the last time, None for none."""
        sums, self.leaf.grad = self.leaf.grad, None
        if sums is not None:
            self.weighed.zero_()
        return sums

    def weighed_tasks(self) -> list[Tensor]:
        """Return the tasks of the last call if there was one since the last time."""
        tasks = [self.weighed.clone()] if self.ran else []
        self.weighed.zero_()
        return tasks


class _Recorded(torch.autograd.Function):
    """The identity on the total; backward hands the sums of the call to the leaf, whatever the gradient is."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, leaf: Tensor, sums: Tensor) -> Tensor:  # noqa: ARG004  # it gets a gradient
        """Return ``total``."""
        ctx.save_for_backward(sums)
        return total.view_as(total)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of ``total``, ``leaf`` and ``sums``."""
        return gradients[0], ctx.saved_tensors[0], None


def exchange(steps: Tensor, group: dist.ProcessGroup | None) -> list[WindowMeans]:
    """Return the means of steps over all ranks of ``group``, at one all-reduce.

    Args:
        steps: The sums of each step, of shape (steps, 6, K); replaced by those over the ranks.
        group: The processes to average over.
    """
    sum_over_ranks(steps, group)
    ranks = world_size(group)
    return [(_whole_means(sums.numpy()) if in_numpy(sums) else None) or _means(sums, ranks) for sums in steps]


def _means(sums: Tensor, ranks: int) -> WindowMeans:
    losses, calls, slopes, refused, used, dropped = sums
    present = (calls > 0.0) & torch.isfinite(losses + slopes)
    counts = refused.to(torch.long), used[0] > 0.0, (dropped / ranks).ceil().to(torch.long)
    return WindowMeans(present, losses / calls, slopes / calls, *counts)


@np.errstate(all="ignore")
def _whole_means(sums: Array) -> WindowMeans | None:
    """Return the means if all tasks were present with ordinary losses, else None."""
    mean = sums[0] / sums[1]  # not finite without a call
    finite, refused = np.isfinite(mean), sums[3] > 0.0
    if sums[2].any() or refused.any() or sums[5].any() or not finite.all():
        return None
    return WindowMeans(torch.from_numpy(finite), torch.from_numpy(mean), None, torch.from_numpy(refused), whole=True)


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
