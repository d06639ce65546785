"""Which Trainer strategies the weights can be learned under."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

from lightning_uncertainty.collective import world_size

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["check_processes"]


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
