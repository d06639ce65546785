"""What is learned: one log-variance per task, where it starts, what bounds it, and the rule by which it moves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_uncertainty.likelihoods import LikelihoodVector
from lightning_uncertainty.regularizers import Regularizer
from lightning_uncertainty.strategies.adam import MaskedAdam

__all__ = ["LogVariances"]

# A first loss outside of this is no loss that anyone means (an overflow, an empty batch): it does not set the scale.
_PLAUSIBLE = (1e-16, 1e16)

# ds is dimensionless: 1/2 at a loss of zero, 0 at the loss that sigma expects, -1/2 at twice that loss. A loss beyond
# 200 times the expected one is an outlier; uncut, Adam's second moment would remember it for thousands of steps.
_MAX_GRADIENT = 100.0


class LogVariances:
    """The vector ``s = log sigma^2`` with its optimizer.

    Args:
        likelihoods: of the tasks, in their order.
        inits: initial ``s`` per task; None where the first loss decides.
        bounds: lowest and highest ``s`` per task.
        min_variance_ratio: ``sigma^2`` stays above this fraction of its initial value.
        regularizer: ``R``.
        adam: moves ``s``.
    """

    def __init__(
        self,
        likelihoods: LikelihoodVector,
        *,
        inits: Sequence[float | None],
        bounds: Sequence[tuple[float, float]],
        min_variance_ratio: float,
        regularizer: Regularizer,
        adam: MaskedAdam,
    ) -> None:
        self.likelihoods, self.regularizer, self.adam = likelihoods, regularizer, adam
        self.min_log_ratio = math.log(min_variance_ratio) if min_variance_ratio else -math.inf
        self.floor = torch.tensor([lowest for lowest, _ in bounds], dtype=torch.float32)
        self.ceiling = torch.tensor([highest for _, highest in bounds], dtype=torch.float32)
        values = torch.tensor([init or 0.0 for init in inits], dtype=torch.float32)
        self.value = values.clamp(self.floor, self.ceiling)
        self.start = self.value.clone()
        self.started = torch.tensor([init is not None for init in inits])
        self._max_gradient, self._min_gradient, self._zero = torch.tensor(
            [_MAX_GRADIENT, -_MAX_GRADIENT, 0.0], dtype=torch.float32
        )
        self._minus_rate = -torch.as_tensor(likelihoods.rate)
        self._push = self._push_at(self.value)
        self._derive_start()
        self._derive()

    def _derive_start(self) -> None:
        """What follows from where ``s`` has started, and from nothing that a step changes."""
        # The lower bound in force: absolute, or relative to the start, whichever is higher.
        self.lower = torch.maximum(self.floor, self.start + self.min_log_ratio)
        self._movable = self.started & self.learned

    def _derive(self) -> None:
        """The weights and regularisers, each of shape (K,); new tensors, for graphs that hold the old ones."""
        self.factor = self.likelihoods.factor(self.value)
        if self.regularizer.linear:
            self.offset = self._push * self.value
        else:
            self.offset, self._push = self.offset_at(self.value), self._push_at(self.value)

    def offset_at(self, log_var: Tensor) -> Tensor:
        """The regularisers at ``log_var``, 0 for tasks without."""
        return self.likelihoods.regularized * self.regularizer.value(log_var)

    def _push_at(self, log_var: Tensor) -> Tensor:
        """The derivatives of the regularisers at ``log_var``."""
        return self.likelihoods.regularized * self.regularizer.derivative(log_var)

    @property
    def learned(self) -> Tensor:
        """Bool, of shape (K,): False for fixed tasks."""
        return torch.as_tensor(self.likelihoods.learned)

    def begin(self, raw_loss: Tensor, present: Tensor) -> Tensor:
        """Set ``s`` to the closed-form optimum where it has no value yet, and tell where that was.

        A first loss that is zero, negative, or beyond 1e-16 to 1e16 does not set the scale.
        """
        optimum = self._optimum(raw_loss)
        fresh = ~self.started & present & (raw_loss > _PLAUSIBLE[0]) & (raw_loss < _PLAUSIBLE[1])
        for tensor in (self.value, self.start):
            tensor.copy_(torch.where(fresh, optimum, tensor))
        self.started |= fresh
        self._derive_start()
        self._derive()
        return fresh

    def provisional(self, raw_loss: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """``s`` with the closed-form optimum of this very loss where it has no value yet, and where that is.

        Args:
            raw_loss: of shape (K,), NaN where a task is absent.
            held: bool, of shape (K,): tasks that need no start.
        """
        fresh = ~(self.started | held) & torch.isfinite(raw_loss) & (raw_loss > 0.0)
        return torch.where(fresh, self._optimum(raw_loss), self.value), fresh

    def _optimum(self, raw_loss: Tensor) -> Tensor:
        return self.likelihoods.optimum(raw_loss, self.regularizer).clamp(self.floor, self.ceiling)

    def learn(self, raw_loss: Tensor, slope: Tensor | None, present: Tensor) -> None:
        """One step of Adam on the closed-form derivative; tasks that are not ``present`` stay as they are.

        Args:
            raw_loss: mean losses, of shape (K,).
            slope: mean derivative of the loss itself with respect to ``s``, of shape (K,).
            present: bool, of shape (K,).
        """
        active = present & self._movable
        gradient = self._gradient(raw_loss, slope)
        gradient = torch.where(active, gradient, self._zero).clamp_(self._min_gradient, self._max_gradient)
        self.value -= self.adam.update(gradient, active)
        # Projected after the step, not clamped in the formula: at a bound the gradient still points the way back.
        self.value.clamp_(self.lower, self.ceiling)
        self._derive()

    def _gradient(self, raw_loss: Tensor, slope: Tensor | None) -> Tensor:
        """``Likelihood.derivative`` at the present ``s``, whose weights are known already, plus ``slope``."""
        gradient = torch.addcmul(self._push, self._minus_rate * self.factor, raw_loss)
        return gradient if slope is None else gradient + slope

    def project(self) -> Tensor:
        """Move ``s`` and its start into the bounds, and tell where that changed ``s`` (bool, of shape (K,))."""
        before = self.value.clone()
        self.start.clamp_(self.floor, self.ceiling)
        self._derive_start()
        self.value.clamp_(self.lower, self.ceiling)
        self._derive()
        return before != self.value

    def assign(self, chosen: Tensor, value: Tensor) -> None:
        """Set ``s`` on purpose, where ``chosen`` (bool, of shape (K,)) is True: a new start, without memory."""
        for tensor in (self.value, self.start):
            tensor.copy_(torch.where(chosen, value, tensor))
        self.started |= chosen
        self.adam.forget(chosen)
        self._derive_start()
        self._derive()

    def state(self) -> dict[str, Tensor]:
        """The tensors that the next step depends on, by name; not copies."""
        return {"log_var": self.value, "start": self.start, "started": self.started, **self.adam.state()}
