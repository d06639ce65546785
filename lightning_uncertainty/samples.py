"""How many samples each loss is the mean of, for those who want means over samples and not over batches."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_uncertainty.names import lookup

__all__ = ["SampleCounts", "sample_counts"]

SampleCounts = int | float | Tensor | Mapping[str, int | float | Tensor]


def sample_counts(
    samples: SampleCounts, given: Collection[str], tasks: Mapping[str, Any], device: torch.device
) -> Tensor:
    """The counts as a vector of shape (K,), fp32; 0 for tasks without a loss.

    Args:
        samples: one number for all tasks, or one for each task; tensors stay on their device.
        given: the tasks that have a loss.
        tasks: all tasks.
        device: of the vector.

    Raises:
        ValueError: if a task is unknown or has a loss but no count, or a count is negative, not finite or no scalar.
        TypeError: if a count is no number.
    """
    counts = dict(samples) if isinstance(samples, Mapping) else dict.fromkeys(given, samples)
    for name, count in counts.items():
        lookup("task", name, tasks)
        _check_count(name, count)
    if missing := [repr(name) for name in given if name not in counts]:
        raise ValueError(
            f"samples has no count for {', '.join(missing)}. Expected one number for all tasks, or one for each task "
            'that has a loss, for example `samples={"depth": mask.sum()}`.'
        )
    values = [torch.as_tensor(counts.get(name, 0.0), dtype=torch.float32, device=device) for name in tasks]
    return torch.stack(values).detach()


def _check_count(name: str, count: Any) -> None:
    if isinstance(count, Tensor):  # its value is not looked at: that would wait for the device
        if count.ndim:
            raise ValueError(
                f"The sample count of task {name!r} has shape {tuple(count.shape)}. Expected a scalar: sum it first, "
                "for example `mask.sum()`."
            )
        return
    if isinstance(count, bool) or not isinstance(count, (int, float)):
        raise TypeError(
            f"The sample count of task {name!r} is of type {type(count).__name__}. Expected a number or a scalar "
            "tensor, for example `len(batch)`."
        )
    if not (math.isfinite(count) and count >= 0):
        raise ValueError(
            f"The sample count of task {name!r} is {count}. Expected a finite number that is not negative: how many "
            "samples the loss is the mean of."
        )
