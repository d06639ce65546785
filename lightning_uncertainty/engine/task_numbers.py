"""Numbers that a call gives for its tasks: how many samples a loss is the mean of, and how important the task is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_uncertainty._arguments import as_number, listed, lookup
from lightning_uncertainty.cross_entropy import plain

__all__ = ["TaskNumbers", "importances", "sample_counts"]

TaskNumbers = int | float | Tensor | Mapping[str, int | float | Tensor]
"""One number for all tasks, a number for each by name, or a tensor of shape (K,) in their order."""


def sample_counts(values: TaskNumbers, given: Collection[str], tasks: Collection[str], device: torch.device) -> Tensor:
    """Return sample counts as a vector of shape (K,), fp32; 0 for tasks without a loss.

    Args:
        values: The counts; tensors stay on their device.
        given: The tasks that have a loss.
        tasks: The tasks, in their order.
        device: The device of the vector.

    Raises:
        ValueError: if a task is unknown or has a loss but no count, or a count is negative, not finite or no scalar.
        TypeError: if a count is no number.
    """
    if isinstance(values, Mapping) and (missing := [name for name in given if name not in values]):
        raise ValueError(
            f"samples has no count for {listed(missing)}. Expected one number for all tasks, or one for each task "
            'that has a loss, for example `samples={"depth": mask.sum()}`.'
        )
    return _vector("sample count", values, given, tasks, device, absent=0.0)


def importances(values: TaskNumbers, tasks: Collection[str], device: torch.device) -> Tensor:
    """Return importances as a vector of shape (K,), fp32; 1 for tasks that are not named.

    Raises:
        ValueError: if a task is unknown, or a number is negative, not finite or no scalar.
        TypeError: if one is no number.
    """
    return _vector("importance", values, tasks, tasks, device, absent=1.0)


def _vector(
    what: str, values: TaskNumbers, given: Collection[str], tasks: Collection[str], device: torch.device, absent: float
) -> Tensor:
    if isinstance(values, Tensor) and values.shape == (len(tasks),):
        return values.detach().to(torch.float32)
    numbers = dict(values) if isinstance(values, Mapping) else dict.fromkeys(given, values)
    known = dict.fromkeys(tasks)
    for name, number in numbers.items():
        lookup("task", name, known)
        _check(f"The {what} of task {name!r}", number)
    scalars = [torch.as_tensor(plain(numbers.get(name, absent)), dtype=torch.float32, device=device) for name in tasks]
    return torch.stack(scalars).detach()


def _check(what: str, value: Any) -> None:
    if isinstance(value, Tensor):  # its value is not looked at: that would wait for the device
        if value.ndim:
            raise ValueError(
                f"{what} has shape {tuple(value.shape)}. Expected a scalar: sum it first, for example `mask.sum()`."
            )
        return
    if (number := as_number(value)) is None:
        raise TypeError(
            f"{what} is of type {type(value).__name__}. Expected a number or a scalar tensor, for example `len(batch)`."
        )
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{what} is {value}. Expected a finite number that is not negative.")
