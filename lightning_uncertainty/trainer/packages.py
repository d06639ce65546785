"""The callback base classes of whichever Lightning packages are installed.

``lightning.pytorch.Callback`` and ``pytorch_lightning.Callback`` are different classes with the same content. Trainers
take either, but each package's LightningCLI accepts only its own: a callback that is both works everywhere.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from lightning_uncertainty.engine.window import world_size

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["CallbackBase", "callbacks_of", "check_processes", "quiet_lightning"]


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


def check_processes(trainer: Trainer, pl_module: LightningModule, group: dist.ProcessGroup | None) -> None:
    """Refuse a strategy in which the mean over all processes would be wrong, or there is none.

    Raises:
        ValueError: if there are several processes without ``torch.distributed``, or pipeline stages without a group.
    """
    strategy = type(trainer.strategy).__name__
    if trainer.world_size > 1 and world_size() == 1:
        raise ValueError(
            f"{strategy} runs {trainer.world_size} processes without torch.distributed, so that sigma would differ "
            "from one to the other. Use a strategy that has it: DDP, FSDP, ModelParallel or DeepSpeed; or train with "
            "one process."
        )
    mesh = getattr(pl_module, "_device_mesh", None)  # the property raises without one
    stages = [name for name in getattr(mesh, "mesh_dim_names", None) or () if name.startswith(("pp", "pipe"))]
    if stages and group is None:
        raise ValueError(
            f"{strategy} has pipeline stages (mesh dimension {stages[0]!r}), and only the last one sees the losses. "
            "Give UncertaintyCallback the processes of that stage: process_group=..."
        )


# Where both packages are installed, the one that was imported last speaks for both.
LOGGERS = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within, Lightning says only what is at least a warning; afterwards its log levels are what they were.

    One deprecation inside torch, of a function that Lightning calls, is not shown either.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
