"""The recorder tells which losses make a step of the weights: those whose gradients an optimizer has used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.engine.gradients import Gradients
from lightning_uncertainty.engine.window import Call, LossWindow, WindowMeans, mean_of, sum_over_ranks, world_size

__all__ = ["Recorder"]

_MANY_CALLS = 300  # calls that backward went through without a step: more than anybody accumulates


class Recorder:
    """The window of losses, and the moments at which it closes.

    In a loop of one's own it closes when an optimizer that is followed has stepped, or :meth:`step` is called. Under a
    Trainer (:meth:`begin`) with several processes these only tell each other at the end of a batch, where all of them
    come by whatever a single one has skipped.

    Args:
        size: The number of tasks, K.
        group: The processes to average over.
        learn: A function of the means of a step, and of a bool on the device: False if there was no step; None for a
            step that is sure.
        notices: The warnings that were given.
    """

    def __init__(
        self,
        size: int,
        group: dist.ProcessGroup | None,
        learn: Callable[[WindowMeans, Tensor | None], None],
        notices: Notices,
    ) -> None:
        self.window, self.gradients = LossWindow(size), Gradients(self._optimizer_stepped)
        self._group, self._learn, self._notices = group, learn, notices
        self._calls = 0  # since the last step
        self._in_trainer, self._automatic = False, True
        self._carried = False  # True if the window has losses of an earlier batch
        self._slots = self._most_steps = 0  # steps per batch that the processes have agreed on, and that there were
        self._finished: list[tuple[Tensor, bool]] = []  # sums of steps that are to be exchanged; False if maybe none

    def watch(self, total: Tensor, call: Call) -> Tensor:
        """Return ``total``; once backward has gone through it, ``call`` counts."""
        return self.window.watch(total, call, self._before_backward)

    def _before_backward(self) -> None:
        """Forget what was recorded before if its gradients are gone by now."""
        self._calls += 1
        if self._calls == _MANY_CALLS:
            self._notices.warn(
                "never stepped",
                f"Backward went through {_MANY_CALLS} totals, and the weights have not learned from any. In a loop of "
                "your own write `weighting.follow(optimizer)` once, or `weighting.step()` after `optimizer.step()`.",
            )
        if self.window.used and self.gradients.visible:
            # What a closure tries is not dropped: others of its batch come after it.
            dropped = self._carried if self._in_trainer else not self.gradients.stepping
            self.window.keep(self.gradients.alive(), count=dropped)
            self._carried = False

    # ------------------------------------------------------------------------------------------------ closing

    def step(self) -> None:
        """Close the window; without effect where an optimizer that is followed has closed it."""
        if not self.gradients.followed or self.window.used or world_size(self._group) > 1:
            self._close()

    def _close(self) -> None:
        sure = self.window.used
        means = self.window.close(self._group)
        self._calls = 0
        if not self.gradients.followed:  # by step(): there was a step, whatever it saw
            sure, means = True, means._replace(used=True)
        self._learn(means, None if sure else torch.as_tensor(means.used))

    def _optimizer_stepped(self, alive: bool | Tensor) -> None:
        """Close the window if an optimizer that is followed has stepped, on nothing if it had no gradients."""
        self.window.keep(alive, count=True)
        if self._in_trainer and world_size(self._group) > 1:
            if self.window.touched:
                self._finish()
        elif self.window.touched or world_size(self._group) > 1:
            self._close()

    def clear(self) -> None:
        """Forget all calls."""
        self.window.clear()
        self._finished, self._calls = [], 0

    # ------------------------------------------------------------------------------------------------ a Trainer

    def begin(self, optimizers: Sequence[Any], *, automatic: bool) -> None:
        """Follow the optimizers of a Trainer, none where its strategy hides them; ``automatic`` optimisation or not."""
        self.gradients.leave()
        self.gradients.follow(optimizers)
        self._in_trainer, self._automatic = True, automatic
        self._slots = self._most_steps = 0
        self.clear()

    def leave(self) -> None:
        """End what :meth:`begin` began."""
        if self._in_trainer:
            self.gradients.leave()
            self._in_trainer = False

    def end_batch(self, due: bool) -> None:
        """Drop losses that the network did not learn from, and let several processes speak.

        Args:
            due: True if the Trainer has counted a step since the last time, really done or skipped.
        """
        hidden = not self.gradients.followed
        over = due and self._automatic and not hidden  # gradients that were not used by now never will be
        if over and not self._finished:
            self.window.keep(False, count=True)
        elif self.gradients.visible:
            self.window.keep(self.gradients.alive() if self.window.used else True, count=True)
        self.window.drop_unused()
        self._carried = self.window.used
        if world_size(self._group) == 1:
            if (due and hidden) or (over and self.window.touched):
                self._close()
        elif due or not self._automatic:
            self._speak(hidden or over)

    def _finish(self) -> None:
        used = self.window.used
        self._finished.append((self.window.take(), used))

    def _speak(self, one: bool) -> None:
        """Exchange the steps of this batch: one, or as many as the processes have agreed on."""
        if one and not self._finished:
            self._finish()
        self._most_steps = max(self._most_steps, len(self._finished))
        if not self._slots:
            self.agree()
        steps, self._finished = self._finished, []
        while len(steps) > self._slots:
            (sums, sure), (more, too) = steps[-2:]
            steps[-2:] = [(sums + more, sure or too)]
        steps += [(torch.zeros_like(self.window.sums), False)] * (self._slots - len(steps))
        table = torch.stack([sums for sums, _ in steps])
        sum_over_ranks(table, self._group)
        self._calls = 0
        for sums, (_, sure) in zip(table, steps, strict=True):
            means = mean_of(sums, world_size(self._group))
            self._learn(means, None if sure else torch.as_tensor(means.used))

    def agree(self) -> None:
        """Agree on the largest number of steps in a batch so far: after the first batch, and at the end of an epoch."""
        if world_size(self._group) > 1 and self._in_trainer and not self._automatic:
            most = torch.tensor(self._most_steps, device=self.window.sums.device)
            dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self._group)
            self._most_steps = int(most)
        self._slots = max(1, self._most_steps)
