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
        double = any(parameter.dtype == torch.float64 for parameter in parameters)
        # A row per task; last in it, in how many calls the task took part.
        shape = len(weighting.tasks), sum(parameter.numel() for parameter in parameters) + 1
        dtype = torch.float64 if double else torch.float32
        self._rows = torch.zeros(shape, dtype=dtype, device=weighting.device)
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
                    self._rows[index, :-1] += self._gradient(loss, scale) * factor
                    self._rows[index, -1] += 1.0

    def behind_a_checkpoint(self) -> bool:
        """Return True if a remembered loss depends on reentrant activation checkpointing, which hides parameters."""
        losses = [loss for losses, _ in self._calls for loss in losses.values()]
        nodes = [(loss.logits if isinstance(loss, CrossEntropy) else loss).grad_fn for loss in losses]
        seen = set()
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                if node.name() == "CheckpointFunctionBackward":
                    return True
                seen.add(node)
                nodes.extend(before for before, _ in node.next_functions)
        return False

    def _loss(self, name: str, index: int, losses: Mapping[str, Tensor | CrossEntropy]) -> Tensor | None:
        """Return the raw loss; None for a task that sits out."""
        loss = losses.get(name)
        if isinstance(loss, CrossEntropy):
            log_var = self._weighting.log_var[index]
            loss = loss.loss(log_var if self._weighting.tasks[name].likelihood.tempered else torch.zeros_like(log_var))
        return None if loss is None or not loss.requires_grad or not torch.isfinite(loss) else loss

    def _gradient(self, loss: Tensor, scale: float) -> Tensor:
        """Return the gradient, with a smaller scale where that of the Trainer, meant for the total, is out of range."""
        trained = [parameter for parameter in self._parameters if parameter.requires_grad]
        scales = torch.full_like(loss, scale)
        found = torch.autograd.grad(loss, trained, scales, retain_graph=True, materialize_grads=True)
        by = dict(zip(trained, found, strict=True))
        parts = [by.get(parameter, torch.zeros_like(parameter)).to_dense().flatten() for parameter in self._parameters]
        gradient = torch.cat(parts).to(self._rows) / scale
        if scale > 1.0 and not torch.isfinite(gradient).all():
            return self._gradient(loss, max(scale / 256.0, 1.0))
        return gradient

    def close(self, step: int) -> GradientSnapshot:
        """Return norms and cosines of the means over the ranks, as the optimizer sees them."""
        sum_over_ranks(self._rows)
        vectors, calls = self._rows[:, :-1], self._rows[:, -1]
        products = vectors @ vectors.T / world_size() ** 2
        products.diagonal().masked_fill_(calls == 0.0, math.nan)
        factors = torch.full_like(calls, math.nan) if self._factors is None else self._factors.to(products)
        table = torch.cat([products, factors.unsqueeze(1)], dim=1).cpu().double()  # one transfer
        norms = table.diagonal().sqrt()
        cosines = (table[:, :-1] / torch.outer(norms, norms)).clamp(-1.0, 1.0).tolist()  # 0 / 0 is NaN
        names = list(self._weighting.tasks)
        pairs = combinations(enumerate(names), 2)
        return GradientSnapshot(
            step,
            norms=dict(zip(names, norms.tolist(), strict=True)),
            factors=dict(zip(names, table[:, -1].tolist(), strict=True)),
            cosines={(one, other): cosines[i][j] for (i, one), (j, other) in pairs},
        )
