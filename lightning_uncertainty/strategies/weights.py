"""The common part of strategies without sigma."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_uncertainty.engine.state import TaskTensors
from lightning_uncertainty.strategies.base import Strategy
from lightning_uncertainty.tasks import Task

__all__ = ["WeightRule"]


class WeightRule(Strategy):
    """A strategy without sigma: a factor for each task with a likelihood, whichever it is.

    A task that is declared with a number keeps it as its factor, and takes no part in the rule.

    Attributes:
        free: bool, of shape (K,): True for the tasks whose factor the rule gives.
        given: The factors of the others, and 1, fp32, of shape (K,).
    """

    free: Tensor
    given: Tensor

    def bind(self, tasks: Sequence[Task]) -> None:
        """Start with the factor 1; a subclass sets its ``state``, and derives ``factor`` from it."""
        given = self.given_factors(tasks)
        self.learned = dict.fromkeys(given, False)
        self.free = torch.tensor([number is None for number in given.values()])
        self.given = torch.tensor([1.0 if n is None else n for n in given.values()], dtype=torch.float32)
        self.factor = self.given
        self.offset = torch.zeros_like(self.given)
        self.state = TaskTensors()

    def given_factors(self, tasks: Sequence[Task]) -> dict[str, float | None]:
        """Return the factors that are given, by task; None for those that the rule gives."""
        return {task.name: None if task.likelihood.learned else task.likelihood.coefficient for task in tasks}

    def softmax(self, logits: Tensor, among: Tensor) -> Tensor:
        """Return the softmax of ``logits`` over the tasks ``among`` (bool), each of shape (K,); 0 for the others."""
        weights = torch.softmax(logits.masked_fill(~among, -torch.inf), 0)
        return torch.where(among, weights, 0.0)
