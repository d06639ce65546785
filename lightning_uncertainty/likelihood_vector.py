"""The likelihoods of all tasks at once: one tensor operation instead of a loop over tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_uncertainty.likelihoods import Likelihood

__all__ = ["LikelihoodVector"]


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
