"""Adam for a vector whose entries do not all take part in every step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_uncertainty._arguments import check_number

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
        self.moments = torch.zeros(2, size, dtype=torch.float32)
        self.count = torch.zeros(size, dtype=torch.float32)
        # As tensors, because an operation with a Python number costs twice one with a tensor.
        self._rates, self._log_betas = torch.tensor(
            [[1.0 - beta for beta in self.betas], [math.log(beta) if beta else -1e30 for beta in self.betas]],
            dtype=torch.float32,
        ).unsqueeze(-1)
        self._minus_lr, self._eps, self._tiny = torch.tensor([-self.lr, self.eps, -1e-30], dtype=torch.float32)

    def update(self, gradient: Tensor, present: Tensor) -> Tensor:
        """What to subtract from the vector: zero where ``present`` is False, whatever the gradient is there.

        Args:
            gradient: of shape (size,), finite.
            present: bool, of shape (size,).
        """
        active = present.to(torch.float32)
        self.count += active
        self.moments.lerp_(torch.stack((gradient, gradient * gradient)), self._rates * active)
        # beta ** count - 1, without the cancellation that costs four digits at beta = 0.999 in single precision.
        # Of an entry that never took part it is -1e-30, which is nothing to the others, and by which one can divide.
        minus_mean, minus_square = self.moments / torch.addcmul(self._tiny, self._log_betas, self.count).expm1_()
        step: Tensor = self._minus_lr * minus_mean / minus_square.neg_().sqrt_().add_(self._eps)
        return active * step

    def forget(self, chosen: Tensor) -> None:
        """Start again, as if no step had been taken, where ``chosen`` (bool, of shape (size,)) is True."""
        for state in (self.moments, self.count):
            state.masked_fill_(chosen, 0.0)

    def state(self) -> dict[str, Tensor]:
        """The tensors that the next update depends on, by name; not copies."""
        return {"exp_avg": self.moments[0], "exp_avg_sq": self.moments[1], "count": self.count}
