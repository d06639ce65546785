"""The relative loss of training and of validation: when its means begin, and how tasks join it."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_uncertainty.engine.state import EngineState, HostFlags
from lightning_uncertainty.engine.window import in_numpy

__all__ = ["RelativeLoss"]

_CARRIED = 2.0**-64  # steps


class RelativeLoss:
    """Keeps what :attr:`~lightning_uncertainty.Snapshot.relative_loss` depends on. The callback calls it.

    Args:
        state: The state of the engine, which it changes.

    Attributes:
        all_joined: True if no task is left that may still join, as far as the host knows.
    """

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._flag, self.all_joined = HostFlags(), False

    def step(self) -> None:
        """Let the tasks join whose first loss came in the last step. Once all have, there is nothing to do."""
        state = self._state
        if not self.all_joined:
            if in_numpy(state.base_loss):
                pairs = list(zip(*state.views("base_loss", "epoch_loss"), strict=True))
                self.all_joined = all(base != 0.0 for base, _ in pairs)
                if not any(base == 0.0 and loss > 0.0 for base, loss in pairs):
                    return  # nobody can join
            loss = state.epoch_loss / state.epoch_steps
            state.base_loss = torch.where(state.base_loss == 0.0, -self._linked(loss, state.base_loss), state.base_loss)
            self.all_joined = self._flag.poll(state.base_loss.ne(0.0).all().reshape(1))

    def _linked(self, loss: Tensor, base: Tensor) -> Tensor:
        """Return the bases at which each task has the mean ratio of those that take part, 1 without any; else 0.

        So the mean does not move when a task comes, as a price index does not when a good is added (chain-linking).
        """
        return torch.where(loss > 0.0, loss / _geometric_mean(self._state.ratios(loss, base)).nan_to_num(1.0), 0.0)

    def begin_epoch(self) -> None:
        """Begin the means of an epoch anew; a task that does not come in it keeps its mean."""
        state = self._state
        # A single loss is too noisy to compare a task with others that are there already: the mean of an epoch is not.
        loss, base, others = state.epoch_loss / state.epoch_steps, state.base_loss, state.base_loss.gt(0.0).any()
        state.base_loss = torch.where((base < 0.0) & others, self._linked(loss, base), base.abs())
        # That mean is kept as of one step of next to no weight; a power of two keeps all digits.
        state.epoch_loss *= _CARRIED / state.epoch_steps.clamp(min=_CARRIED)
        state.epoch_steps.clamp_(max=_CARRIED)

    @torch.inference_mode(False)
    def of_validation(self) -> float:
        """Return the relative loss of the validation that has just ended; costs a transfer to the host."""
        state = self._state
        loss, base = state.val_loss, state.val_base_loss
        state.val_base_loss = torch.where(base == 0.0, self._linked(loss, base), base)
        return float(_geometric_mean(state.ratios(loss, state.val_base_loss)))


def _geometric_mean(ratios: Tensor) -> Tensor:
    return ratios.log().nanmean().exp()
