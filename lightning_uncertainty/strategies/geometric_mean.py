"""The geometric mean of the losses."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_uncertainty.strategies.live import LiveRule

__all__ = ["GeometricMean"]


class GeometricMean(LiveRule):
    r"""The geometric loss strategy: the total is ``(prod_k L_k)^(1/K)``, and the factor of a task ``total / (K L_k)``.

    Chennupati et al., MultiNet++, CVPR Workshops 2019, equation (2). ``K`` is the number of tasks that take part in the
    call. The ratios of the factors are those of ``log_sum``; their size falls with the losses.

    >>> import torch
    >>> from lightning_uncertainty import UncertaintyWeighting
    >>> weighting = UncertaintyWeighting({"depth": "laplace", "class": "softmax"}, strategy="geometric_mean")
    >>> weighting(torch.tensor([8.0, 0.5], requires_grad=True)).item()
    2.0
    """

    name = "geometric_mean"

    def weigh(self, loss: Tensor, taking: Tensor) -> tuple[Tensor, Tensor]:
        count, logs = taking.sum().clamp(min=1), loss.log()  # the logarithm of who takes no part is that of 1
        return torch.exp(logs.sum() / count - logs) / count, torch.zeros_like(loss)
