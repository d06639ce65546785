"""Factors that are given and stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_uncertainty._arguments import check_number, lookup
from lightning_uncertainty.engine.scale import Factors
from lightning_uncertainty.engine.state import TaskTensors
from lightning_uncertainty.strategies.weights import WeightRule
from lightning_uncertainty.tasks import Task

__all__ = ["Equal", "Fixed"]


@dataclass
class FixedState(TaskTensors):
    """The given factors, saved so that they can be read from a checkpoint.

    Attributes:
        fixed_factor: The factor of each task.
    """

    fixed_factor: Tensor = field(metadata={"negative": False, "shown": False})


class Fixed(WeightRule):
    """Given factors: the total is ``sum_k w_k L_k``.

    Args:
        factors: The factor ``w`` by task. A task without one keeps the number that it was declared with, or has 1.

    Raises:
        ValueError: if a factor is negative or not finite, or belongs to no task.

    >>> from lightning_uncertainty import UncertaintyWeighting
    >>> UncertaintyWeighting({"depth": "laplace", "aux": 0.1}, strategy=Fixed({"depth": 3.0})).weights
    {'depth': 3.0, 'aux': 0.10000000149011612}
    """

    name = "fixed"
    settled = True
    state: FixedState

    def __init__(self, factors: Mapping[str, float] | None = None) -> None:
        self.by_task = {
            name: check_number(f"The factor of task {name!r}", value, above=0.0)
            for name, value in (factors or {}).items()
        }

    def bind(self, tasks: Sequence[Task]) -> None:
        super().bind(tasks)
        self.state = FixedState(self.given.clone())
        self.restored()

    def given_factors(self, tasks: Sequence[Task]) -> dict[str, float | None]:
        given = super().given_factors(tasks)
        for name, factor in self.by_task.items():
            lookup("task", name, given)
            given[name] = factor
        return given

    @property
    def now(self) -> Factors:
        """The given factors, which no scale changes."""
        return Factors(self.factor, self.offset, pull=torch.full_like(self.factor, torch.nan))

    def restored(self) -> Tensor:
        """Take over saved factors where none is given now."""
        self.state.fixed_factor = self.factor = torch.where(self.free, self.state.fixed_factor, self.given)
        return super().restored()


class Equal(Fixed):
    """The plain sum: the factor of each task is 1, but for those that are declared with a number.

    >>> from lightning_uncertainty import UncertaintyWeighting
    >>> UncertaintyWeighting({"depth": "laplace", "aux": 0.5}, strategy="equal").weights
    {'depth': 1.0, 'aux': 0.5}
    """

    name = "equal"

    def __init__(self) -> None:
        super().__init__()
