"""A bool that the host learns from the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["HostFlag"]


class HostFlag:
    """Follows a flag on the device that only ever goes from False to True, one poll late.

    Reading a device tensor stops the host until the device has caught up. Here the value travels to page-locked memory
    on its own, and is read at the next poll: by then it is the old value or the new one, and a late True costs nothing.
    """

    def __init__(self) -> None:
        self._landing: Tensor | None = None

    def poll(self, flag: Tensor) -> bool:
        """Whether ``flag`` (bool, of shape ()) was True at an earlier poll; starts the next look."""
        if self._landing is None:
            self._landing = torch.zeros((), dtype=torch.bool, pin_memory=flag.is_cuda)
        known = bool(self._landing.tolist())  # host memory: no device is asked
        self._landing.copy_(flag, non_blocking=True)
        return known
