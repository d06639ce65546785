"""A ``training_step`` made to return the weighted sum of its losses by name, wherever these come from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_uncertainty.trainer.search import join_search
from lightning_uncertainty.trainer.watched_calls import STEP
from lightning_uncertainty.trainer.watched_losses import LossSource
from lightning_uncertainty.weighting import UncertaintyWeighting

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

__all__ = ["give_step_back", "weigh_returned_losses"]


def weigh_returned_losses(module: LightningModule, weighting: UncertaintyWeighting, source: LossSource) -> None:
    """Wrap ``training_step`` of a module that does not call ``self.weigh``, until :func:`give_step_back`.

    Raises:
        ValueError: If the module optimises manually.
    """
    if not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__} optimises manually, so the returned losses come too late. Derive it from "
            "UncertaintyMixin and call `self.weigh(losses)` before `self.manual_backward(...)`."
        )
    # LightningCLI and torch.compile set it on the instance too, and theirs has to be there afterwards.
    step = _WeighedStep(module, weighting, source, before=vars(module).get("training_step"))
    object.__setattr__(module, "training_step", step)


def give_step_back(module: LightningModule) -> None:
    """Give the module the ``training_step`` that it had before it was wrapped."""
    step = vars(module).get("training_step")
    if isinstance(step, _WeighedStep):
        object.__delattr__(module, "training_step")
        if step.before is not None:
            object.__setattr__(module, "training_step", step.before)


class _WeighedStep:
    """A ``training_step`` that returns the weighted sum of its losses where the module's own returns the loss.

    If that returns ``{"losses": ..., "samples": ...}``, the means are over samples. ``before`` is what was set on the
    instance before. It is an object and not a closure: a deep copy of the module, as EMA callbacks make it, then has a
    step of its own.
    """

    def __init__(
        self, module: LightningModule, weighting: UncertaintyWeighting, source: LossSource, *, before: Any
    ) -> None:
        self._training_step: Callable[..., Any] = module.training_step
        functools.update_wrapper(self, self._training_step)  # Lightning looks at the signature
        self._module, self._weighting, self._source, self.before = module, weighting, source, before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what ``training_step`` returns, with its loss replaced; None, which skips the batch, stays None."""
        with self._source.watch(self._module, self._weighting) as watched:
            output = self._training_step(*args, **kwargs)
        if output is None:
            return None
        if STEP in self._source.paths.values():
            watched.note("", STEP, self._module, args, kwargs, output)
        watched.check()
        if not self._weighting.training:
            join_search(self._module, self._weighting)
        total = self._weighting(**watched.arguments)
        rest = watched.rest(output.get("loss") if isinstance(output, Mapping) else output)
        total = total if rest is None else total + rest
        if not isinstance(output, Mapping):
            return total
        losses = output.get("losses")
        if isinstance(losses, Mapping):  # Lightning takes no logits in there
            output = {**output, "losses": {name: loss for name, loss in losses.items() if isinstance(loss, Tensor)}}
        return {**output, "loss": total}
