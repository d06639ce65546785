"""The way from the plain sum to the learned weights, and the tasks that do not go it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_uncertainty.engine.state import EngineState, HostFlags
from lightning_uncertainty.engine.window import WindowMeans

if TYPE_CHECKING:
    from lightning_uncertainty.strategies import Strategy

__all__ = ["Guard"]

_STEPS, _PART = 200, 0.1  # of the plain sum: so many, and at most this part of a run
_SMOOTH = 10  # steps over which losses are averaged
_LONGER = 50  # steps over which their noise is averaged
_RISEN = 3.0  # times the lowest or the first loss
_NOISE = 3.0  # times the mean distance of two losses in a row: what noise alone does not reach in some hundred steps


class Guard:
    r"""Begins a training with the plain sum, and finds out which tasks are better left there.

    For ``n`` steps the total is the plain sum of the losses, and ``s`` is the optimum of their running mean. Over the
    next ``n`` steps the factors ``C f_k`` of the strategy, in the scale that is asked for, take over as ``(C f_k)^t``,
    where the trust ``t`` rises from 0 to 1. The steps of a task are counted from its first loss above 0, so that one
    that comes late goes the same way.

    A task whose running mean rises to over three times its lowest in the steps of the plain sum, or over three times
    its first loss in those after them, and further than its noise from step to step explains, is *held*: it keeps the
    factor 1 of the plain sum (``t = 0``), beside learned factors of the others. Its loss was small because nothing had
    been learned yet, which is no scale: the residual of a differential equation under a net that is nearly constant,
    the divergence term of a variational bound, a term that keeps views of one thing together. A weight that follows
    such a loss keeps it small for ever, and the net with it at its start. So is a task on the way, if one loss rises so
    far over the first and the mean: the steps of the optimizer, most often SGD, are too long for its weight.

    Args:
        state: The state of the engine, which it changes.
        learned: bool, of shape (K,): True for the tasks whose factors follow from their losses.

    Attributes:
        steps: The number ``n``.
        strict: True if a loss that shoots up over its mean alone is enough: for optimizers whose steps grow with it.
        over: True if all tasks have gone the way, as far as the host knows.
    """

    def __init__(self, state: EngineState, learned: Tensor) -> None:
        self._state, self._learned, self._given = state, learned.clone(), ~learned
        self.steps, self.strict = _STEPS, False
        state.trust.zero_()
        self.look_again()

    def fit(self, run: float) -> None:
        """Use at most a tenth of a run of so many steps for the plain sum."""
        self.steps = max(1, int(min(_STEPS, _PART * run)))
        self.look_again()

    def look_again(self) -> None:
        """Find out anew whether all tasks have arrived: the state or the number of steps has changed."""
        self.over, self._arrived = False, HostFlags()

    def step(self, means: WindowMeans, present: Tensor, strategy: Strategy) -> Tensor:
        """Look at a step, and go on; return the tasks of ``present`` that have not followed the running means."""
        if self.over:
            return present
        state = self._state
        on_the_way = (state.trust < 1.0) & (state.guarded < 2 * self.steps - 1)  # unless somebody has set the weights
        seen = on_the_way & means.present & (means.raw_loss > 0.0)
        before = state.mean_log
        self._average(seen, means.raw_loss)
        state.guarded += on_the_way & ((state.guarded > 0) | seen | self._given)
        plain = state.guarded <= self.steps
        state.lowest_log = torch.where(seen & plain, torch.fmin(state.lowest_log, state.mean_log), state.lowest_log)
        low = torch.where(plain, state.lowest_log, state.first_log)  # a rising weight may push a loss above its lowest
        risen = state.mean_log - low
        # A step that is too long for the new weights takes a loss up too fast for a mean.
        usual = before if self.strict else torch.fmax(state.first_log, before)
        shot_up = torch.where(plain, risen, state.last_log - usual)
        risen = torch.fmax(risen, shot_up) - _NOISE * state.spread_log
        state.held |= on_the_way & self._learned & (risen > math.log(_RISEN))
        trust = torch.where(on_the_way & (state.guarded >= self.steps), state.trust + 1.0 / self.steps, state.trust)
        arrived = state.guarded >= 2 * self.steps - 1
        state.trust = torch.where(state.held, 0.0, torch.where(arrived, 1.0, trust))
        # Asked for without waiting: a step that is looked at in vain changes nothing.
        self.over = self._arrived.poll((arrived | (state.trust >= 1.0)).all().reshape(1))
        return present & (strategy.track(state.mean_log.exp(), seen) | ~seen)

    def _average(self, seen: Tensor, raw_loss: Tensor) -> None:
        """Update the averages of the logarithms of the losses that are ``seen``."""
        state = self._state
        log_loss = torch.where(seen, torch.log(raw_loss), state.mean_log)
        state.first_log = torch.where(seen & state.mean_steps.eq(0), log_loss, state.first_log)
        before = torch.where(state.mean_steps > 0, state.last_log, log_loss)
        distance = (log_loss - before).abs()
        part = 1.0 / state.mean_steps.clamp(min=1, max=_LONGER)
        state.spread_log = torch.where(seen, torch.lerp(state.spread_log, distance, part), state.spread_log)
        state.last_log = torch.where(seen, log_loss, state.last_log)
        state.mean_steps += seen
        state.mean_log = torch.lerp(state.mean_log, log_loss, 1.0 / state.mean_steps.clamp(min=1, max=_SMOOTH))
