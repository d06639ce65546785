"""Warnings: each said once, on one rank."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist

from lightning_uncertainty._arguments import listed

__all__ = ["FEW", "Notices", "UncertaintyWarning", "is_main_rank"]

FEW = 3  # tasks: of up to so many, each is told of in full; of more the first one, and the others are named


class UncertaintyWarning(UserWarning):
    """A warning of this package. Silence it by ``warnings.filterwarnings("ignore", category=UncertaintyWarning)``."""


class Notices:
    """Remembers which warnings were given."""

    def __init__(self) -> None:
        self._said: defaultdict[str, set[str]] = defaultdict(set)  # by kind, the tasks
        # Under torch.compile it warns while the graph is made: warning from within it would break it in two. No
        # decorator says so, because saying it imports torch._dynamo, for which nobody who only imports us should wait.
        torch.compiler.assume_constant_result(Notices.warn_of_tasks)  # type: ignore[no-untyped-call]

    def warn(self, subject: str, message: str) -> None:
        """Warn on the main rank, unless there was a warning about this ``subject`` before."""
        self.warn_of_tasks(((subject, "", message),))

    def warn_of_tasks(self, troubles: Iterable[tuple[str, str, str]]) -> None:
        """Warn of troubles, each a kind, a task and a message; once of each task, and once of many with the same kind.

        Tasks that get into the same trouble one by one are told of when they are as many as those before them.
        """
        kinds: dict[str, dict[str, str]] = {}
        for kind, task, message in troubles:
            if task not in self._said[kind]:
                kinds.setdefault(kind, {})[task] = message
        for kind, messages in kinds.items():
            if FEW <= len(self._said[kind]) > len(messages):
                continue
            self._said[kind].update(messages)
            texts = list(messages.values())
            if len(texts) > FEW:
                texts = [f"{texts[0]} The same of {listed(list(messages)[1:])}."]
            for text in texts if is_main_rank() else ():
                warnings.warn(text, UncertaintyWarning, stacklevel=3)


def is_main_rank() -> bool:
    """Return True if this process is the one that warns and prints."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
