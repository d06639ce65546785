"""Losses as parts of the first ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_uncertainty.engine.scale import Factors
from lightning_uncertainty.engine.state import HostFlags, TaskTensors
from lightning_uncertainty.strategies.weights import WeightRule
from lightning_uncertainty.tasks import Task

__all__ = ["Initial"]


@dataclass
class InitialState(TaskTensors):
    """The first loss of each task.

    Attributes:
        initial_loss: The mean of the first step with a loss above 0, over micro-batches and ranks; 0 before that.
    """

    initial_loss: Tensor = field(metadata={"negative": False})


class Initial(WeightRule):
    """Losses as parts of the first ones: the total is ``sum_k L_k / L_k(0)``.

    ``L_k(0)`` is the mean loss of the first step with the task. Within that step it is the first loss, on all ranks
    their mean. A task whose losses were all zero or negative so far has the factor 1.

    >>> import torch
    >>> from lightning_uncertainty import UncertaintyWeighting
    >>> weighting = UncertaintyWeighting({"depth": "laplace", "class": "softmax"}, strategy="initial")
    >>> for losses in (torch.tensor([4.0, 0.5], requires_grad=True), torch.tensor([1.0, 0.5], requires_grad=True)):
    ...     total = weighting(losses)
    ...     total.backward()
    ...     weighting.step()
    >>> total.item()
    1.25
    """

    name = "initial"
    state: InitialState

    def bind(self, tasks: Sequence[Task]) -> None:
        super().bind(tasks)
        self.state = InitialState(torch.zeros_like(self.given))
        self._first = torch.zeros_like(self.given)  # of this step; 0 for none
        self.restored()

    @property
    def now(self) -> Factors:
        return self._at(self.state.initial_loss)

    def _at(self, loss: Tensor) -> Factors:
        """Return ``1 / L``; the factor times its loss is 1, so that a scale does not change with the losses."""
        known = self.free & (loss > 0.0)
        factor = torch.where(known, 1.0 / loss, self.given)
        return Factors(factor, self.offset, torch.where(self.free, known.to(factor), torch.nan), factor)

    def factors(self, raw_loss: Tensor) -> Factors:
        """Return the factors in force; for a task that has not started, those at its first loss since the last step."""
        fresh = (self._first == 0.0) & (raw_loss > 0.0) & torch.isfinite(raw_loss)
        first = torch.where(fresh, raw_loss, self._first)
        if torch.is_grad_enabled():
            self._first.copy_(first)
        initial = self.state.initial_loss
        return self._at(torch.where(initial > 0.0, initial, first))

    def discard(self) -> None:
        self._first.zero_()

    def start(self, mean_loss: Tensor, present: Tensor) -> Tensor:
        """Keep the first losses."""
        if not self.settled:
            initial = self.state.initial_loss
            fresh = self.free & present & (initial == 0.0) & (mean_loss > 0.0)
            self.state.initial_loss = torch.where(fresh, mean_loss, initial)
            self.discard()
            self.factor = self.now.factor
            self.settled = self._flag.poll(self._started().reshape(1))
        return present

    def _started(self) -> Tensor:
        return (self.state.initial_loss > 0.0).logical_or(~self.free).all()

    def restored(self) -> Tensor:
        self.factor = self.now.factor
        self._flag, self.settled = HostFlags(), bool(self._started())
        return super().restored()
