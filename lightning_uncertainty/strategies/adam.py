"""Adam for a vector whose entries do not all take part in every step."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lightning_uncertainty._arguments import Setting, check_number
from lightning_uncertainty.engine.window import Array

__all__ = ["HostAdam", "MaskedAdam"]


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

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(self, *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.lr = check_number("lr", lr, above=0.0)
        self.betas = tuple(check_number("betas", beta, above=0.0, below=1.0) for beta in betas)
        self.eps = check_number("eps", eps, above=1e-30)
        # As tensors, because an operation with a Python number costs twice one with a tensor; in single precision,
        # because Lightning sets the default dtype to that of the model.
        self._rates, self._log_betas = torch.tensor(
            [[1.0 - beta for beta in self.betas], [math.log(beta) if beta else -1e30 for beta in self.betas]],
            dtype=torch.float32,
        ).unsqueeze(-1)
        self._minus_lr, self._eps, self._tiny = torch.tensor([-self.lr, self.eps, -1e-30], dtype=torch.float32)

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
        return active * step

    def on_host(self, active: Array) -> HostAdam:
        """Return what :meth:`update` does, to rounding, on a CPU; for the entries whose ``active`` is 1, else 0."""
        return HostAdam(self, active)


class HostAdam:
    """The update of :class:`MaskedAdam` in numpy, with its constants ready for K entries.

    Numpy takes thrice as long if it has to repeat a number, and twice as long for a number of Python.
    """

    def __init__(self, adam: MaskedAdam, active: Array) -> None:
        ones = np.ones((2, len(active)), dtype=np.float32)
        self._active, self._rates = active, ones * adam._rates.numpy() * active
        self._log_betas, self._tiny = ones * adam._log_betas.numpy(), ones * np.float32(1e-30)
        self._minus_lr, self._eps = active * np.float32(-adam.lr), ones[0] * np.float32(adam.eps)

    def update(self, moments: Array, count: Array, gradient: Array) -> Array:
        """Return what to subtract from the vector; arguments as for :meth:`MaskedAdam.update`."""
        count += self._active
        change = np.empty_like(moments)
        change[0] = gradient
        np.multiply(gradient, gradient, out=change[1])
        change -= moments
        change *= self._rates
        moments += change
        correction = self._log_betas * count
        correction -= self._tiny
        minus_mean, minus_square = moments / np.expm1(correction, out=correction)
        root = np.sqrt(-minus_square)
        root += self._eps
        minus_mean *= self._minus_lr
        step: Array = minus_mean / root
        return step
