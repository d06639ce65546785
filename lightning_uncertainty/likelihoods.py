r"""The likelihoods: each says how a task's loss follows from the noise of the task.

Every likelihood turns the raw loss ``L`` of a task into the term

.. math:: c\, e^{-r s} L + R(s), \qquad s = \log \sigma^2,

with a coefficient ``c``, a rate ``r`` and a regulariser ``R`` (:mod:`lightning_uncertainty.regularizers`).

Three words are used everywhere: the *coefficient* ``c`` is a constant of the likelihood, the *factor*
``c exp(-r s)`` is what multiplies the loss, and the *precision* is the effective ``sigma^-2``.

The equation numbers are those of Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for
Scene Geometry and Semantics", CVPR 2018.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lightning_uncertainty._arguments import Setting, as_number, check_number, lookup, suggest
from lightning_uncertainty.regularizers import LogSigma, Regularizer

__all__ = [
    "BERNOULLI",
    "GAUSSIAN",
    "LAPLACE",
    "NLL",
    "SOFTMAX",
    "SOFTMAX_EXACT",
    "Likelihood",
    "LikelihoodVector",
    "fixed",
    "get_likelihood",
]

_LOG_SIGMA = LogSigma()


class _Formulas:
    """The formulas of the family ``c exp(-r s) L + R(s)``, elementwise, for one likelihood and for a vector of them."""

    coefficient: float | Tensor
    rate: float | Tensor
    precision_coefficient: float | Tensor
    precision_rate: float | Tensor
    regularized: bool | Tensor

    def factor(self, log_var: Tensor) -> Tensor:
        """Return the factor before the loss, ``c exp(-r s)``."""
        return self.coefficient * torch.exp(-self.rate * log_var)

    def factor_derivative(self, log_var: Tensor) -> Tensor:
        """Return ``d factor / ds = -r c exp(-r s)``."""
        return -self.rate * self.factor(log_var)

    def term(self, raw_loss: Tensor, log_var: Tensor, regularizer: Regularizer = _LOG_SIGMA) -> Tensor:
        """Return the task's part of the total, ``c exp(-r s) L + R(s)``."""
        return self.factor(log_var) * raw_loss + self.regularized * regularizer.value(log_var)

    def derivative(self, raw_loss: Tensor, log_var: Tensor, regularizer: Regularizer = _LOG_SIGMA) -> Tensor:
        """Return ``d term / ds = dR/ds - r c exp(-r s) L``; the ``ds`` that a tempered ``L`` hides is not in it."""
        return self.factor_derivative(log_var) * raw_loss + self.regularized * regularizer.derivative(log_var)

    def precision(self, log_var: Tensor) -> Tensor:
        """Return the weight that is logged: ``sigma^-2``, for Laplace ``1 / b``, for a fixed task its factor."""
        return self.precision_coefficient * torch.exp(-self.precision_rate * log_var)

    def optimum(self, raw_loss: Tensor, regularizer: Regularizer = _LOG_SIGMA) -> Tensor:
        """Return the ``s`` that minimises the term while ``L`` is held fixed.

        It is not finite where there is none: for ``L <= 0``, a fixed factor, and the exact softmax, whose optimum
        depends on more than the loss.
        """
        rate = torch.as_tensor(self.rate, dtype=raw_loss.dtype, device=raw_loss.device)
        return regularizer.balance(torch.log(self.coefficient * self.rate * raw_loss), rate)


@dataclass(frozen=True, repr=False)
class Likelihood(_Formulas, Setting):
    """A likelihood of the family ``c exp(-r s) L + R(s)``. One of your own is one more instance.

    Args:
        name: The short form that ``tasks={"depth": "laplace"}`` uses.
        coefficient: The constant ``c``.
        rate: The rate ``r`` at which the factor before the loss falls with ``s``.
        precision_coefficient: The effective ``sigma^-2`` at ``s = 0``.
        precision_rate: The rate at which the effective ``sigma^-2`` falls with ``s``. It differs from ``rate`` only
            where the loss is not weighted but tempered (:data:`SOFTMAX_EXACT`).
        regularized: True if ``R(s)`` is part of the term.
        learned: True if there is an ``s`` to learn.
        tempered: True if ``s`` acts on logits instead of on the loss (:data:`SOFTMAX_EXACT`).

    >>> Likelihood("exponential", rate=0.5, precision_rate=0.5).optimum(torch.tensor(1.0))
    tensor(0.)
    """

    name: str
    coefficient: float = 1.0
    rate: float = 1.0
    precision_coefficient: float = 1.0
    precision_rate: float = 1.0
    regularized: bool = True
    learned: bool = True
    tempered: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str.__str__(self.name))  # a checkpoint takes no str of numpy or of an enum
        for constant in ("coefficient", "rate", "precision_coefficient", "precision_rate"):
            object.__setattr__(self, constant, check_number(f"The {constant}", getattr(self, constant)))

    def __repr__(self) -> str:
        own = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        said = [f"{name}={value!r}" for name, value, default in own[1:] if value != default]
        return f"{type(self).__name__}({', '.join([repr(self.name), *said])})"


GAUSSIAN = Likelihood("gaussian", coefficient=0.5)
"""Regression with a mean squared error: ``1/2 exp(-s) L + 1/2 s``, equations (1) and (4).

``L`` is the mean squared error and sigma has the unit of the target. Optimum: ``s = log L``.
"""

LAPLACE = Likelihood("laplace", rate=0.5, precision_rate=0.5)
"""Regression with a mean absolute error: ``exp(-s/2) L + 1/2 s`` with ``s = log b^2``.

Beyond the article, whose experiments use L1 losses. ``L`` is the mean absolute error; sigma is the scale ``b``, in the
unit of the target (the standard deviation is ``sqrt(2) b``), and the effective weight is ``1 / b``.
Optimum: ``s = 2 log L``.
"""

