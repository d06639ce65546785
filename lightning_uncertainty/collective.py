"""The one thing that ranks tell each other."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

__all__ = ["is_main_rank", "sum_over_ranks", "world_size"]


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of processes in ``group`` (by default: all), 1 without ``torch.distributed``."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def is_main_rank() -> bool:
    """Whether this process is the one that talks to people."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def sum_over_ranks(tensor: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Replace ``tensor`` by its sum over the processes of ``group``: one all-reduce, none for a single process."""
    if world_size(group) > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM, group=group)
