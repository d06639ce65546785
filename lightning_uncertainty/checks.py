"""What a user may pass as losses, and what is said to them otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_uncertainty.cross_entropy import CrossEntropy
from lightning_uncertainty.likelihoods import Softmax, SoftmaxExact
from lightning_uncertainty.names import suggest
from lightning_uncertainty.tasks import Task

__all__ = ["check_losses"]


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
    if not isinstance(task.likelihood, (Softmax, SoftmaxExact)):
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
