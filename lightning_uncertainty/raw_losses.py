"""Losses by name, checked and made into one vector in the order of the tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_uncertainty.checks import check_graph, check_losses
from lightning_uncertainty.cross_entropy import CrossEntropy
from lightning_uncertainty.notices import Notices
from lightning_uncertainty.tasks import Task

__all__ = ["Gathered", "RawLosses"]


class Gathered(NamedTuple):
    """The losses of one call; every entry of shape (K,).

    Attributes:
        raw_loss: with the graph of the network, of at least single precision; NaN where left out.
        slope: derivative of the loss itself with respect to ``s``, 0 where there is none; None for all.
        given: bool: not left out; None for all.
        half: bool: was in fp16; None if none was.
    """

    raw_loss: Tensor
    slope: Tensor | None = None
    given: Tensor | None = None
    half: Tensor | None = None


class RawLosses:
    """Gathers losses; by a short way if nothing about them is out of the ordinary.

    Args:
        tasks: by name.
        notices: where warnings go.
    """

    def __init__(self, tasks: Mapping[str, Task], notices: Notices) -> None:
        self._tasks, self._notices = tasks, notices
        self._tempered = any(task.likelihood.tempered for task in tasks.values())
        self.zero, self.nan = torch.tensor([0.0, math.nan], dtype=torch.float32)

    def gather(self, losses: Mapping[str, Tensor | CrossEntropy], log_var: Tensor, recording: bool) -> Gathered:
        """One vector of ``losses``.

        Args:
            losses: scalars, or what an exact softmax needs, by task name.
            log_var: ``s``, of shape (K,).
            recording: whether they are to be trained on.

        Raises:
            TypeError, ValueError: as :func:`~lightning_uncertainty.checks.check_losses` and, if ``recording``,
                :func:`~lightning_uncertainty.checks.check_graph` do.
        """
        raw_loss = self._stack_ordinary(losses, log_var.device)
        if raw_loss is not None:
            return Gathered(raw_loss)
        check_losses(losses, self._tasks, log_var.device)
        if recording:
            check_graph(losses, self._notices)
        return self._gather_any(losses, log_var)

    def _stack_ordinary(self, losses: Any, device: torch.device) -> Tensor | None:
        """All tasks in single precision, each with a graph; None for anything else, which :meth:`gather` looks into."""
        if type(losses) is not dict or len(losses) != len(self._tasks) or self._tempered:
            return None
        values = []
        for name in self._tasks:
            loss = losses.get(name)
            # Not isinstance: a subclass may mean something else by the same operations.
            if type(loss) is not Tensor or loss.dtype is not torch.float32 or loss.dim() or not loss.requires_grad:
                return None
            if loss.device != device:
                return None
            values.append(loss)
        return torch.stack(values)

    def _gather_any(self, losses: Mapping[str, Tensor | CrossEntropy], log_var: Tensor) -> Gathered:
        values: list[Tensor] = []
        slopes: dict[str, Tensor] = {}
        for index, (name, task) in enumerate(self._tasks.items()):
            loss = losses.get(name, self.nan)
            if isinstance(loss, CrossEntropy):
                own_log_var = log_var[index] if task.likelihood.tempered else self.zero
                if task.likelihood.tempered:
                    slopes[name] = loss.slope(own_log_var).to(torch.float32)
                loss = loss.loss(own_log_var)
            values.append(loss)
        raw_loss = torch.stack(values)
        # In half precision the total would be rounded; for a few K numbers single precision costs nothing.
        raw_loss = raw_loss.to(torch.promote_types(raw_loss.dtype, torch.float32))
        slope = torch.stack([slopes.get(name, self.zero) for name in self._tasks]) if slopes else None
        half = [n for n, loss in losses.items() if isinstance(loss, Tensor) and loss.dtype == torch.float16]
        return Gathered(
            raw_loss,
            slope,
            given=None if len(losses) == len(self._tasks) else self._flags(losses),
            half=self._flags(half) if half else None,
        )

    def _flags(self, names: Any) -> Tensor:
        """Bool, of shape (K,); made on the device, where copying it there would make the host wait."""
        return torch.stack([self.zero if name in names else self.nan for name in self._tasks]) == 0.0
