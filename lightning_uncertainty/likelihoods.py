r"""What a task's loss says about its noise: one small class per likelihood.

Every likelihood here turns the raw loss ``L`` of a task into the term

.. math:: c\, e^{-r s} L + R(s), \qquad s = \log \sigma^2,

with a coefficient ``c``, a rate ``r`` and a regulariser ``R`` (:mod:`lightning_uncertainty.regularizers`). The
derivative with respect to ``s`` is ``dR/ds - r c exp(-r s) L``, and the optimum for a given ``L`` is in closed form.

The equation numbers are those of Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for
Scene Geometry and Semantics", CVPR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_uncertainty._arguments import lookup
from lightning_uncertainty.regularizers import LogSigma, Regularizer

__all__ = ["LikelihoodVector"]

_LOG_SIGMA = LogSigma()

__all__ = [
    "Bernoulli",
    "Fixed",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "Softmax",
    "SoftmaxExact",
    "get_likelihood",
]


class Likelihood:
    """A likelihood of the family ``c exp(-r s) L + R(s)``; all methods are elementwise.

    One of your own is a subclass with other attributes. The formulas are common to all, because the engine evaluates
    them for all tasks at once (``LikelihoodVector``).

    Attributes:
        name: the short form that ``tasks={"depth": "laplace"}`` uses.
        coefficient: ``c``.
        rate: ``r``, at which the weight of the loss falls with ``s``.
        precision_coefficient: the effective ``sigma^-2`` at ``s = 0``.
        precision_rate: the rate at which the effective ``sigma^-2`` falls with ``s``; equal to ``rate`` except where
            the loss is not weighted but tempered (:class:`SoftmaxExact`).
        regularized: whether ``R(s)`` is part of the term.
        learned: whether there is an ``s`` to learn.
        tempered: whether ``s`` acts on logits instead of on the loss (:class:`SoftmaxExact`).

    Raises:
        TypeError: if a subclass redefines a formula.
    """

    name: ClassVar[str]
    coefficient: float | Tensor = 1.0
    rate: float | Tensor = 1.0
    precision_coefficient: float | Tensor = 1.0
    precision_rate: float | Tensor = 1.0
    regularized: bool | Tensor = True
    learned: bool | Tensor = True
    tempered: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        formulas = ("factor", "factor_derivative", "term", "derivative", "precision", "optimum")
        if changed := [name for name in formulas if name in vars(cls)]:
            raise TypeError(
                f"{cls.__name__} redefines {', '.join(changed)}, which the engine would not see. A likelihood is given "
                "by its attributes: `coefficient`, `rate`, `regularized`..."
            )

    def factor(self, log_var: Tensor) -> Tensor:
        """The factor before the loss, ``c exp(-r s)``."""
        return self.coefficient * torch.exp(-self.rate * log_var)

    def factor_derivative(self, log_var: Tensor) -> Tensor:
        """``d factor / ds = -r c exp(-r s)``."""
        return -self.rate * self.factor(log_var)

    def term(self, raw_loss: Tensor, log_var: Tensor, regularizer: Regularizer = _LOG_SIGMA) -> Tensor:
        """The task's part of the total, ``c exp(-r s) L + R(s)``."""
        return self.factor(log_var) * raw_loss + self.regularized * regularizer.value(log_var)

    def derivative(self, raw_loss: Tensor, log_var: Tensor, regularizer: Regularizer = _LOG_SIGMA) -> Tensor:
        """``d term / ds = dR/ds - r c exp(-r s) L``; without the ``ds`` of a tempered loss, which ``L`` hides."""
        return self.factor_derivative(log_var) * raw_loss + self.regularized * regularizer.derivative(log_var)

    def precision(self, log_var: Tensor) -> Tensor:
        """The effective weight that is logged: ``sigma^-2``, for Laplace ``1 / b``, for a fixed task its weight."""
        return self.precision_coefficient * torch.exp(-self.precision_rate * log_var)

    def optimum(self, raw_loss: Tensor, regularizer: Regularizer = _LOG_SIGMA) -> Tensor:
        """The ``s`` that minimises the term while ``L`` is held fixed.

        Not finite where there is none: for ``L <= 0``, a fixed weight, and the exact softmax, whose optimum depends on
        more than the loss.
        """
        rate = torch.as_tensor(self.rate, dtype=raw_loss.dtype, device=raw_loss.device)
        return regularizer.balance(torch.log(self.coefficient * self.rate * raw_loss), rate)


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Regression with a mean squared error: ``1/2 exp(-s) L + 1/2 s``, equations (1) and (4).

    ``L`` is the mean squared error and sigma has the unit of the target. Optimum: ``s = log L``.

    >>> Gaussian().optimum(torch.tensor(4.0)).exp()
    tensor(4.)
    """

    name = "gaussian"
    coefficient = 0.5


@dataclass(frozen=True)
class Laplace(Likelihood):
    """Regression with a mean absolute error: ``exp(-s/2) L + 1/2 s`` with ``s = log b^2``.

    Beyond the article, whose experiments use L1 losses. ``L`` is the mean absolute error; sigma is the scale ``b``, in
    the unit of the target (the standard deviation is ``sqrt(2) b``), and the effective weight is ``1 / b``.
    Optimum: ``s = 2 log L``.

    >>> (0.5 * Laplace().optimum(torch.tensor(3.0))).exp()
    tensor(3.)
    """

    name = "laplace"
    rate = 0.5
    precision_rate = 0.5


@dataclass(frozen=True)
class Softmax(Likelihood):
    """Classification with a cross entropy, approximated: ``exp(-s) L + 1/2 s``, equation (6).

    ``L`` is the mean cross entropy in nats, ``sigma^2`` a temperature (no label noise). Optimum: ``s = log 2L``.

    >>> Softmax().optimum(torch.tensor(0.5))
    tensor(0.)
    """

    name = "softmax"


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Binary or multi-label classification with a binary cross entropy: ``exp(-s) L + 1/2 s``.

    The argument of equation (6) for two classes. ``L`` is the mean binary cross entropy in nats.
    Optimum: ``s = log 2L``.

    >>> Bernoulli().optimum(torch.tensor(0.5))
    tensor(0.)
    """

    name = "bernoulli"


