"""The part of a task's loss that keeps its variance from growing without end.

A task's term in the total is ``c exp(-r s) L + R(s)`` (see :mod:`lightning_uncertainty.likelihoods`). Here is ``R``:
its value, its derivative, and the ``s`` at which it balances the weighted loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from lightning_uncertainty._arguments import Setting, lookup

__all__ = ["Log1pVar", "LogSigma", "Regularizer", "Sigma", "get_regularizer"]


class Regularizer(Setting, ABC):
    r"""A function ``R(s)`` of the log-variance ``s = log sigma^2``; all methods are elementwise."""

    name: ClassVar[str]
    linear: ClassVar[bool] = False
    """True if ``R(s)`` is its derivative, a constant, times ``s``: then neither needs to be computed anew."""

    @abstractmethod
    def value(self, log_var: Tensor) -> Tensor:
        """Return ``R(s)``."""

    @abstractmethod
    def derivative(self, log_var: Tensor) -> Tensor:
        """Return ``dR/ds``."""

    @abstractmethod
    def balance(self, log_pull: Tensor, rate: Tensor) -> Tensor:
        """Return the ``s`` that solves ``exp(log_pull) exp(-rate s) = dR/ds``.

        Args:
            log_pull: The logarithm ``log(c r L)`` of the pull of the loss at ``s = 0``.
            rate: The rate ``r`` at which the weight falls with ``s``.
        """


class LogSigma(Regularizer):
    r"""``R(s) = log sigma = s / 2``: the normalising constant of the likelihood.

    Kendall, Gal, Cipolla (CVPR 2018), equations (5) to (7) before the last approximation; the default.

    >>> LogSigma().value(torch.tensor(2.0))
    tensor(1.)
    """

    name = "log_sigma"
    linear = True

    def value(self, log_var: Tensor) -> Tensor:
        return 0.5 * log_var

    def derivative(self, log_var: Tensor) -> Tensor:
        return torch.full_like(log_var, 0.5)

    def balance(self, log_pull: Tensor, rate: Tensor) -> Tensor:
        return (log_pull + math.log(2.0)) / rate


class Sigma(Regularizer):
    r"""``R(s) = sigma = exp(s / 2)``: equation (7) of Kendall et al. as printed.

    Its optimum is not the variance of the likelihood: for a Gaussian task it is ``s = 2/3 log L``.

    >>> Sigma().value(torch.tensor(0.0))
    tensor(1.)
    """

    name = "sigma"

    def value(self, log_var: Tensor) -> Tensor:
        return torch.exp(0.5 * log_var)

    def derivative(self, log_var: Tensor) -> Tensor:
        return 0.5 * torch.exp(0.5 * log_var)

    def balance(self, log_pull: Tensor, rate: Tensor) -> Tensor:
        return (log_pull + math.log(2.0)) / (rate + 0.5)


class Log1pVar(Regularizer):
    r"""``R(s) = log(1 + sigma^2)``: never negative, so neither is the total.

    Liebel, Koerner, "Auxiliary Tasks in Multi-task Learning" (2018), equation (3). The price: small losses no longer
    count in full, because for ``sigma -> 0`` the regulariser is flat.

    >>> Log1pVar().value(torch.tensor(0.0))
    tensor(0.6931)
    """

    name = "log1p_var"

    def value(self, log_var: Tensor) -> Tensor:
        return torch.nn.functional.softplus(log_var)

    def derivative(self, log_var: Tensor) -> Tensor:
        return torch.sigmoid(log_var)

    def balance(self, log_pull: Tensor, rate: Tensor) -> Tensor:
        """Return the ``s`` that balances. With A = exp(log_pull), rate 1 gives x^2 = A (1 + x) for
        x = sigma^2, and rate 1/2 gives y^3 = A (1 + y^2) for y = sigma. Both have one positive root, written here in a
        form that neither overflows nor cancels.
        """
        quadratic = 0.5 * log_pull + torch.asinh(0.5 * torch.exp(0.5 * log_pull))
        angle = torch.asinh(1.5 * math.sqrt(3.0) * torch.exp(-log_pull))
        cubic = 2.0 * (log_pull + torch.log((1.0 + 2.0 * torch.cosh(angle * (2.0 / 3.0))) / 3.0))
        return torch.where(rate == 0.5, cubic, quadratic)


_REGULARIZERS: dict[str, Regularizer] = {r.name: r for r in (LogSigma(), Sigma(), Log1pVar())}


def get_regularizer(regularizer: str | Regularizer) -> Regularizer:
    """Return the regulariser of that name: ``"log_sigma"``, ``"sigma"`` or ``"log1p_var"``.

    Raises:
        ValueError: if there is none of that name.
    """
    if isinstance(regularizer, Regularizer):
        return regularizer
    return lookup("regularizer", regularizer, _REGULARIZERS)
