"""The rule of learned uncertainty beside a CPU, without an operation of torch."""

from __future__ import annotations

import math
import operator
from array import array
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_uncertainty.engine.state import TaskTensors
from lightning_uncertainty.engine.window import host_values, is_few
from lightning_uncertainty.strategies.adam import MaskedAdam

__all__ = ["HostRule"]

_STATE = "log_var", "exp_avg", "exp_avg_sq", "count"
_LARGEST = 709.0  # whose exponential is a float


class HostRule:
    """Takes the steps of :class:`~lightning_uncertainty.strategies.Uncertainty` on a CPU, for a linear regulariser.

    For a few tasks the formulas are worked out with numbers of Python, task by task; for many with arrays of numpy.
    An operation of torch costs as much as twenty of the former and four of the latter, and what it brings into the
    caches drives the network out of them.

    Args:
        adam: The optimizer of ``s``.
        learned: bool: True for the tasks that learn.
        push: The derivatives of the regularisers.
        minus_rate: The rates ``r`` of the likelihoods, times -1.
        coefficient: Their coefficients ``c``.
        largest: The largest derivative by ``s`` that is followed.

    Attributes:
        factor: The factors ``c exp(-r s)``, rounded to single precision.
        rounded: The tensor that has the same values.
    """

    def __init__(
        self, adam: MaskedAdam, learned: Tensor, push: Tensor, minus_rate: Tensor, coefficient: Tensor, largest: float
    ) -> None:
        self._adam, self._largest, self._few = adam, largest, is_few(push)
        # Copies: whoever pickles an engine for another process moves the memory of its tensors.
        self._learned, *rule = (host_values(each.clone()) for each in (learned, push, minus_rate, coefficient))
        self._push, self._minus_rate, self._coefficient = rule
        self._limits: tuple[Any, ...] = None, None, None
        self.factor: Any = None
        self.rounded: Tensor | None = None

    def take(self, factor: Tensor) -> None:
        """Go on with the factors of a strategy, which are on a CPU."""
        self.rounded, self.factor = factor, array("f", factor.tolist()) if self._few else factor.numpy().copy()

    def derive(self, state: TaskTensors) -> tuple[Tensor, Tensor]:
        """Return the factors and the regularisers at ``s``, as new tensors."""
        return self._derive(host_values(state.tensors()["log_var"]))

    def learn(
        self, state: TaskTensors, mean_loss: Any, lower: Tensor, upper: Tensor, active: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Take a step, and return what :meth:`derive` does.

        Args:
            state: The state of the strategy.
            mean_loss: The mean losses, as ``host_values`` has them.
            lower: The lowest ``s``.
            upper: The highest ``s``.
            active: The tasks that learn, as the mean losses; None for all that can.
        """
        if self._limits[0] is not lower:
            self._limits = lower, host_values(lower.clone()), host_values(upper.clone())
        learn, views = self._learn if self._few else self._learn_many, state.views(*_STATE)
        learn(mean_loss, self._learned if active is None else active, *self._limits[1:], *views)
        return self._derive(views[0])

    def _learn(
        self, loss: Any, active: Any, lower: Any, upper: Any, log_var: Any, mean: Any, square: Any, count: Any
    ) -> None:
        adam, largest, expm1, sqrt = self._adam, self._largest, math.expm1, math.sqrt
        (beta, other), (log_beta, other_log), lr, eps = adam.betas, adam.log_betas, adam.lr, adam.eps
        rule = zip(active, loss, self.factor, self._push, self._minus_rate, lower, upper, strict=True)
        for index, (yes, value, factor, push, minus_rate, low, high) in enumerate(rule):
            if yes:
                slope = minus_rate * factor * value + push
                slope = -largest if slope < -largest else largest if slope > largest else slope
                steps = count[index] = count[index] + 1.0
                first = mean[index] = mean[index] + (1.0 - beta) * (slope - mean[index])
                second = square[index] = square[index] + (1.0 - other) * (slope * slope - square[index])
                root = sqrt(-second / expm1(other_log * steps)) + eps
                s = log_var[index] + lr * first / expm1(log_beta * steps) / root
                log_var[index] = low if s < low else high if s > high else s

    @np.errstate(all="ignore")  # of tasks that sit out
    def _learn_many(
        self, loss: Any, active: Any, lower: Any, upper: Any, log_var: Any, mean: Any, square: Any, count: Any
    ) -> None:
        adam, largest = self._adam, self._largest
        slope = self._minus_rate * self.factor * loss + self._push
        slope = np.minimum(np.maximum(slope, -largest), largest)
        steps = count + 1.0
        first = mean + (1.0 - adam.betas[0]) * (slope - mean)
        second = square + (1.0 - adam.betas[1]) * (slope * slope - square)
        root = np.sqrt(second / -np.expm1(adam.log_betas[1] * steps)) + adam.eps
        s = log_var + adam.lr * first / np.expm1(adam.log_betas[0] * steps) / root
        s = np.minimum(np.maximum(s, lower), upper)
        for old, new in ((log_var, s), (mean, first), (square, second), (count, steps)):
            np.copyto(old, new, where=active)

    def _derive(self, log_var: Any) -> tuple[Tensor, Tensor]:
        if not self._few:
            with np.errstate(all="ignore"):
                self.factor = self._coefficient * np.exp(self._minus_rate * log_var)
            self.rounded = torch.from_numpy(self.factor)
            return self.rounded, torch.from_numpy(self._push * log_var)
        rule = zip(self._coefficient, self._minus_rate, log_var, strict=True)
        self.factor = array("f", [c * math.exp(r * s) if r * s < _LARGEST else math.inf for c, r, s in rule])
        offset = array("f", map(operator.mul, self._push, log_var))
        self.rounded = torch.frombuffer(self.factor, dtype=torch.float32)
        return self.rounded, torch.frombuffer(offset, dtype=torch.float32)
