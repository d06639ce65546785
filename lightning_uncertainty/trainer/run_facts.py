"""The facts about a run that its page shows beside the tasks: when, how long, on what, and what validations found."""

from __future__ import annotations

import platform
import time
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import TYPE_CHECKING

import torch

from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.trainer.packages import lightning

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["RunFacts", "now"]


class RunFacts:
    """Notes when a fit begins, and which metrics come from its validations.

    Args:
        prefix: First part of the keys of the callback, whose numbers are shown elsewhere.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        # Nothing of the moment: by what a new callback holds, `compare` finds out whether a run is done already.
        self._started, self._clock, self._step = "", 0.0, 0
        self._known: set[str] = set()  # before a validation
        self._measured: set[str] = set()

    def begin(self, step: int) -> None:
        """Note that a fit begins, or goes on, at an optimizer step."""
        self._started, self._clock, self._step = now(), time.monotonic(), step
        self._known, self._measured = set(), set()

    def begin_validation(self, trainer: Trainer) -> None:
        """Note which metrics are there already: those of the training."""
        self._known = {*trainer.callback_metrics}

    def end_validation(self, trainer: Trainer, history: History) -> None:
        """Add the metrics of a validation to the history; a name that the training logs too is left out."""
        metrics = trainer.callback_metrics
        self._measured |= metrics.keys() - self._known
        history.add_metrics(
            {
                name: float(value)
                for name, value in metrics.items()
                if name in self._measured and not name.startswith(f"{self.prefix}/")
            }
        )

    def about(self, trainer: Trainer) -> dict[str, str]:
        """Return the facts as of now, by name."""
        resumed = f", from step {self._step:,}" if self._step else ""
        strategy = f", {type(trainer.strategy).__name__}" if trainer.world_size > 1 else ""
        versions = {name: import_module(name).__version__ for name in ("lightning_uncertainty", "torch")}
        versions |= {"lightning": lightning().__version__, "Python": platform.python_version()}
        return {
            "Started": self._started + resumed,
            "Took": str(timedelta(seconds=round(time.monotonic() - self._clock))),
            "Epochs": f"{trainer.current_epoch:,}",
            "Steps": f"{trainer.global_step:,}",
            "Device": f"{trainer.world_size} x {_device(trainer.strategy.root_device)}{strategy}",
            "Precision": str(trainer.precision),
            "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        }


def now() -> str:
    """Return the time for a reader."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
