"""The likelihoods of all tasks at once: one tensor operation instead of a loop over tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_uncertainty.likelihoods import Likelihood
from lightning_uncertainty.regularizers import Regularizer

__all__ = ["LikelihoodVector"]


class LikelihoodVector:
    """The formulas of :mod:`lightning_uncertainty.likelihoods` with one entry per task.

    Args:
        likelihoods: one per task.
        regularizer: ``R``, common to all.
    """

    def __init__(self, likelihoods: Sequence[Likelihood], regularizer: Regularizer) -> None:
        self.regularizer = regularizer
        self.coefficient = _single([likelihood.coefficient for likelihood in likelihoods])
        self.rate = _single([likelihood.rate for likelihood in likelihoods])
        self.precision_rate = _single([likelihood.precision_rate for likelihood in likelihoods])
        self.regularized = _single([float(likelihood.regularized) for likelihood in likelihoods])
        self.learned = torch.tensor([likelihood.learned for likelihood in likelihoods])

    def weight(self, log_var: Tensor) -> Tensor:
        """``c exp(-r s)``."""
        return self.coefficient * torch.exp(-self.rate * log_var)

    def offset(self, log_var: Tensor) -> Tensor:
        """``R(s)``, zero for likelihoods without a regulariser."""
        return self.regularized * self.regularizer.value(log_var)

    def gradient(self, log_var: Tensor, raw_loss: Tensor, slope: Tensor) -> Tensor:
        """``ds``: ``dR/ds - r c exp(-r s) L``, plus the ``slope`` of losses that themselves depend on ``s``."""
        pull = self.rate * self.weight(log_var) * raw_loss
        return self.regularized * self.regularizer.derivative(log_var) - pull + slope

    def optimum(self, raw_loss: Tensor) -> Tensor:
        """The ``s`` of zero gradient; not finite where there is none (no positive loss, nothing to learn)."""
        return self.regularizer.balance(torch.log(self.coefficient * self.rate * raw_loss), self.rate)

    def precision(self, log_var: Tensor) -> Tensor:
        """The effective ``sigma^-2``; the weight itself where it is fixed."""
        return torch.where(self.learned, torch.exp(-self.precision_rate * log_var), self.coefficient)


def _single(values: list[float]) -> Tensor:
    """In single precision, whatever the default dtype is."""
    return torch.tensor(values, dtype=torch.float32)
