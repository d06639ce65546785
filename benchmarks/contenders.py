"""The ways to make one number of K losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.clock import Contender
from lightning_uncertainty import UncertaintyWeighting

__all__ = ["KINDS", "Losses", "names_of", "task_kinds", "totals", "weighing_contenders"]

Losses = dict[str, Tensor]
KINDS = ("gaussian", "laplace", "softmax", "bernoulli")


def names_of(count: int) -> list[str]:
    """Of so many tasks."""
    return [f"task{index}" for index in range(count)]


def task_kinds(count: int) -> dict[str, str]:
    """Of so many tasks, all four likelihoods in turn."""
    return {name: KINDS[index % len(KINDS)] for index, name in enumerate(names_of(count))}


class SharedTensor:
    """K scalar losses of one tensor: each a weighted sum of its 16 numbers, squared."""

    def __init__(self, count: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(16, generator=generator).to(device).requires_grad_()
        self._factors = [(torch.rand(16, generator=generator) + 0.5).to(device) for _ in range(count)]
        self._names = names_of(count)

    def losses(self) -> Losses:
        """Anew, with their graph."""
        return {name: (self.x * factor).sum().square() for name, factor in zip(self._names, self._factors, strict=True)}


class Vectorised(nn.Module):
    """The textbook, for those who think in vectors: ``sum(exp(-s) L + s / 2)``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(count))

    def forward(self, losses: Losses) -> Tensor:
        stacked = torch.stack(list(losses.values()))
        return (torch.exp(-self.log_var) * stacked + 0.5 * self.log_var).sum()


class Loop(nn.Module):
    """The loop over tasks that most people copy."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(count))

    def forward(self, losses: Losses) -> Tensor:
        total = torch.zeros((), device=self.log_var.device)
        for index, loss in enumerate(losses.values()):
            total = total + torch.exp(-self.log_var[index]) * loss + 0.5 * self.log_var[index]
        return total


class TorchJD(nn.Module):
    """``UW`` of TorchJD, which takes a vector."""

    def __init__(self, count: int) -> None:
        super().__init__()
        from torchjd.scalarization import UW

        self.scalarizer = UW(count)

    def forward(self, losses: Losses) -> Tensor:
        return self.scalarizer(torch.stack(list(losses.values())))


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):  # noqa: ARG004
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):  # noqa: ARG004
        return gradient


def _stack_dot(weights: Tensor, losses: Losses) -> Tensor:
    return torch.stack(list(losses.values())).dot(weights)


def _empty_function(losses: Losses) -> Tensor:
    return _Identity.apply(torch.stack(list(losses.values()))).sum()


def totals(count: int, device: str) -> dict[str, Callable[[Losses], Tensor]]:
    """By name; those after ours compute the same."""
    weighting = UncertaintyWeighting(task_kinds(count)).to(device)
    return {
        "sum": lambda losses: sum(losses.values()),
        "stack.sum": lambda losses: torch.stack(list(losses.values())).sum(),
        "stack.dot": partial(_stack_dot, torch.ones(count, device=device)),
        "empty Function": _empty_function,
        "ours": weighting,
        "TorchJD": TorchJD(count).to(device),
        "vectorised": Vectorised(count).to(device),
        "loop": Loop(count).to(device),
    }


def weighing_contenders(count: int, device: str) -> dict[str, Contender]:
    """Losses, total and backward pass, for each way."""
    shared = SharedTensor(count, device)
    contenders = {}
    for name, total in totals(count, device).items():

        def run(total: Callable[[Losses], Tensor] = total) -> None:
            total(shared.losses()).backward()

        contenders[name] = Contender(run, partial(_prepare, shared, total))
    return contenders


def _prepare(shared: SharedTensor, total: object) -> None:
    shared.x.grad = None
    if isinstance(total, UncertaintyWeighting):
        if total.steps < 3:
            total.step()  # s has its start, and the engine knows it
        total.discard()
    elif isinstance(total, nn.Module):
        total.zero_grad()
