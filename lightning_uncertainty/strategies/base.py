"""The seam between the engine and the rules that give each task its factor."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_uncertainty._arguments import Setting
from lightning_uncertainty.engine.scale import Factors
from lightning_uncertainty.engine.state import TaskTensors, move_tensors
from lightning_uncertainty.tasks import Task

__all__ = ["Strategy"]


class Strategy(Setting, ABC):
    """A rule by which the factors before the losses follow from the losses.

    The engine owns what every rule needs: missing tasks, NaN, precision, ranks, accumulation, checkpoints, logs. A
    strategy receives losses and returns factors. An instance that you create only holds settings; the engine works
    with a copy of it, to which :meth:`bind` gives the tasks.

    >>> class Inverse(Strategy):
    ...     name = "inverse"
    ...     def bind(self, tasks):
    ...         self.state, self.learned = TaskTensors(), {task.name: False for task in tasks}
    ...         self.factor, self.offset = torch.ones(len(tasks)), torch.zeros(len(tasks))
    ...     def factors(self, raw_loss):
    ...         return 1.0 / raw_loss, self.offset
    >>> from lightning_uncertainty import UncertaintyWeighting
    >>> weighting = UncertaintyWeighting({"depth": "laplace", "class": "softmax"}, strategy=Inverse())
    >>> weighting({name: torch.tensor(4.0, requires_grad=True) for name in weighting.tasks})
    tensor(2., grad_fn=<DotBackward0>)

    Attributes:
        name: The short form in ``strategy="..."``.
        state: The tensors that the next step depends on. They are saved, moved and restored by their fields.
        factor: The factors in force, fp32, of shape (K,); what multiplies each loss.
        offset: The terms that are added to the total, fp32, of shape (K,).
        settled: True if :meth:`factors` returns :attr:`factor` and :attr:`offset` whatever the losses are, so that the
            engine need not ask.
        live: True if :meth:`factors` follows the losses of each call. These are then those of the rank, and once
            frozen, :attr:`factor` stays in force.
        guarded: True if a :class:`~lightning_uncertainty.engine.guard.Guard` may begin with the plain sum.
        default_scale: The ``scale`` of the total unless one is asked for.
        learned: A bool by task, in their order: True if the rule learns a sigma for it.
    """

    name: ClassVar[str]
    state: TaskTensors
    factor: Tensor
    offset: Tensor
    settled: bool = False
    live: ClassVar[bool] = False
    guarded: ClassVar[bool] = False
    default_scale: ClassVar[str | None] = None
    learned: Mapping[str, bool]

    @abstractmethod
    def bind(self, tasks: Sequence[Task]) -> None:
        """Set the attributes for these tasks, in their order, on the CPU.

        Raises:
            ValueError: if a setting does not fit the tasks.
        """

    @property
    def log_var(self) -> Tensor:
        """The log-variances ``s``, fp32, of shape (K,); 0 for a rule without."""
        return torch.zeros_like(self.factor)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that it was made with, as far as they are kept under their names and are plain data."""
        kept = {name: getattr(self, name, None) for name in inspect.signature(type(self)).parameters}
        return {name: value for name, value in kept.items() if isinstance(value, (int, float, str, tuple))}

    def expect(self, steps: float) -> None:  # few rules depend on it
        """Take note of how many steps the run will have."""

    @property
    def now(self) -> Factors:
        """The factors in force, and what their common scale follows from."""
        return Factors(self.factor, self.offset)

    def factors(self, raw_loss: Tensor) -> Factors | tuple[Tensor, Tensor]:
        """Return at least factor and offset for the losses of one call, fp32, each of shape (K,).

        Args:
            raw_loss: The losses without a graph, of shape (K,); NaN where a task is absent. In the first window of a
                run they are means over the ranks, unless the rule is :attr:`live`.
        """
        return self.now

    def start(self, mean_loss: Tensor, present: Tensor) -> Tensor:
        """Give tasks their start from the first losses; return which of those ``present`` are to learn in this step.

        Args:
            mean_loss: The mean losses of the step, of shape (K,); of no meaning where absent.
            present: bool, of shape (K,).
        """
        return present

    def track(self, mean_loss: Tensor, present: Tensor) -> Tensor:
        """Follow the losses at once, before the factors count; return which of those ``present`` are to learn instead.

        Args:
            mean_loss: The losses smoothed over some steps, of shape (K,).
            present: bool, of shape (K,).
        """
        return present

    def learn(self, mean_loss: Tensor, slope: Tensor | None, present: Tensor) -> None:  # given factors do not learn
        """Learn from one optimizer step; tasks that are not ``present`` stay as they are.

        Args:
            mean_loss: The mean losses over micro-batches and ranks, of shape (K,).
            slope: The mean derivatives of the losses themselves with respect to ``s``, of shape (K,); None for all 0.
            present: bool, of shape (K,).
        """

    def discard(self) -> None:  # few rules keep anything between two steps
        """Forget what was kept of the losses since the last step: they are forgotten, too."""

    def end_epoch(self) -> None:  # few rules have a use for it
        """Learn from the end of an epoch."""

    def assign(self, log_vars: Mapping[str, float]) -> None:
        """Set the log-variances of some tasks on purpose.

        Raises:
            ValueError: if a task has none, or a value lies outside its bounds.
        """
        raise ValueError(
            f"The strategy {self.name!r} has no log-variances, sigmas or weights that could be set. Use "
            'strategy="uncertainty", or give the factors: strategy=Fixed({"depth": 2.0}).'
        )

    def restored(self) -> Tensor:
        """Derive what follows from a loaded state; return which tasks had to be changed (bool, of shape (K,))."""
        return torch.zeros_like(self.factor, dtype=torch.bool)

    def columns(self) -> dict[str, Tensor]:
        """Return what a snapshot shows of each task, each of shape (K,); by default the fields of :attr:`state`.

        A field that is declared with ``metadata={"shown": False}`` is left out.
        """
        return self.state.columns()

    def to(self, device: torch.device) -> None:
        """Move all tensors to ``device``, as copies."""
        self.state.to(device)
        move_tensors(self, device)
