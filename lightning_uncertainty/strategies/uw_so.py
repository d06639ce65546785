"""Soft optimal uncertainty weighting."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_uncertainty._arguments import check_number
from lightning_uncertainty.strategies.live import LiveRule

__all__ = ["UWSO"]


class UWSO(LiveRule):
    r"""Soft optimal uncertainty weighting: the factors are the softmax of ``1 / (T L_k)``, and add up to 1.

    Kirchdorfer et al., "Analytical Uncertainty-Based Loss Weighting in Multi-Task Learning", GCPR 2024. The factors
    have no gradient. They depend on the units of the losses: one that is much smaller than ``1 / T`` takes all.

    Args:
        temperature: The temperature ``T``. The paper searches for one on each data set; 1 leaves it out.

    Raises:
        ValueError: if the temperature is not positive.

    >>> from lightning_uncertainty import UncertaintyWeighting
    >>> UncertaintyWeighting({"depth": "laplace", "class": "softmax"}, strategy=UWSO(temperature=5.0))
    UncertaintyWeighting({'depth': 'laplace', 'class': 'softmax'}, strategy='uw_so', steps=0)
    """

    name = "uw_so"

    def __init__(self, *, temperature: float = 1.0) -> None:
        self.temperature = check_number("temperature", temperature, above=1e-30)

    def weigh(self, loss: Tensor, taking: Tensor) -> tuple[Tensor, Tensor]:
        logits = (1.0 / (self.temperature * loss)).clamp(max=torch.finfo(loss.dtype).max)  # of 1 / 1e-38 / 1e-3, too
        return self.softmax(logits, taking), torch.zeros_like(loss)
