"""Learned weights for multi-task losses in PyTorch Lightning, from each task's homoscedastic uncertainty.

- In a Trainer: :class:`UncertaintyMixin` and :class:`UncertaintyCallback`.
- In a loop of your own: :class:`UncertaintyWeighting`, the engine.
- What the losses are: :class:`Task`, :mod:`lightning_uncertainty.likelihoods`.
- Does it help, and why: :func:`compare`, :class:`GradientView`.
- Afterwards: :mod:`lightning_uncertainty.reporting.history`, :mod:`lightning_uncertainty.reporting.diagnosis`,
  :mod:`lightning_uncertainty.reporting.figures`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_uncertainty._warnings import UncertaintyWarning
from lightning_uncertainty.cross_entropy import CrossEntropy
from lightning_uncertainty.snapshot import Snapshot, TaskSnapshot
from lightning_uncertainty.tasks import Task
from lightning_uncertainty.trainer.mixin import UncertaintyMixin
from lightning_uncertainty.weighting import UncertaintyWeighting

if TYPE_CHECKING:
    from lightning_uncertainty.comparison import MeanRelativeGain, compare
    from lightning_uncertainty.trainer.callback import UncertaintyCallback
    from lightning_uncertainty.trainer.gradient_view import GradientView

__version__ = "0.1.0"

__all__ = [
    "CrossEntropy",
    "GradientView",
    "MeanRelativeGain",
    "Snapshot",
    "Task",
    "TaskSnapshot",
    "UncertaintyCallback",
    "UncertaintyMixin",
    "UncertaintyWarning",
    "UncertaintyWeighting",
    "compare",
]


def __getattr__(name: str) -> Any:
    # These need Lightning or torchmetrics; a plain torch loop should not wait for them to be imported.
    if name == "UncertaintyCallback":
        from lightning_uncertainty.trainer.callback import UncertaintyCallback

        return UncertaintyCallback
    if name == "GradientView":
        from lightning_uncertainty.trainer.gradient_view import GradientView

        return GradientView
    if name in ("MeanRelativeGain", "compare"):
        from lightning_uncertainty import comparison

        return getattr(comparison, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
