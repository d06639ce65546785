"""A training_step that returns its losses by name, made to return their weighted sum."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lightning_uncertainty.weighting import UncertaintyWeighting

__all__ = ["NoLossesError", "WeighedStep"]


class NoLossesError(TypeError):
    """A ``training_step`` returned something else than losses by name."""


class WeighedStep:
    """Calls ``training_step`` and sets ``"loss"`` to the weighted sum of the ``"losses"`` that it returns.

    If it also returns ``"samples"``, the means are over samples.

    An object and not a closure: a deep copy of the module, as EMA callbacks make it, then has a step of its own.

    Args:
        training_step: the module's own.
        weighting: the engine.
    """

    def __init__(self, training_step: Callable[..., Any], weighting: UncertaintyWeighting) -> None:
        functools.update_wrapper(self, training_step)  # Lightning looks at the signature
        self._training_step, self._weighting = training_step, weighting

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``training_step`` returns, with ``"loss"`` set; None, which skips the batch, stays None.

        Raises:
            NoLossesError: if it returns no losses by name.
        """
        output = self._training_step(*args, **kwargs)
        if output is None:
            return None
        if not isinstance(output, Mapping) or not isinstance(output.get("losses"), Mapping):
            found = f"a mapping with {sorted(output)}" if isinstance(output, Mapping) else type(output).__name__
            raise NoLossesError(
                f"UncertaintyCallback needs the losses by name, and training_step returned {found}. Return "
                '`{"losses": {"depth": loss, ...}}`; or derive the module from UncertaintyMixin and return '
                "`self.weigh(losses)`."
            )
        losses = output["losses"]
        tensors = {name: loss for name, loss in losses.items() if isinstance(loss, Tensor)}
        return {**output, "losses": tensors, "loss": self._weighting(losses, samples=output.get("samples"))}
