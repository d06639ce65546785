"""Random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

import torch
from torch import Tensor

from lightning_uncertainty._arguments import check_steps
from lightning_uncertainty.engine.state import TaskTensors
from lightning_uncertainty.strategies.weights import WeightRule
from lightning_uncertainty.tasks import Task

__all__ = ["Random"]


@dataclass
class RandomState(TaskTensors):
    """The place in the sequence of draws.

    Attributes:
        draws: The number of draws before this one.
    """

    draws: Tensor = field(metadata={"negative": False, "shown": False})


class Random(WeightRule):
    r"""Random loss weighting: the factors are ``K softmax(z)``, with ``z_k`` from N(0, 1) anew for each optimizer step.

    Lin et al., "Reasonable Effectiveness of Random Weighting", TMLR 2022. A test for other methods rather than one to
    use: what does not beat it balances nothing.

    A draw is a function of the seed, the name of the task and the number of the step. So it is the same on all ranks
    and after a resume, and no random number generator of torch moves.

    Args:
        seed: The number by which one sequence of draws differs from another.

    Raises:
        ValueError: if the seed is no whole number that is not negative.

    >>> from lightning_uncertainty import UncertaintyWeighting
    >>> weighting = UncertaintyWeighting({"depth": "laplace", "class": "softmax"}, strategy=Random(seed=1))
    >>> round(sum(weighting.weights.values()), 5)
    2.0
    """

    name = "random"
    settled = True
    state: RandomState

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = check_steps("seed", seed)

    def bind(self, tasks: Sequence[Task]) -> None:
        super().bind(tasks)
        self._key = torch.tensor([crc32(f"{self.seed} {task.name}".encode()) for task in tasks])
        self.state = RandomState(torch.zeros_like(self._key))
        self.restored()

    def learn(self, mean_loss: Tensor, slope: Tensor | None, present: Tensor) -> None:
        """Draw for the next step."""
        self.state.draws = self.state.draws + present.any()  # a step of which nothing came is none
        self.restored()

    def restored(self) -> Tensor:
        weights = self.free.sum() * self.softmax(_normal(self._key, self.state.draws), self.free)
        self.factor = torch.where(self.free, weights, self.given)
        return super().restored()


def _normal(key: Tensor, count: Tensor) -> Tensor:
    """Return a number from N(0, 1) for each key and count (int64, of shape (K,)), by Box and Muller's formula."""
    bits = (_mixed(key ^ _mixed(2 * count + half)) for half in (0, 1))
    one, other = ((each.to(torch.float32) + 0.5) * 2.0**-32 for each in bits)
    return torch.sqrt(-2.0 * torch.log(one)) * torch.cos(2.0 * math.pi * other)


def _mixed(bits: Tensor) -> Tensor:
    """Return a hash of 32 bits in which each bit depends on all those given (a multiplicative xorshift)."""
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * 0x45D9F3B) & 0xFFFFFFFF  # the product has 59 bits, so int64 holds it
    return bits ^ (bits >> 16)
