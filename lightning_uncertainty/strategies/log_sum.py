"""The sum of the logarithms of the losses."""

from __future__ import annotations

from torch import Tensor

from lightning_uncertainty.strategies.live import LiveRule

__all__ = ["LogSum"]


class LogSum(LiveRule):
    r"""The sum of the logarithms: the total is ``sum_k log L_k``, and the factor of a task ``1 / L_k``.

    It is invariant to the unit of each loss. It is known as the scale-invariant baseline of Nash-MTL (Navon et al.,
    ICML 2022), as UW-O (Kirchdorfer et al., GCPR 2024, equation (2): learned uncertainty that is at its optimum in each
    step), and as the loss half of DB-MTL (Lin et al., 2023), which adds 1e-8 to the loss.

    >>> import torch
    >>> from lightning_uncertainty import UncertaintyWeighting
    >>> weighting = UncertaintyWeighting({"depth": "laplace", "class": "softmax"}, strategy="log_sum")
    >>> weighting(torch.tensor([2.0, 0.5], requires_grad=True)).item()
    0.0
    """

    name = "log_sum"

    def weigh(self, loss: Tensor, taking: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 / loss, loss.log() - 1.0
