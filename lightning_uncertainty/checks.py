"""What a user may pass as losses, and what is said to them otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_uncertainty.cross_entropy import CrossEntropy
from lightning_uncertainty.likelihoods import Fixed, Softmax, SoftmaxExact
from lightning_uncertainty.names import suggest
from lightning_uncertainty.notices import Notices
from lightning_uncertainty.tasks import Task

__all__ = ["check_graph", "check_losses"]


def check_losses(losses: Any, tasks: Mapping[str, Task], device: torch.device) -> None:
    """Raise unless ``losses`` maps known tasks to scalar, floating point losses on ``device``.

    Raises:
        TypeError: if ``losses`` is no mapping, or a loss is no tensor or not of floating point.
        ValueError: if a task is unknown, or a loss has the wrong shape, device, or form for its likelihood.
    """
    if not isinstance(losses, Mapping):
        raise TypeError(
            f'Expected losses by name, for example {{"depth": loss}}; got an object of type {type(losses).__name__}.'
        )
    for name, loss in losses.items():
        if name not in tasks:
            raise ValueError(
                f"There is no task {name!r}. {suggest(name, tasks)} "
                "A loss that is not to be weighed belongs into the tasks too, with a number as its fixed weight."
            )
        _check_loss(tasks[name], loss, device)


def _check_loss(task: Task, loss: Any, device: torch.device) -> None:
    if isinstance(loss, CrossEntropy):
        _check_cross_entropy(task, loss, device)
        return
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"Task {task.name!r} got a {type(loss).__name__}. Expected a scalar tensor that still carries its graph: "
            "pass the loss itself, neither `.item()` nor `float(...)` of it."
        )
    if task.likelihood.tempered:
        raise ValueError(
            f"Task {task.name!r} is 'softmax_exact', which acts on logits: pass "
            "`CrossEntropy(logits, target)` instead of a loss, or choose 'softmax' for the approximation on losses."
        )
    if loss.dim() != 0:
        raise ValueError(
            f"Task {task.name!r} got a loss of shape {tuple(loss.shape)}. Expected a scalar: reduce it first, "
            "for example `loss.mean()`."
        )
    if not loss.is_floating_point():
        raise TypeError(
            f"Task {task.name!r} got a loss of dtype {loss.dtype}. Expected a real floating point number: "
            + ("take its real part or its absolute value." if loss.is_complex() else "for example `loss.float()`.")
        )
    _check_device(task, loss, device)


def _check_cross_entropy(task: Task, inputs: CrossEntropy, device: torch.device) -> None:
    if not isinstance(task.likelihood, (Softmax, SoftmaxExact, Fixed)):
        raise ValueError(
            f"Task {task.name!r} got a CrossEntropy, but its likelihood is {task.likelihood.name!r}. "
            "Declare the task as 'softmax_exact' or 'softmax', or pass a scalar loss."
        )
    _check_device(task, inputs.logits, device)


def _check_device(task: Task, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(
            f"Task {task.name!r} got a loss on {tensor.device}, but the weights are on {device}. "
            f"Compute it on the model's device, or move the weights with `weighting.to({str(tensor.device)!r})`."
        )


def check_graph(losses: Mapping[str, Tensor | CrossEntropy], notices: Notices) -> None:
    """Raise if no loss carries a graph, warn of a single one that does not: for losses that are to be trained on.

    Raises:
        ValueError: if the network would get no gradient at all.
    """
    detached = [
        name
        for name, loss in losses.items()
        if not (loss.logits if isinstance(loss, CrossEntropy) else loss).requires_grad
    ]
    if detached and len(detached) == len(losses):
        raise ValueError(
            f"None of the losses {', '.join(map(repr, losses))} carries a graph, so the network would get no "
            "gradient. Pass the losses themselves: `torch.tensor([...])`, `.item()` and `.detach()` cut the graph. "
            "To evaluate, call it under `torch.no_grad()`."
        )
    for name in detached:
        notices.warn(
            f"detached {name}",
            f"The loss of task {name!r} carries no graph, so the network gets no gradient from it. If that is not "
            "meant, pass the loss itself; if the task has no labels in this batch, leave its key out.",
        )
