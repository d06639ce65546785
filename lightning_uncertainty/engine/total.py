"""The weighted total of all tasks as one vector operation, whatever sits out."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_uncertainty.engine.window import in_numpy

__all__ = ["plain_weighted_sum", "raise_if_refused", "weighted_sum", "within_half"]

_HALF_MAX = torch.finfo(torch.float16).max


def plain_weighted_sum(raw_loss: Tensor, factor: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return ``sum_k factor_k L_k + offset_k`` over the tasks whose term is finite, and a mark of those.

    Args:
        raw_loss: The losses, of shape (K,), with the graph of the network.
        factor: The factors, not negative, of shape (K,), without a graph.
        offset: The regularisers, of shape (K,), without a graph; NaN lets a task sit out.

    Returns:
        The total, of shape (), and ``factor`` with NaN in place of each task that sits out, of shape (K,).
    """
    terms = factor * raw_loss + offset
    finite = torch.isfinite(terms.detach())
    return torch.where(finite, terms, 0.0).sum(), torch.where(finite, factor, torch.nan)


def weighted_sum(
    raw_loss: Tensor, factor: Tensor, offset: Tensor, *, regularized: bool = True
) -> tuple[Tensor, Tensor]:
    """Return what :func:`plain_weighted_sum` returns; in eager code with as few and as cheap operations as possible.

    The mark is ``factor`` itself if, as a CPU knows for nothing, all tasks take part. Else what depends on the values
    is computed beside the graph, where an operation costs half; the graph itself is a stack and a dot product with the
    factors of those who take part. No device is asked. Under ``torch.compile`` the plain form is used: there a value
    cannot be overwritten, and the compiler saves operations itself. ``regularized`` is False if it is known that no
    offset is anything but 0.
    """
    if torch.compiler.is_compiling():
        return plain_weighted_sum(raw_loss, factor, offset)
    if in_numpy(raw_loss) and raw_loss.dtype == factor.dtype:
        total, regularizers = raw_loss.dot(factor), offset.sum().item() if regularized else 0.0
        if math.isfinite(total.item() + regularizers):  # so is each term
            if regularizers != 0.0:
                total.detach().add_(regularizers)
            return total, factor
    raw = raw_loss.detach()
    if raw.dtype != factor.dtype:
        factor, offset = factor.to(raw.dtype), offset.to(raw.dtype)
    terms = torch.addcmul(offset, factor, raw)
    # x - x is 0, or NaN if x is not finite; and a Python number would double the price of an operation.
    void = terms - terms
    marked = factor + void
    total = raw_loss.dot(torch.nan_to_num(marked))
    # The gradient of a dot product with respect to `raw_loss` does not depend on its value, which is NaN where a task
    # sits out and lacks the regularisers: the right one is written over it.
    torch.nansum(terms + void, out=total.detach())
    return total, marked


def within_half(factor: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the factors of losses in fp16 (``half``, bool) at its largest number; return them, and where they were cut.

    The gradient of such a loss is its factor, and would be infinite if the factor were larger.
    """
    beyond = half & (factor > _HALF_MAX)
    return torch.where(beyond, _HALF_MAX, factor), beyond


def raise_if_refused(marked: Tensor, given: Tensor | None, names: Iterable[str], step: int) -> None:
    """Raise ``FloatingPointError`` if a loss that was given sat out; costs a host synchronisation."""
    refused = (marked.isnan() if given is None else marked.isnan() & given).tolist()
    if found := [repr(name) for name, yes in zip(names, refused, strict=True) if yes]:
        raise FloatingPointError(f"The loss of {', '.join(found)} is NaN or infinite in step {step}.")
