"""Warnings: each said once, on one rank."""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist

__all__ = ["Notices", "UncertaintyWarning", "is_main_rank"]


class UncertaintyWarning(UserWarning):
    """A warning of this package. Silence it by ``warnings.filterwarnings("ignore", category=UncertaintyWarning)``."""


class Notices:
    """Remembers which warnings were given."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        # Under torch.compile it warns while the graph is made: warning from within it would break it in two. No
        # decorator says so, because saying it imports torch._dynamo, for which nobody who only imports us should wait.
        torch.compiler.assume_constant_result(Notices.warn)  # type: ignore[no-untyped-call]

    def warn(self, subject: str, message: str) -> None:
        """Warn on the main rank, unless there was a warning about this ``subject`` before."""
        if subject in self._said:
            return
        self._said.add(subject)
        if is_main_rank():
            warnings.warn(message, UncertaintyWarning, stacklevel=2)


def is_main_rank() -> bool:
    """Return True if this process is the one that warns and prints."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