@dataclass(frozen=True)
class SoftmaxExact(Likelihood):
    """Classification, exact: the cross entropy of ``logits * exp(-s)``, equation (5).

    Nothing multiplies the loss and nothing is added to it: ``s`` acts on the logits, and is learned from the exact
    derivative ``exp(-s) mean(z_y - E_p[z])``. Needs logits and targets, as
    :class:`~lightning_uncertainty.CrossEntropy`.

    >>> SoftmaxExact().factor(torch.tensor(3.0))
    tensor(1.)
    """

    name = "softmax_exact"
    rate = 0.0
    regularized = False
    tempered = True


@dataclass(frozen=True)
class Fixed(Likelihood):
    """A task that takes no part: ``w L``, with the weight given. A number is its short form: ``{"aux": 0.1}``.

    Attributes:
        coefficient: ``w``.

    Raises:
        ValueError: if the weight is negative or not finite.

    >>> Fixed(0.1).factor(torch.tensor(0.0))
    tensor(0.1000)
    """

    coefficient: float = 1.0

    name = "fixed"
    rate = 0.0
    precision_rate = 0.0
    regularized = False
    learned = False

    @property
    def precision_coefficient(self) -> float:  # type: ignore[override]  # read-only here
        """The weight itself."""
        return self.coefficient

    def __post_init__(self) -> None:
        if not (math.isfinite(self.coefficient) and self.coefficient >= 0.0):
            raise ValueError(f"A fixed weight must be a finite number that is not negative; got {self.coefficient}.")


_LIKELIHOODS: dict[str, Likelihood] = {
    likelihood.name: likelihood
    for likelihood in (Gaussian(), Laplace(), Softmax(), SoftmaxExact(), Bernoulli(), Fixed())
}


def get_likelihood(likelihood: str | float | Likelihood) -> Likelihood:
    """The likelihood of that name, or a fixed weight for a number.

    Raises:
        ValueError: if there is none of that name.

    >>> get_likelihood("laplace")
    Laplace()
    >>> get_likelihood(0.1)
    Fixed(coefficient=0.1)
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if isinstance(likelihood, (int, float)) and not isinstance(likelihood, bool):
        return Fixed(float(likelihood))
    return lookup("likelihood", likelihood, _LIKELIHOODS)


class LikelihoodVector(Likelihood):
    """Several likelihoods as one, whose attributes are vectors with one entry per task: the formulas stay the same.

    Args:
        likelihoods: one per task.
    """

    name = "vector"

    def __init__(self, likelihoods: Sequence[Likelihood]) -> None:
        for attribute in ("coefficient", "rate", "precision_coefficient", "precision_rate", "regularized", "learned"):
            values = torch.tensor([getattr(likelihood, attribute) for likelihood in likelihoods])
            # Not the default dtype, which Lightning sets to that of the model.
            setattr(self, attribute, values if attribute == "learned" else values.to(torch.float32))
