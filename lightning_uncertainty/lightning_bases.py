"""The callback base classes of whichever Lightning packages are installed.

``lightning.pytorch.Callback`` and ``pytorch_lightning.Callback`` are different classes with the same content. Trainers
take either, but each package's LightningCLI accepts only its own: a callback that is both works everywhere.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["CallbackBase", "callbacks_of"]


def callbacks_of(trainer: Trainer) -> list[Any]:
    """The Trainer's own list, which may be changed; a connector sets it, so that type checkers do not see it."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _callback_bases() -> tuple[type, ...]:
    bases = []
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            bases.append(import_module(package).Callback)
        except ModuleNotFoundError as missing:
            if missing.name not in ("lightning", "pytorch_lightning"):
                raise  # it is there, but something that it needs is not
    if not bases:
        raise ModuleNotFoundError("UncertaintyCallback needs Lightning: `pip install lightning`.")
    return tuple(bases)


if TYPE_CHECKING:
    from lightning.pytorch import Callback as CallbackBase
else:
    CallbackBase = type("CallbackBase", _callback_bases(), {"__doc__": "A callback for all installed Lightnings."})
