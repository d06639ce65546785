"""The recorder tells which losses make a step of the weights: those whose gradients an optimizer has used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.engine.gradients import Gradients
from lightning_uncertainty.engine.window import Call, LossWindow, WindowMeans, exchange, world_size

__all__ = ["HIDDEN", "Recorder"]

HIDDEN = "so sigma cannot see which of its steps are skipped: it learns from the losses of all of them."

_MANY_CALLS = 300  # calls in a loop that backward went through without a step: more than anybody accumulates


class Recorder:
    """The window of losses, and the moments at which it closes.

    In a loop of one's own it closes at :meth:`step`, or by itself when an optimizer that is followed has stepped. Under
    a Trainer (:meth:`begin`) with several processes these only tell each other at the end of a batch, where all of them
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
        self.window, self.gradients = LossWindow(size), Gradients(self._optimizer_stepped, searching=True)
        self._group, self._learn, self._notices = group, learn, notices
        self._mode: Literal["by hand", "following", "trainer", "blind"] = "by hand"
        self._followed: list[Any] = []  # weak references to those that the user followed before a Trainer came
        self._calls = 0  # since the last step
        self._sealed = False  # True if an optimizer has used what is in the window: zeroed gradients forget it no more
        self._automatic, self._patience = True, 0
        self._carried = False  # True if the window has losses of an earlier batch
        self._learned = False  # True if this batch had a step
        self._batches = self._seen_steps = self._unseen_steps = 0
        self._steps_per_batch = self._most_steps = 0  # on which the processes have agreed, and that there were
        self._finished: list[tuple[Tensor, bool]] = []  # sums of steps that are to be exchanged; False if maybe none

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy starts from: it follows no optimizer."""
        return {**vars(self), "_mode": "by hand", "_followed": []}

    def watch(self, total: Tensor, call: Call) -> Tensor:
        """Return ``total``; once backward has gone through it, ``call`` counts."""
        return self.window.watch(total, call, self._before_backward)

    def _before_backward(self, fresh: bool) -> None:
        """Forget what was recorded before if its gradients are gone by now.

        Args:
            fresh: False if another total may be on its way in the same backward pass.
        """
        self.gradients.arrive()
        if self._mode in ("by hand", "following") and not self.gradients.stepping:
            self._calls += 1
            if self._calls == _MANY_CALLS:
                self._notices.warn(
                    "never stepped",
                    f"Backward went through {_MANY_CALLS} totals, and the weights learned from none. In your own loop "
                    "write `weighting.follow(optimizer)` once, or `weighting.step()` after `optimizer.step()`.",
                )
        if fresh and self.window.used and self.gradients.visible and not self._sealed:
            # What a closure tries is not dropped: others of its batch come after it.
            dropped = self._carried if self._mode == "trainer" else not self.gradients.stepping
            self.window.forget_unless(self.gradients.alive(), count=dropped)
            self._carried = False

    # ------------------------------------------------------------------------------------------------ closing

    def follow(self, optimizers: Sequence[Any]) -> None:
        """Close the window by itself whenever one of these has stepped."""
        if self._mode == "by hand":
            self._forget_optimizers()
        self.gradients.follow(optimizers)
        self._mode = "following" if self._mode == "by hand" else self._mode

    def step(self) -> None:
        """Close the window; without effect where an optimizer that is followed has closed it."""
        if self._mode in ("by hand", "blind") or self.window.used or world_size(self._group) > 1:
            self._close(asked=self._mode in ("by hand", "blind"))

    def _close(self, *, asked: bool = False) -> None:
        """Close the window on a step; ``asked`` for: there was one, whatever was seen of it."""
        sure = self.window.used
        means = self.window.close(self._group)
        self._calls, self._sealed, self._learned = 0, False, True
        self._tell(means._replace(used=True) if asked and means.used is not True else means, sure or asked)

    def _tell(self, means: WindowMeans, sure: bool) -> None:
        self._learn(means, None if sure else torch.as_tensor(means.used))

    def _optimizer_stepped(self, alive: bool | Tensor, mine: bool) -> None:
        """Close the window if an optimizer has stepped on its losses (``mine``); on nothing if it had no gradients."""
        if self._mode in ("by hand", "blind"):
            self._sealed = self._sealed or (mine and alive is not False)
            return
        alone = world_size(self._group) == 1
        if not mine:
            if self._mode == "following" and not alone:  # the others may be in a step of theirs
                (means,) = exchange(torch.zeros_like(self.window.sums).unsqueeze(0), self._group)
                self._tell(means, False)
        else:
            before = self.window.used
            self.window.forget_unless(alive, count=True)
            self._seen_steps += self.window.used
            self._unseen_steps += before and not self.window.used
            if self._mode == "trainer" and not alone:
                if self.window.touched:
                    self._finish()
            elif self.window.touched or not alone:
                self._close()

    def clear(self) -> None:
        """Forget all calls."""
        self.window.clear()
        self._finished, self._calls, self._sealed, self._carried, self._learned = [], 0, False, False, False

    # ------------------------------------------------------------------------------------------------ a Trainer

    @property
    def skipping(self) -> bool:
        """True if the last step of automatic optimisation was skipped, as a GradScaler does."""
        return self._automatic and self._carried

    def begin(self, optimizers: Sequence[Any], *, automatic: bool, patience: int = 5) -> None:
        """Follow the optimizers of a Trainer.

        Args:
            optimizers: The optimizers; none where its strategy hides them.
            automatic: True for automatic optimisation.
            patience: The number of steps after which, if none could be seen, all are taken for real.
        """
        self._patience = patience
        self._followed = self.gradients.references if self._mode == "following" else []
        self._forget_optimizers()
        self.gradients.follow(optimizers)
        self._mode, self._automatic = "trainer" if optimizers else "blind", automatic
        self._batches = self._steps_per_batch = self._most_steps = self._seen_steps = self._unseen_steps = 0
        self.clear()

    def begin_epoch(self, optimizers: Sequence[Any]) -> None:
        """Follow optimizers that are new, or have got their parameters since."""
        if self._mode != "blind" or not self._unseen_steps:
            self.gradients.follow(optimizers)
            self._mode = "trainer" if optimizers else "blind"

    def leave(self) -> None:
        """End what :meth:`begin` began, and follow again whom the user followed."""
        if self._mode in ("trainer", "blind"):
            self._mode = "by hand"
            self._forget_optimizers(searching=True)
            if followed := [optimizer for each in self._followed if (optimizer := each()) is not None]:
                self.follow(followed)

    def end_batch(self, due: bool) -> None:
        """Drop losses that the network did not learn from, and let several processes speak.

        Args:
            due: True if the Trainer has counted a step since the last time, really done or skipped.
        """
        blind, over = self._mode == "blind", due and self._automatic
        if over and not blind and not self._seen_steps:
            self._unseen_steps += self.window.used
            if blind := self._unseen_steps > self._patience:
                self._mode = "blind"
                self._notices.warn(
                    "hidden optimizer",
                    f"In {self._patience} steps, no optimizer was seen that had gradients of the parameters. It may "
                    f"have copies of its own, {HIDDEN}",
                )
        if not blind and not self._finished:
            if self.gradients.visible:
                self.window.forget_unless(self.gradients.alive() if self.window.used else True, count=True)
            elif over:  # gradients of shards that were not used by now never will be
                self.window.forget_unless(False, count=True)
        self.window.drop_unused(count=not self._learned)
        self._carried, self._learned = self.window.used, False
        if world_size(self._group) == 1:
            if blind and due:
                self._close(asked=True)
            elif over and self.window.touched and not self.window.used:
                self._close()  # only to count what was dropped
        elif due or not self._automatic:
            self._speak(blind and due)

    def _forget_optimizers(self, *, searching: bool = False) -> None:
        self.gradients.leave()
        self.gradients = Gradients(self._optimizer_stepped, searching=searching)

    def _finish(self) -> None:
        used, self._learned = self.window.used, True
        self._finished.append((self.window.take(), used))

    def _speak(self, blind: bool) -> None:
        """Exchange the steps of this batch: one, or as many as the processes have agreed on."""
        if blind:
            self._finish()
        self._batches += 1
        self._most_steps = max(self._most_steps, len(self._finished))
        if self._batches & (self._batches - 1) == 0:  # the first batch, the second, the fourth, the eighth...
            self.agree()
        steps, self._finished = self._finished, []
        while len(steps) > self._steps_per_batch:
            (sums, sure), (more, too) = steps[-2:]
            steps[-2:] = [(sums + more, sure or too)]
        steps += [(torch.zeros_like(self.window.sums), False)] * (self._steps_per_batch - len(steps))
        for means, (_, sure) in zip(exchange(torch.stack([s for s, _ in steps]), self._group), steps, strict=True):
            self._tell(means, sure)

    def agree(self) -> None:
        """Agree on the largest number of steps in a batch so far; automatic optimisation has one."""
        if self._automatic:
            self._most_steps = 1
        elif world_size(self._group) > 1:
            most = torch.tensor(self._most_steps, device=self.window.sums.device)
            dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self._group)
            self._most_steps = int(most)
        self._steps_per_batch = max(1, self._most_steps)
