"""A training_step that returns its losses by name, made to return their weighted sum."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_uncertainty.trainer.search import join_search
from lightning_uncertainty.weighting import UncertaintyWeighting

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

__all__ = ["NoLossesError", "give_step_back", "weigh_returned_losses"]


class NoLossesError(TypeError):
    """A ``training_step`` returned something else than losses by name."""


def weigh_returned_losses(module: LightningModule, weighting: UncertaintyWeighting) -> None:
    """Wrap ``training_step`` of a module without the mixin, until :func:`give_step_back`.

    Raises:
        ValueError: If the module optimises manually.
    """
    if not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__} optimises manually, so the returned losses come too late. Derive it from "
            "UncertaintyMixin and call `self.weigh(losses)` before `self.manual_backward(...)`."
        )
    # LightningCLI and torch.compile set it on the instance too, and theirs has to be there afterwards.
    step = _WeighedStep(module, weighting, before=vars(module).get("training_step"))
    object.__setattr__(module, "training_step", step)


def give_step_back(module: LightningModule) -> None:
    """Give the module the ``training_step`` that it had before it was wrapped."""
    step = vars(module).get("training_step")
    if isinstance(step, _WeighedStep):
        object.__delattr__(module, "training_step")
        if step.before is not None:
            object.__setattr__(module, "training_step", step.before)


class _WeighedStep:
    """A ``training_step`` that sets ``"loss"`` to the weighted sum of the ``"losses"`` that the module's own returns.

    If that also returns ``"samples"``, the means are over samples. ``before`` is what was set on the instance before.
    It is an object and not a closure: a deep copy of the module, as EMA callbacks make it, then has a step of its own.
    """

    def __init__(self, module: LightningModule, weighting: UncertaintyWeighting, *, before: Any) -> None:
        self._training_step: Callable[..., Any] = module.training_step
        functools.update_wrapper(self, self._training_step)  # Lightning looks at the signature
        self._module, self._weighting, self.before = module, weighting, before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what ``training_step`` returns, with ``"loss"`` set; None, which skips the batch, stays None."""
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
        if not self._weighting.training:
            join_search(self._module, self._weighting)
        losses = output["losses"]
        tensors = {name: loss for name, loss in losses.items() if isinstance(loss, Tensor)}
        return {**output, "losses": tensors, "loss": self._weighting(losses, samples=output.get("samples"))}
