"""What a client is: a library's own tutorial, and the callback that is the whole difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_uncertainty import UncertaintyCallback
from lightning_uncertainty.comparison.statistics import Direction

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["Client", "quiet_trainer", "reloaded"]


@dataclass(frozen=True)
class Client:
    """A library that trains through Lightning with a loss of several parts.

    Attributes:
        title: What is learned, for people.
        package: The library's name in the package index.
        metrics: The library's own metrics on held-out data, each with the direction in which it is better; the first
            one decides.
        train: Trains with a seed and further callbacks as the library's tutorial does, and returns the metrics.
        learned: Returns the callbacks that are the whole difference, by arm; an arm named "learned" is one of them.
    """

    title: str
    package: str
    metrics: Mapping[str, Direction]
    train: Callable[[int, list[Callback]], Mapping[str, float]]
    learned: Mapping[str, Callable[[], UncertaintyCallback]]


def quiet_trainer(callbacks: list[Callback], **options: Any) -> Trainer:
    """Return a Trainer on one CPU that prints nothing and writes no files."""
    from lightning.pytorch import Trainer

    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(callbacks=callbacks, accelerator="cpu", enable_model_summary=False, **{**silent, **options})


def reloaded(trainer: Trainer, module: type[LightningModule], folder: str | Path, **options: Any) -> Any:
    """Return the trained module as the library's own loader reads it back from a checkpoint."""
    path = Path(folder) / "last.ckpt"
    trainer.save_checkpoint(path)
    return module.load_from_checkpoint(path, **options)
