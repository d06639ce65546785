"""Adam for a vector whose entries do not all take part in every step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_uncertainty.arguments import check_number

__all__ = ["MaskedAdam"]


class MaskedAdam:
    r"""Adam [Kingma and Ba, ICLR 2015, algorithm 1] with a mask and a step count per entry.

    An entry that is masked out keeps its value, its moments and its count, so that a task which is absent half of the
    time takes the same path as one that is always present, only later. An optimizer with one common count would go on
    moving it by its momentum.

    Args:
        size: number of entries.
        lr: step size.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(self, size: int, *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.lr = check_number("lr", lr, above=0.0)
        self.betas = tuple(check_number("betas", beta, above=0.0, below=1.0) for beta in betas)
        self.eps = check_number("eps", eps, above=1e-30)
        # Lightning sets the default dtype to that of the model: what is meant to be single precision says so.
        self.exp_avg = torch.zeros(size, dtype=torch.float32)
        self.exp_avg_sq = torch.zeros(size, dtype=torch.float32)
        self.count = torch.zeros(size, dtype=torch.float32)

    def update(self, gradient: Tensor, present: Tensor) -> Tensor:
        """What to subtract from the vector: zero where ``present`` is False, whatever the gradient is there.

        Args:
            gradient: of shape (size,), finite.
            present: bool, of shape (size,).
        """
        beta1, beta2 = self.betas
        active = present.to(gradient.dtype)
        self.count += active
        self.exp_avg.lerp_(gradient, active * (1.0 - beta1))
        self.exp_avg_sq.lerp_(gradient * gradient, active * (1.0 - beta2))
        count = self.count.clamp(min=1.0)  # an entry that never took part would divide by zero
        mean = self.exp_avg / _one_minus_power(beta1, count)
        root = (self.exp_avg_sq / _one_minus_power(beta2, count)).sqrt_().add_(self.eps)
        return active * (self.lr * mean / root)

    def forget(self, chosen: Tensor) -> None:
        """Start again, as if no step had been taken, where ``chosen`` (bool, of shape (size,)) is True."""
        for state in self.state().values():
            state.masked_fill_(chosen, 0.0)

    def state(self) -> dict[str, Tensor]:
        """The tensors that the next update depends on, by name; not copies."""
        return {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq, "count": self.count}


def _one_minus_power(beta: float, count: Tensor) -> Tensor:
    """``1 - beta ** count``, without the cancellation that costs four digits at beta = 0.999 in single precision."""
    return -torch.expm1(count * (math.log(beta) if beta else -math.inf))
