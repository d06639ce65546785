"""Means of elementwise losses over those elements that have a label."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["MaskedMeans", "masked_means"]

_DEPTH = 4  # operations between a prediction and its error: `weight * ((prediction - target) / scale) ** 2` has four


class MaskedMeans(NamedTuple):
    """The mean losses of one call, each of shape (K,).

    Attributes:
        raw_loss: The means with the graph of the network, of at least single precision; NaN for a task without labels.
        counts: The number of labels of each task, fp32.
        given: bool: True for the tasks that have labels.
    """

    raw_loss: Tensor
    counts: Tensor
    given: Tensor


def masked_means(errors: Tensor, mask: Tensor | None) -> MaskedMeans:
    """Return the mean of each task over its labels; gradients of the other elements are 0, whatever their errors are.

    Args:
        errors: The elementwise losses, of shape (..., K).
        mask: bool, of a shape that broadcasts to that of ``errors``: True where there is a label. None takes NaN for a
            missing label; but if all elements are NaN, for a network that has diverged.

    Raises:
        TypeError: if ``mask`` is not a bool tensor.
        ValueError: if its shape does not fit.
    """
    coded = mask is None
    mask = ~errors.detach().isnan() if mask is None else _fitting(mask, errors)
    if errors.requires_grad and not torch.compiler.is_compiling():
        _shield(errors, mask)
    axes = tuple(range(errors.dim() - 1))
    counts = mask.sum(axes, dtype=torch.float32)
    sums = torch.where(mask, errors, 0.0).sum(axes, dtype=torch.promote_types(errors.dtype, torch.float32))
    labelled = counts > 0.0
    means = torch.where(labelled, sums / counts.clamp(min=1.0), math.nan)
    return MaskedMeans(means, counts, labelled | ~labelled.any() if coded else labelled)


def _fitting(mask: Any, errors: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = f"a tensor of {mask.dtype}" if isinstance(mask, Tensor) else f"an object of type {type(mask).__name__}"
        raise TypeError(
            f"mask must be a bool tensor, True where there is a label; got {found}. Write `mask=~target.isnan()`, or "
            "`mask=mask.bool()`."
        )
    try:
        return mask.expand_as(errors)
    except RuntimeError:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, which does not fit the losses of shape {tuple(errors.shape)}. "
            "Expected one entry for each of them: pass the losses before their mean is taken (`reduction='none'`)."
        ) from None


def _shield(errors: Tensor, mask: Tensor) -> None:
    """Keep what is not finite outside of ``mask`` from the gradients, where the errors were made.

    A gradient of 0 does not stay 0 on its way back through an error that is NaN: 0 * NaN is NaN. So each of the last
    few operations hands on 0 in place of it.
    """

    def cleaned(gradients: tuple[Tensor | None, ...], _: Any) -> tuple[Tensor | None, ...]:
        return tuple(
            g if g is None or g.shape != mask.shape else torch.where(mask | torch.isfinite(g), g, 0.0)
            for g in gradients
        )

    seen: set[Any] = set()
    nodes: set[Any] = {errors.grad_fn}
    for _ in range(_DEPTH):
        nodes = {node for node in nodes - seen if node is not None and "AccumulateGrad" not in node.name()}
        for node in nodes:
            node.register_hook(cleaned)
        seen |= nodes
        nodes = {before for node in nodes for before, _ in node.next_functions}