SOFTMAX = Likelihood("softmax")
"""Classification with a cross entropy, approximated: ``exp(-s) L + 1/2 s``, equation (6).

``L`` is the mean cross entropy in nats. The article calls ``sigma^2`` a temperature; its optimum, ``s = log 2L``, is
twice the loss, and neither a temperature to divide logits by when predicting, nor label noise.
"""

BERNOULLI = Likelihood("bernoulli")
"""Binary or multi-label classification with a binary cross entropy: ``exp(-s) L + 1/2 s``.

The argument of equation (6) for two classes. ``L`` is the mean binary cross entropy in nats. Optimum: ``s = log 2L``.
"""

SOFTMAX_EXACT = Likelihood("softmax_exact", rate=0.0, regularized=False, tempered=True)
"""Classification, exact: the cross entropy of ``logits * exp(-s)``, equation (5).

Nothing multiplies the loss and nothing is added to it: ``s`` acts on the logits, and is learned from the exact
derivative ``exp(-s) mean(z_y - E_p[z])``. Needs logits and targets, as :class:`~lightning_uncertainty.CrossEntropy`.
"""

NLL = Likelihood("nll", rate=0.0, precision_rate=0.0, regularized=False, learned=False)
"""A loss that is a negative log-likelihood in nats already: ``L``, which may be negative.

It adds up with the terms of learned tasks as it is: there is no ``s`` to learn, since the head of the network predicts
the noise (:func:`~lightning_uncertainty.predictive.gaussian_nll`) and on training data no factor could be told from it.
A scale of the total multiplies it as it does learned tasks.
"""

LIKELIHOODS = {kind.name: kind for kind in (GAUSSIAN, LAPLACE, SOFTMAX, SOFTMAX_EXACT, BERNOULLI, NLL)}


def fixed(factor: float = 1.0) -> Likelihood:
    """Return the likelihood of a task that takes no part in learning: ``w L``, with the factor ``w`` given.

    A number is its short form: ``{"aux": 0.1}``.

    Raises:
        ValueError: if the factor is negative or not finite.

    >>> fixed(0.1).factor(torch.tensor(0.0))
    tensor(0.1000)
    """
    factor = check_number("A fixed weight", factor, above=0.0)
    return Likelihood(
        "fixed", factor, 0.0, precision_coefficient=factor, precision_rate=0.0, regularized=False, learned=False
    )


def get_likelihood(likelihood: str | float | Likelihood) -> Likelihood:
    """Return the likelihood of that name, or a fixed one for a number.

    Raises:
        ValueError: if there is none of that name.

    >>> get_likelihood("laplace")
    Likelihood('laplace', rate=0.5, precision_rate=0.5)
    >>> get_likelihood(0.0).learned
    False
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if as_number(likelihood) is not None:
        return fixed(likelihood)  # type: ignore[arg-type]
    known = {**LIKELIHOODS, "fixed": fixed()}
    if not (isinstance(likelihood, str) and likelihood in known) and (right := _BY_LOSS.get(_word(likelihood))):
        raise ValueError(
            f"Unknown likelihood {likelihood!r}. Expected the noise behind the loss, not the loss: write {right}. "
            + suggest("", known)
        )
    return lookup("likelihood", likelihood, known)


_BY_LOSS = {
    word: right
    for right, words in {
        "'gaussian'": "gaussian gauss normal mse squarederror meansquarederror l2 regression",
        "'laplace'": "laplacian l1 mae absoluteerror meanabsoluteerror",
        "'laplace', or 'gaussian' if most errors are below its delta": "huber smoothl1",
        "'softmax'": "ce crossentropy categoricalcrossentropy xent nll categorical multiclass classification",
        "'bernoulli'": "bce binarycrossentropy binary sigmoid logistic multilabel multilabelsoftmargin softmargin",
        "a number, its fixed weight, or 'softmax' to balance it": "dice iou giou focal ssim triplet tripletmargin",
        "'nll'": "gaussiannll laplacenll poissonnll studenttnll betanll negativeloglikelihood noisycrossentropy",
        "a number, its fixed weight, for example 1.0": "kl kld kldiv elbo wasserstein",
    }.items()
    for word in words.split()
}
"""The likelihood to write for the name of a loss, as :func:`_word` gives it."""


def _word(loss: Any) -> str:
    """Return the name of a loss, of its function or of its class, as one word: ``mse`` for ``nn.MSELoss()``.

    >>> _word("F.binary_cross_entropy_with_logits")
    'binarycrossentropy'
    """
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return re.sub(r"withlogits|loss|[^a-z0-9]", "", name.rpartition(".")[2].lower().replace("_", ""))


class LikelihoodVector(_Formulas):
    """The likelihoods of all tasks: the same formulas, one tensor operation instead of a loop over tasks.

    Args:
        likelihoods: One per task.

    Attributes:
        coefficient: fp32, of shape (K,), as all others but the last two.
        rate: The rates of the factors.
        precision_coefficient: The precisions at ``s = 0``.
        precision_rate: The rates of the precisions.
        regularized: 1 where there is a regulariser, else 0.
        learned: bool, of shape (K,): True where there is an ``s`` to learn.
    """

    learned: Tensor
    coefficient: Tensor
    rate: Tensor

    def __init__(self, likelihoods: Sequence[Likelihood]) -> None:
        self.learned = torch.tensor([kind.learned for kind in likelihoods])
        for name in ("coefficient", "rate", "precision_coefficient", "precision_rate", "regularized"):
            # Not the default dtype, which Lightning sets to that of the model.
            setattr(self, name, torch.tensor([float(getattr(kind, name)) for kind in likelihoods], dtype=torch.float32))
