"""Adam for a vector whose entries do not all take part in every step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_uncertainty._arguments import Setting, check_number

__all__ = ["MaskedAdam"]


class MaskedAdam(Setting):
    r"""Adam [Kingma and Ba, ICLR 2015, algorithm 1] with a mask and a step count per entry.

    An entry that is masked out keeps its value, its moments and its count, so that a task which is absent half of the
    time takes the same path as one that is always present, only later. An optimizer with one common count would go on
    moving it by its momentum.

    The moments and the counts are the caller's, who saves and moves them.

    Args:
        lr: The step size.
        betas: The decay rates of the two moments.
        eps: The number that is added to the root of the second moment.

    Attributes:
        log_betas: The logarithms of the decay rates.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(self, *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.lr = check_number("lr", lr, above=0.0)
        self.betas = tuple(check_number("betas", beta, above=0.0, below=1.0) for beta in betas)
        self.eps = check_number("eps", eps, above=1e-30)
        self.log_betas = [math.log(beta) if beta else -1e30 for beta in self.betas]
        # As tensors, because an operation with a Python number costs twice one with a tensor; in single precision,
        # because Lightning sets the default dtype to that of the model.
        self._rates, self._log_betas = torch.tensor(
            [[1.0 - beta for beta in self.betas], self.log_betas], dtype=torch.float32
        ).unsqueeze(-1)
        values = torch.tensor([-self.lr, self.eps, -1e-30, 0.0], dtype=torch.float32)
        self._minus_lr, self._eps, self._tiny, self._none = values

    def use(self, lr: float) -> None:
        """Change the step size."""
        self.lr = lr
        self._minus_lr.fill_(-lr)

    def update(self, moments: Tensor, count: Tensor, gradient: Tensor, present: Tensor) -> Tensor:
        """Return what to subtract from the vector: zero where ``present`` is False, whatever the gradient is there.

        Args:
            moments: The first and the second moments, fp32, of shape (2, K); updated in place.
            count: The number of steps of each entry, fp32, of shape (K,); updated in place.
            gradient: The gradient, finite, of shape (K,).
            present: bool, of shape (K,).
        """
        active = present.to(torch.float32)
        count += active
        moments.lerp_(torch.stack((gradient, gradient * gradient)), self._rates * active)
        # beta ** count - 1, without the cancellation that costs four digits at beta = 0.999 in single precision.
        # Of an entry that never took part it is -1e-30, which is nothing to the others, and by which one can divide.
        minus_mean, minus_square = moments / torch.addcmul(self._tiny, self._log_betas, count).expm1_()
        step: Tensor = self._minus_lr * minus_mean / minus_square.neg_().sqrt_().add_(self._eps)
        return torch.where(present, step, self._none)
