"""What UncertaintyCallback makes of a run: its history, and at the end a summary, files and images for the loggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_uncertainty.notices import Notices
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.snapshot import Snapshot

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["RunReport"]


class RunReport:
    """Records while a run goes on, and tells at its end. Nothing in it can stop a training: it warns instead.

    Args:
        prefix: of the keys in the loggers.
        summary: whether to print.
        report: whether to write.
    """

    def __init__(self, prefix: str, *, summary: bool, report: bool) -> None:
        self.prefix, self.summary, self.report = prefix, summary, report
        self.history = History()
        self._notices = Notices()

    def begin(self) -> None:
        """Other weights: another history."""
        self.history = History()

    def load(self, state: Any) -> None:
        """Take over the history of a checkpoint; one without any, or with a damaged one, starts it anew."""
        self.history = History()
        if state is None:
            return
        try:
            self.history = History.from_state_dict(state)
        except ValueError as error:
            self._notices.warn("history", f"{error} The history of this run starts at the checkpoint.")

    def record(self, snapshot: Snapshot) -> None:
        """Add a point."""
        self.history.add(snapshot)

    def end(self, snapshot: Snapshot) -> None:
        """The last point."""
        self.history.end(snapshot)

    def deliver(self, trainer: Trainer) -> None:
        """Print and write, on the main rank."""
