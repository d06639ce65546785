"""Means of elementwise losses over those elements that have a label."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["MaskedMeans", "masked_means"]

_DEPTH = 6  # operations between a prediction and what is passed: `(w * ((prediction - target) / scale) ** 2)[:, 0]`


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


def masked_means(errors: Tensor, mask: Tensor | None, *, cut: bool = False) -> MaskedMeans:
    """Return the mean of each task over its labels; gradients of the other elements are 0, whatever their errors are.

    Args:
        errors: The elementwise losses, of shape (..., K).
        mask: bool, of a shape that broadcasts to that of ``errors``: True where there is a label. None takes NaN for a
            missing label; but if all elements are NaN, for a network that has diverged.
        cut: True if ``errors`` may be a part of what was computed, so that there may be others that are not finite.

    Raises:
        TypeError: if ``mask`` is not a bool tensor.
        ValueError: if its shape does not fit.
    """
    coded = mask is None
    mask = ~errors.detach().isnan() if mask is None else _fitting(mask, errors)
    if errors.requires_grad and not torch.compiler.is_compiling() and (cut or not _known_finite(errors)):
        _shield(errors)
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
        if mask.dim() != errors.dim():  # (rows,) would pass for (tasks,)
            raise RuntimeError
        return mask.expand_as(errors)
    except RuntimeError:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, which does not fit the losses of shape {tuple(errors.shape)}. "
            "Expected one entry for each of them: pass the losses before their mean is taken (`reduction='none'`)."
        ) from None


def _shield(errors: Tensor) -> None:
    """Let a gradient of 0 stay 0 in the operations that made ``errors``, where they are NaN or infinite.

    On its way back through an error that is NaN it would not: 0 * NaN is NaN.
    """

    def cleaned(gradients: tuple[Tensor | None, ...], given: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return tuple(_clean(gradient, given[0]) for gradient in gradients)

    seen: set[Any] = set()
    nodes: set[Any] = {errors.grad_fn}
    for _ in range(_DEPTH):
        nodes = {node for node in nodes - seen if node is not None and "AccumulateGrad" not in node.name()}
        for node in nodes:
            node.register_hook(cleaned)
        seen |= nodes
        nodes = {before for node in nodes for before, _ in node.next_functions}


def _clean(gradient: Tensor | None, given: Tensor | None) -> Tensor | None:
    """Return what an operation hands on, with 0 where it was given 0 and made something that is not finite of it."""
    if gradient is None or given is None or gradient.shape != given.shape or _known_finite(gradient):
        return gradient
    return torch.where(given.eq(0.0) & ~torch.isfinite(gradient), 0.0, gradient)


def _known_finite(tensor: Tensor) -> bool:
    """Return True if the host can tell without waiting that all elements are finite."""
    return tensor.device.type == "cpu" and math.isfinite(tensor.detach().sum().item())
