"""Dynamic weight average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_uncertainty._arguments import check_number
from lightning_uncertainty.engine.state import TaskTensors
from lightning_uncertainty.strategies.weights import WeightRule
from lightning_uncertainty.tasks import Task

__all__ = ["DWA"]

_UNSHOWN = {"negative": False, "shown": False}


@dataclass
class DWAState(TaskTensors):
    """The mean losses of epochs.

    Attributes:
        loss_sum: The sum of the mean losses of the steps of this epoch.
        loss_steps: The number of these steps.
        last_epoch: The mean loss ``L(e - 1)`` of the last epoch with the task; 0 before there is any.
        epoch_before: The mean loss ``L(e - 2)`` of the epoch before; 0 before there is any.
    """

    loss_sum: Tensor = field(metadata={"shown": False})
    loss_steps: Tensor = field(metadata=_UNSHOWN)
    last_epoch: Tensor = field(metadata={"shown": False})
    epoch_before: Tensor = field(metadata={"shown": False})


class DWA(WeightRule):
    r"""Dynamic weight average: the slower the loss of a task fell, the more it counts in the next epoch.

    .. math:: w_k(e) = K \operatorname{softmax}_k(r_k / T), \qquad r_k = \frac{L_k(e - 1)}{L_k(e - 2)}

    [Liu, Johns, Davison, CVPR 2019, equation (7)], where ``L_k(e)`` is the mean loss of epoch ``e`` over its steps, and
    ``r_k`` is 1 in the first two epochs. A task that is absent for a whole epoch keeps its ``r_k``, and one whose mean
    is not positive has 1.

    A Trainer tells the end of an epoch. In a loop of your own, call ``weighting.end_epoch()``; else all factors stay 1.

    Args:
        temperature: The temperature ``T``; 2 in the paper.

    Raises:
        ValueError: if the temperature is not positive.

    >>> import torch
    >>> from lightning_uncertainty import UncertaintyWeighting
    >>> weighting = UncertaintyWeighting({"depth": "laplace", "class": "softmax"}, strategy=DWA(temperature=1.0))
    >>> for losses in (torch.tensor([4.0, 2.0], requires_grad=True), torch.tensor([2.0, 2.0], requires_grad=True)):
    ...     weighting(losses).backward()
    ...     weighting.step()
    ...     weighting.end_epoch()
    >>> {task: round(weight, 3) for task, weight in weighting.weights.items()}
    {'depth': 0.755, 'class': 1.245}
    """

    name = "dwa"
    settled = True
    state: DWAState

    def __init__(self, *, temperature: float = 2.0) -> None:
        self.temperature = check_number("temperature", temperature, above=1e-30)

    def bind(self, tasks: Sequence[Task]) -> None:
        super().bind(tasks)
        self.state = DWAState(*(torch.zeros_like(self.given) for _ in range(4)))

    def learn(self, mean_loss: Tensor, slope: Tensor | None, present: Tensor) -> None:
        """Add the losses of a step to those of the epoch."""
        self.state.loss_sum = torch.where(present, self.state.loss_sum + mean_loss, self.state.loss_sum)
        self.state.loss_steps = self.state.loss_steps + present

    def end_epoch(self) -> None:
        """Weigh the next epoch by the last two."""
        state = self.state
        seen = state.loss_steps > 0.0
        state.epoch_before = torch.where(seen, state.last_epoch, state.epoch_before)
        state.last_epoch = torch.where(seen, state.loss_sum / state.loss_steps, state.last_epoch)
        state.loss_sum, state.loss_steps = torch.zeros_like(state.loss_sum), torch.zeros_like(state.loss_steps)
        self.restored()

    def restored(self) -> Tensor:
        last, before = self.state.last_epoch, self.state.epoch_before
        ratio = torch.where((last > 0.0) & (before > 0.0), last / before, 1.0).nan_to_num()
        self.factor = torch.where(
            self.free, self.free.sum() * self.softmax(ratio / self.temperature, self.free), self.given
        )
        return super().restored()
