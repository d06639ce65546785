"""The schedule of learning: how many steps there were, the warm-up before it, and the freezing after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lightning_uncertainty._arguments import check_choice, check_number, check_steps

if TYPE_CHECKING:
    from typing_extensions import Self

    from lightning_uncertainty.engine.guard import Guard
    from lightning_uncertainty.engine.scale import Scale
    from lightning_uncertainty.strategies import Strategy

__all__ = ["Schedule"]

_MOST_UNSURE = 100


class Schedule:
    """The steps of :class:`~lightning_uncertainty.UncertaintyWeighting`, and what follows from their number.

    Args:
        warmup_steps: The number of steps before the strategy learns.
        warmup: The weights until then: ``"initial"`` or ``"equal"``.
        freeze_after: The number of steps after which the weights stay as they are; None for never.
    """

    strategy: Strategy
    _guard: Guard | None
    _scale: Scale
    _choose: Callable[[], None]

    def __init__(self, warmup_steps: int, warmup: Literal["initial", "equal"], freeze_after: int | None) -> None:
        check_choice("warmup", warmup, ("initial", "equal"))
        self.warmup_steps, self.warmup = check_steps("warmup_steps", warmup_steps), warmup
        self.freeze_after = None if freeze_after is None else check_steps("freeze_after", freeze_after)
        self.training, self._suited = True, False
        self._set_steps(0, frozen=False)

    def _set_steps(self, steps: int, *, frozen: bool) -> None:
        self._steps, self._frozen = steps, frozen
        self._unsure: list[Tensor] = []  # for each step that may be none, a bool on the device

    def _count_step(self, sure: Tensor | None) -> None:
        """Count one step; ``sure`` (bool, on the device) is False if there was none, and None if there was."""
        self._steps += sure is None
        self._unsure += [] if sure is None else [sure]
        if len(self._unsure) > _MOST_UNSURE:
            self._unsure = [torch.stack(self._unsure).sum()]

    @property
    def steps(self) -> int:
        """The number of steps so far."""
        while self._unsure:  # a process that has weighed nothing asks the device whether another has
            self._steps += int(self._unsure.pop())
        return self._steps

    @property
    def learning(self) -> bool:
        """True if the next step learns: the warm-up is over and nothing is frozen."""
        return not (self.frozen or (self.warmup_steps and self.steps < self.warmup_steps))

    @property
    def _warming_up_equal(self) -> bool:
        return self.warmup == "equal" and self.steps < self.warmup_steps

    @property
    def _opening(self) -> bool:
        """True in the first window that can start a task: in it the ranks agree on the mean of each call."""
        # It follows from the state, so that a resumed run reduces what the uninterrupted one reduces.
        return self.steps == (self.warmup_steps if self.warmup == "equal" else 0)

    @property
    def frozen(self) -> bool:
        """True if the weights stay as they are: after :meth:`freeze`, or ``freeze_after`` steps."""
        return self._frozen or (self.freeze_after is not None and self.steps >= self.freeze_after)

    def train(self, mode: bool = True) -> Self:
        """Set whether calls remember their losses for the next step. The callback does this."""
        self.training = mode
        return self

    def eval(self) -> Self:
        """Let calls change nothing, also when gradients are enabled."""
        return self.train(False)

    def freeze(self) -> None:
        """Keep the weights as they are from now on. A task that has no ``s`` yet still starts from its first loss."""
        self._frozen = True
        self._choose()

    def unfreeze(self) -> None:
        """Undo :meth:`freeze`."""
        self._frozen = False
        self._choose()

    # ------------------------------------------------------------------------------------------------ the run

    def expect(self, steps: float) -> None:
        """Tell how many steps the run will have, for settings that follow from it. The callback does this.

        Raises:
            ValueError: if it is not a number of at least 1; ``math.inf`` stands for a run without an end.
        """
        if steps != math.inf:
            check_number("steps", steps, above=1.0)
        self.strategy.expect(steps)
        if self._guard is not None:
            self._guard.fit(steps)

    def suit(self, optimizers: Iterable[Any]) -> None:
        """Suit the optimizers; the callback and :meth:`follow` do this.

        Those that divide by the size of past gradients, as Adam does, are known by their ``eps``. They do not mind how
        large a total is, but a factor that falls: for as long as they remember the gradients before, the parameters
        behind that loss get shorter steps. With others, as SGD, steps grow with a factor and may get too long.
        """
        groups: list[Any] = [group for each in optimizers for group in getattr(each, "param_groups", [()])]
        adaptive = all("eps" in group for group in groups)
        self._scale.most, self._suited = 2.0 if groups and adaptive else 1.0, bool(groups)
        if self._guard is not None:
            self._guard.strict = not adaptive
        self._choose()
