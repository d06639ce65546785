"""How an engine is moved to another device, copied, saved and restored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import compress
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.engine.held_out import HeldOut
from lightning_uncertainty.engine.losses import RawLosses
from lightning_uncertainty.engine.recorder import Recorder
from lightning_uncertainty.engine.relative_loss import RelativeLoss
from lightning_uncertainty.engine.saved import SavedState, read_state, short_forms, task_settings, unusable
from lightning_uncertainty.engine.schedule import Schedule
from lightning_uncertainty.engine.state import EngineState, move_tensors
from lightning_uncertainty.regularizers import Regularizer
from lightning_uncertainty.snapshot import Score
from lightning_uncertainty.strategies import STRATEGIES, Fixed, Uncertainty
from lightning_uncertainty.tasks import Task, TaskSpecs, parse_tasks

if TYPE_CHECKING:
    from typing_extensions import Self

    from lightning_uncertainty.strategies import Strategy

__all__ = ["Portable"]


class Portable(Schedule):
    """The part of :class:`~lightning_uncertainty.UncertaintyWeighting` that moves, copies, saves and restores it.

    Attributes:
        origin: ``"learned"``; ``"loaded"``, when its network may follow; ``"outdated"``, when its network is gone.
        relative: What the relative loss depends on.
        held_out: What the losses of validations tell.
        scores: The scores of the last validation or test, by task.
        sigma_from: The data that sigma is taken from when predicting.
    """

    tasks: dict[str, Task]
    regularizer: Regularizer
    recorder: Recorder
    process_group: dist.ProcessGroup | None
    discard: Callable[[], None]
    relative: RelativeLoss
    held_out: HeldOut
    _scores: dict[str, dict[str, Score]]
    sigma_from: Literal["training", "validation"]
    _sigma_loaded: Literal["training", "validation"]
    origin: str
    _state: EngineState
    _equal: Strategy
    _raw_losses: RawLosses
    _notices: Notices
    _start: Mapping[str, Any]
    _foreign: Mapping[str, Any] | None

    @torch.inference_mode(False)
    def to(self, device: torch.device | str | int) -> Self:
        """Move to ``device``, as copies: nothing is shared with other processes afterwards. The dtypes stay."""
        target = torch.device(device)
        for part in (self._state, self.strategy, self._equal, self.recorder.window, self.held_out):
            part.to(target)
        for holder in (self, self._raw_losses, self._scale, self._guard):
            move_tensors(holder, target)
        self._choose()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that shares nothing but the process group, which cannot be copied."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        memo[id(self.process_group)] = self.process_group
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on from a pickle, whose tensors may have been on another device."""
        vars(self).update(state)
        self._choose()

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on, by task, on the CPU. Losses since the last step are no part of it."""
        if self._foreign is not None and self._foreign["steps"] == self.steps:
            return dict(self._foreign)
        kinds = short_forms(self.tasks), self.strategy.name, self.regularizer.name
        tensors = {**self._state.tensors(), **self.strategy.state.tensors()}
        settings = task_settings(self.tasks), self._scale.kind, self.strategy.settings
        saved = SavedState(*kinds, self.steps, self._frozen, tensors, *settings)
        return {**saved.written(), "sigma_from": self.sigma_from, "most": self._scale.most}

    @torch.inference_mode(False)
    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``. Tasks are matched by name: new ones start from the data, vanished ones are dropped.

        Raises:
            ValueError: if ``state`` is not usable; then nothing was loaded.
        """
        saved = read_state(state, self._state, (self.strategy.name, self.strategy.state))
        forms = short_forms(self.tasks)
        self._notices.warn_of_tasks(saved.differences(forms, self.strategy.name, self.regularizer.name))
        saved.copy_to({**self._state.tensors(), **self.strategy.state.tensors()}, forms)
        text = "The log-variance of task {!r} in the checkpoint lies outside its bounds: moved to one."
        moved = compress(self.tasks, self.strategy.restored().tolist())
        self._notices.warn_of_tasks(("projected", name, text.format(name)) for name in moved)
        self._set_steps(saved.steps, frozen=saved.frozen)
        self.relative = RelativeLoss(self._state)
        self.held_out.restored()
        self._scores = {}
        self._sigma_loaded = "validation" if state.get("sigma_from") == "validation" else "training"
        if not self._suited:  # nobody else tells of optimizers
            self._scale.most = 2.0 if state.get("most") == 2.0 else 1.0
        self.origin, self._foreign = "loaded", None
        if self._guard is not None:
            self._guard.look_again()
        else:  # nobody would go on from there
            self._state.trust.fill_(1.0)
            self._state.held.fill_(False)
        self.discard()
        self._choose()

    def reset(self) -> None:
        """Start anew: no steps, no losses, the first ``s``, nothing set or frozen by hand. Tasks and options stay."""
        self.load_state_dict({**self._start, "sigma_from": self.sigma_from})

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], tasks: TaskSpecs | None = None) -> Self:
        """Return an engine with the strategy, its settings and the values of ``state``, and else default options.
        The tasks may have changed since; by default they are those of ``state``.

        Raises:
            ValueError: if ``state`` is not usable, or an older version saved it with a likelihood of one's own.
        """
        saved = read_state(state)
        known = saved.strategy in STRATEGIES  # one's own is known by its name only
        strategy = _strategy_of(saved) if known else Fixed()
        specs = parse_tasks(tasks or saved.specs)
        scale = saved.scale if saved.scale not in saved.tasks or saved.scale in [t.name for t in specs] else "auto"
        make: Any = cls
        weighting: Self = make(specs, strategy=strategy, scale=scale)
        weighting.load_state_dict(state)
        weighting._foreign = None if known else state
        return weighting


def _strategy_of(saved: SavedState) -> Strategy:
    """Return the strategy of a state, with its settings.

    Raises:
        ValueError: if they are none of such a strategy.
    """
    settings = saved.strategy_settings
    try:
        if saved.strategy == Uncertainty.name:
            return Uncertainty(**{**settings, "regularizer": saved.regularizer})
        return STRATEGIES[saved.strategy](**settings)
    except TypeError as error:
        raise unusable(f"the settings {settings!r} of its strategy are damaged: {error}") from None
