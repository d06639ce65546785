"""The steps of the engine, by the shortest of three ways that lead to the same state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_uncertainty.engine.relative_loss import RelativeLoss
from lightning_uncertainty.engine.scale import Factors
from lightning_uncertainty.engine.schedule import Schedule
from lightning_uncertainty.engine.state import EngineState
from lightning_uncertainty.engine.window import WindowMeans, host_values, in_numpy, world_size

if TYPE_CHECKING:
    from lightning_uncertainty.strategies import Strategy, Uncertainty

__all__ = ["Learning"]

_LOOK_EVERY = 100  # steps


class Learning(Schedule):
    """Takes the steps of :class:`~lightning_uncertainty.UncertaintyWeighting`, and ends its epochs."""

    _state: EngineState
    relative: RelativeLoss
    compile_step: bool
    process_group: dist.ProcessGroup | None
    _has_routine: bool
    _equal: Strategy
    _in_force: Strategy
    _factor: Tensor
    _offset: Tensor
    _equal_now: Tensor
    _frozen_now: Tensor
    _scaled: Callable[[Factors], tuple[Tensor, Tensor]]
    _look_for_trouble: Callable[[], None]

    def _learn(self, means: WindowMeans, sure: Tensor | None) -> None:
        if torch.is_inference_mode_enabled():  # asked first, because leaving it takes longer than an operation
            with torch.inference_mode(False):
                self._learn(means, sure)
            return
        arrived = self._guard is None or self._guard.over
        routine = arrived and self.strategy.settled and self.learning
        if routine and means.whole and self._has_routine:
            self._learn_on_host(host_values(means.raw_loss))
            self._count_step(sure)
        elif routine and self.compile_step and not in_numpy(means.raw_loss) and world_size(self.process_group) == 1:
            with torch.no_grad():  # in one mode there is one graph
                _compiled_step()(self, means)
            self.relative.step()
            self._count_step(sure)
        else:
            self._learn_the_long_way(means, sure)
        if sure is None and self._steps % _LOOK_EVERY == 0:
            self._look_for_trouble()

    def _learn_on_host(self, raw_loss: Any) -> None:
        """Take a step on a CPU in which nothing but the strategy moves."""
        strategy, plain = cast("Uncertainty", self.strategy), self._scale.plain
        self._state.remember_on_host(raw_loss)
        self.relative.step()
        strategy.learn_on_host(raw_loss)
        self._factor = strategy.factor if plain else self._scale.again(strategy.on_host.factor)
        self._offset = strategy.offset if plain else self._offset

    def _learn_on_device(self, means: WindowMeans) -> None:
        """Take a step in torch in which nothing but the strategy moves."""
        self._state.remember(means)
        self.strategy.learn(means.raw_loss, means.slope, means.present)
        self._factor, self._offset = self._scaled(self.strategy.now)

    def _learn_the_long_way(self, means: WindowMeans, sure: Tensor | None) -> None:
        self._state.remember(means)
        self.relative.step()
        if self._warming_up_equal:
            self.strategy.discard()
        else:
            present = self.strategy.start(means.raw_loss, means.present)
            if self.learning:
                if self._guard is not None:
                    present = self._guard.step(means, present, self.strategy)
                self.strategy.learn(means.raw_loss, means.slope, present)
        self._count_step(sure)
        self._choose()

    def _choose(self) -> None:
        """Put the strategy in force, or equal weights while they warm up. To be called when its factors change."""
        self._in_force = self._equal if self._warming_up_equal else self.strategy
        self._factor, self._offset = self._scaled(self._in_force.now)
        if self.warmup == "equal":
            self._equal_now = torch.full_like(self._equal_now, self._warming_up_equal)
        if self.strategy.live:
            self._frozen_now = torch.full_like(self._frozen_now, self.frozen)

    def end_epoch(self) -> None:
        """Tell the strategy that an epoch has ended. The callback does this; ``dwa`` needs it in a loop of your own."""
        if self._knows_epochs:
            self._state.epoch_ended.fill_(True)
            if self.learning:
                self.strategy.end_epoch()
                self._choose()

    def begin_epoch(self) -> None:
        """Begin an epoch, and end the last one where a resume has skipped its end. The callback does this."""
        if self._knows_epochs:
            if bool((self._state.epoch_steps >= 1.0).any() & ~self._state.epoch_ended.any()):
                self.end_epoch()
            self._state.epoch_ended.fill_(False)
        self.relative.begin_epoch()

    @property
    def _knows_epochs(self) -> bool:
        """True if an end of an epoch is of any effect; else nobody needs to wait for the device."""
        return type(self.strategy).end_epoch is not type(self._equal).end_epoch  # which is that of the base class


@functools.cache
def _compiled_step() -> Any:
    """Return the step in torch, compiled as one graph."""
    return torch.compile(Learning._learn_on_device, dynamic=False)
