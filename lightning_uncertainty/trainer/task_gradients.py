"""The gradient of each task's raw loss on some parameters, summed over the micro-batches of an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from lightning_uncertainty.cross_entropy import CrossEntropy
from lightning_uncertainty.engine.window import sum_over_ranks, world_size
from lightning_uncertainty.reporting.gradients import GradientSnapshot
from lightning_uncertainty.weighting import UncertaintyWeighting

__all__ = ["TaskGradients"]


class TaskGradients:
    """The gradients of the tasks on some parameters, a vector each, and their norms and cosines.

    It asks autograd for the gradients instead of calling ``backward``: nothing is added to ``parameter.grad``, and the
    hooks by which DistributedDataParallel reduces gradients do not run.

    Args:
        weighting: The engine whose losses are looked at.
        parameters: Parameters to differentiate by; those without ``requires_grad`` count as zero.
    """

    def __init__(self, weighting: UncertaintyWeighting, parameters: Sequence[Tensor]) -> None:
        self._weighting = weighting
        self._parameters = parameters
        self._vectors: Tensor | None = None  # a row per task; last in it, in how many calls the task took part
        self._factors: Tensor | None = None
        self._calls: list[tuple[Mapping[str, Tensor | CrossEntropy], Tensor]] = []

    def note(self, losses: Mapping[str, Tensor | CrossEntropy], factors: Tensor) -> None:
        """Remember what the engine was called with, until :meth:`add`."""
        self._calls.append((losses, factors))

    def add(self, factor: float, scale: float) -> None:
        """Add the gradients of the remembered losses; their graph stays, for the backward pass of the total.

        Args:
            factor: Factor of each gradient: one over the number of micro-batches.
            scale: Factor of the losses on their way back, so that half precision does not round to zero.
        """
        calls, self._calls = self._calls, []
        for losses, self._factors in calls:
            for index, name in enumerate(self._weighting.tasks):
                if (loss := self._loss(name, index, losses)) is not None:
                    self._sum()[index, :-1] += self._finite_gradient(loss, scale) * factor
                    self._sum()[index, -1] += 1.0

    def behind_a_checkpoint(self) -> bool:
        """Return True if a remembered loss depends on reentrant activation checkpointing, which hides parameters."""
        losses = [loss for losses, _ in self._calls for loss in losses.values()]
        tensors = [loss.logits if isinstance(loss, CrossEntropy) else loss for loss in losses]
        nodes = [tensor.grad_fn for tensor in tensors]
        seen = set()
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                if node.name() == "CheckpointFunctionBackward":
                    return True
                seen.add(node)
                nodes.extend(before for before, _ in node.next_functions)
        return False

    def _sum(self) -> Tensor:
        if self._vectors is None:
            size = 1 + sum(parameter.numel() for parameter in self._parameters)
            double = any(parameter.dtype == torch.float64 for parameter in self._parameters)
            shape, dtype = (len(self._weighting.tasks), size), torch.float64 if double else torch.float32
            self._vectors = torch.zeros(shape, dtype=dtype, device=self._weighting.device)
        return self._vectors

    def _loss(self, name: str, index: int, losses: Mapping[str, Tensor | CrossEntropy]) -> Tensor | None:
        """Return the raw loss; None for a task that sits out."""
        loss = losses.get(name)
        if isinstance(loss, CrossEntropy):
            log_var = self._weighting.log_var[index]
            loss = loss.loss(log_var if self._weighting.tasks[name].likelihood.tempered else torch.zeros_like(log_var))
        return None if loss is None or not loss.requires_grad or not torch.isfinite(loss) else loss

    def _finite_gradient(self, loss: Tensor, scale: float) -> Tensor:
        """Return the gradient, with a smaller scale where that of the Trainer, meant for the total, is out of range."""
        gradient = self._gradient(loss, scale)
        while scale > 1.0 and not torch.isfinite(gradient).all():
            scale = max(scale / 256.0, 1.0)
            gradient = self._gradient(loss, scale)
        return gradient

    def _gradient(self, loss: Tensor, scale: float) -> Tensor:
        trained = [parameter for parameter in self._parameters if parameter.requires_grad]
        found = iter(
            torch.autograd.grad(loss, trained, torch.full_like(loss, scale), retain_graph=True, allow_unused=True)
            if trained
            else ()
        )
        gradients = [next(found) if parameter.requires_grad else None for parameter in self._parameters]
        dtype = self._sum().dtype
        flat = [
            (torch.zeros_like(parameter) if gradient is None else gradient).to_dense().flatten().to(dtype)
            for gradient, parameter in zip(gradients, self._parameters, strict=True)
        ]
        return torch.cat(flat) / scale

    def close(self, step: int) -> GradientSnapshot:
        """Return norms and cosines of the means over the ranks, as the optimizer sees them, and start the next sum."""
        vectors = self._sum()
        sum_over_ranks(vectors)
        vectors, calls = vectors[:, :-1], vectors[:, -1]
        products = vectors @ vectors.T / world_size() ** 2
        products.diagonal().masked_fill_(calls == 0.0, math.nan)
        factors = torch.full_like(calls, math.nan) if self._factors is None else self._factors
        self._vectors = self._factors = None
        rows = torch.cat([products, factors.to(products).unsqueeze(1)], dim=1).tolist()  # one transfer
        return _snapshot(step, list(self._weighting.tasks), rows)


def _snapshot(step: int, names: list[str], rows: list[list[float]]) -> GradientSnapshot:
    norms = [math.sqrt(row[index]) for index, row in enumerate(rows)]
    place = {name: index for index, name in enumerate(names)}
    cosines = {}
    for one, other in combinations(names, 2):
        i, j = place[one], place[other]
        scale = norms[i] * norms[j]
        cosines[one, other] = min(max(rows[i][j] / scale, -1.0), 1.0) if scale > 0.0 else math.nan
    return GradientSnapshot(
        step, dict(zip(names, norms, strict=True)), {n: row[-1] for n, row in zip(names, rows, strict=True)}, cosines
    )
