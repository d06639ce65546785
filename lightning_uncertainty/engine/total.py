"""The weighted total of all tasks as one vector operation, whatever sits out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["plain_weighted_sum", "raise_if_refused", "weighted_sum", "within_half"]

_HALF_MAX = torch.finfo(torch.float16).max


def plain_weighted_sum(raw_loss: Tensor, weight: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    r"""``sum_k weight_k L_k + offset_k`` over the tasks whose term is finite, and a mark of those.

    Args:
        raw_loss: of shape (K,), with the graph of the network.
        weight: not negative, of shape (K,), without a graph.
        offset: the regularisers, of shape (K,), without a graph; NaN lets a task sit out.

    Returns:
        The total, of shape (), and ``weight`` with NaN in place of each task that sits out, of shape (K,).
    """
    terms = weight * raw_loss + offset
    finite = torch.isfinite(terms.detach())
    return torch.where(finite, terms, 0.0).sum(), torch.where(finite, weight, torch.nan)


def weighted_sum(raw_loss: Tensor, weight: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`plain_weighted_sum`; in eager code with as few and as cheap operations as that can have.

    What depends on the values is computed beside the graph, where an operation costs half; the graph itself is a stack
    and a dot product with the weights of those who take part. No host reads anything. Of ``torch.compile`` nobody can
    ask to overwrite a value, nor need anyone ask it for fewer operations.
    """
    if torch.compiler.is_compiling():
        return plain_weighted_sum(raw_loss, weight, offset)
    raw = raw_loss.detach()
    if raw.dtype != weight.dtype:
        weight, offset = weight.to(raw.dtype), offset.to(raw.dtype)
    terms = torch.addcmul(offset, weight, raw)
    # x - x is 0, or NaN if x is not finite; and a Python number would double the price of an operation.
    void = terms - terms
    marked = weight + void
    total = raw_loss.dot(torch.nan_to_num(marked))
    # The gradient of a dot product with respect to `raw_loss` does not depend on its value, which is NaN where a task
    # sits out and lacks the regularisers: the right one is written over it.
    torch.nansum(terms + void, out=total.detach())
    return total, marked


def within_half(factor: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the factors of losses in fp16 at its largest number: beyond, their gradient would be infinite.

    Args:
        factor: The factors, of shape (K,).
        half: bool, of shape (K,): True where the loss is in fp16.

    Returns:
        The factors, and where they were cut (bool), each of shape (K,).
    """
    beyond = half & (factor > _HALF_MAX)
    return torch.where(beyond, _HALF_MAX, factor), beyond


def raise_if_refused(marked: Tensor, given: Tensor | None, names: Iterable[str], step: int) -> None:
    """Raise if a loss that was given sat out, which costs a host synchronisation.

    Args:
        marked: The mark of :func:`weighted_sum`, of shape (K,).
        given: bool, of shape (K,): False for tasks that were left out; None for none.
        names: The names of the tasks.
        step: The number of optimizer steps so far.

    Raises:
        FloatingPointError: if a loss is NaN or infinite.
    """
    refused = (marked.isnan() if given is None else marked.isnan() & given).tolist()
    if found := [repr(name) for name, yes in zip(names, refused, strict=True) if yes]:
        raise FloatingPointError(f"The loss of {', '.join(found)} is NaN or infinite in step {step}.")
