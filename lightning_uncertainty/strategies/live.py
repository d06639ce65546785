"""The common part of strategies whose factors follow from the losses of the very call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_uncertainty.engine.scale import Factors
from lightning_uncertainty.engine.state import TaskTensors
from lightning_uncertainty.strategies.weights import WeightRule
from lightning_uncertainty.tasks import Task

__all__ = ["LiveRule"]

# The smallest loss that a float has all digits of, and whose inverse is finite.
_SMALLEST, _LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


@dataclass
class LiveState(TaskTensors):
    """The state of a rule that needs no memory: what is shown of it.

    Attributes:
        live_factor: The factor at the mean loss of the last step with the task.
        live_offset: The offset there.
        sat_out: The number of steps in which the task sat out because its loss was zero or negative.
    """

    live_factor: Tensor = field(metadata={"negative": False, "shown": False})
    live_offset: Tensor = field(metadata={"shown": False})
    sat_out: Tensor = field(metadata={"negative": False})


class LiveRule(WeightRule):
    """A rule without memory: the factors follow from the losses of each call, on each rank from its own.

    So micro-batches have factors of their own, and four of them are not one batch of four times the size. What is shown
    are the factors at the mean losses of the last step, which are the same on all ranks; once frozen, these stay in
    force. A task whose loss is zero or negative sits out: its factor is 0.
    """

    live = True
    state: LiveState

    def bind(self, tasks: Sequence[Task]) -> None:
        super().bind(tasks)
        self.state = LiveState(self.given.clone(), self.offset, torch.zeros(len(tasks), dtype=torch.long))

    @abstractmethod
    def weigh(self, loss: Tensor, taking: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors and offsets, each of shape (K,) or (); of no meaning for tasks that take no part.

        Args:
            loss: The losses, positive and finite, fp32, of shape (K,); 1 for tasks that take no part.
            taking: bool, of shape (K,): True for the tasks that take part.
        """

    def factors(self, raw_loss: Tensor) -> Factors:
        """Return the factors at these losses."""
        taking = self._taking(raw_loss)
        factor, offset = self.weigh(torch.where(taking, raw_loss, 1.0), taking)
        return Factors(
            torch.where(taking, factor, self.given.masked_fill(self.free, 0.0)), torch.where(taking, offset, 0.0)
        )

    def _taking(self, raw_loss: Tensor) -> Tensor:
        return self.free & (raw_loss >= _SMALLEST) & (raw_loss <= _LARGEST)

    def learn(self, mean_loss: Tensor, slope: Tensor | None, present: Tensor) -> None:
        """Take note of the factors at the mean losses, for those who look at them."""
        mean_loss = torch.where(present, mean_loss, torch.nan)
        now, state = self.factors(mean_loss), self.state
        state.live_factor = torch.where(present, now.factor, state.live_factor)
        state.live_offset = torch.where(present, now.offset, state.live_offset)
        state.sat_out = state.sat_out + (present & self.free & ~self._taking(mean_loss))
        self.restored()

    def restored(self) -> Tensor:
        self.factor, self.offset = self.state.live_factor, self.state.live_offset
        return super().restored()
