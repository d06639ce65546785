"""What UncertaintyCallback makes of a run: its history, and at the end a summary, files and images for the loggers."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_uncertainty._arguments import file_stem
from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.reporting.figures import save_overview
from lightning_uncertainty.reporting.files import write_whole
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.page import write_page
from lightning_uncertainty.reporting.summary import print_summary
from lightning_uncertainty.snapshot import Snapshot
from lightning_uncertainty.trainer.loggers import image_giver
from lightning_uncertainty.trainer.packages import is_silent

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
        self._history = History()
        self._first: Callable[[], Snapshot] | None = None  # the first point, while it is still on the device
        self._notices = Notices()

    @property
    def history(self) -> History:
        """All points so far."""
        if self._first is not None:
            self._history.add(self._first())
            self._first = None
        return self._history

    @property
    def begun(self) -> bool:
        """Whether there is a point yet."""
        return self._first is not None or len(self._history) > 0

    def begin(self) -> None:
        """Other weights: another history."""
        self._history, self._first = History(), None

    def load(self, state: Any) -> None:
        """Take over the history of a checkpoint; one without any, or with a damaged one, starts it anew."""
        self.begin()
        if state is None:
            return
        try:
            self._history = History.from_state_dict(state)
        except ValueError as error:
            self._notices.warn("history", f"{error} The history of this run starts at the checkpoint.")

    def record(self, snapshot: Snapshot) -> None:
        """Add a point."""
        self.history.add(snapshot)

    def record_later(self, snapshot: Callable[[], Snapshot]) -> None:
        """The first point, where the run starts; whoever looks next fetches it from the device."""
        self._first = snapshot

    def end(self, snapshot: Snapshot) -> None:
        """The last point."""
        self.history.end(snapshot)

    def deliver(self, trainer: Trainer) -> None:
        """Write and print, on the main rank; not in a trial run, nor where Lightning itself is silent."""
        if is_silent(trainer) or not trainer.is_global_zero or not len(self.history):
            return
        closing = self._guarded("report", lambda: self._write(trainer)) if self.report else ""
        if self.summary:
            self._guarded("summary", lambda: _say(self.history, closing or ""))

    def _write(self, trainer: Trainer) -> str:
        """Files beside those of the first logger that has a folder, and images; returns what to say of it."""
        loggers = list(trainer.loggers)
        folder = next((found for logger in loggers if (found := _folder(logger)) is not None), None)
        stem = file_stem(self.prefix)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / f"{stem}_history.json", json.dumps(self.history.to_json(), allow_nan=False))
            write_page(folder / f"{stem}.html", self.history)
        if find_spec("matplotlib") is None:
            said = "The plots need matplotlib" if folder else "A picture needs matplotlib" if loggers else ""
            said = said and f'{said}: pip install "lightning-uncertainty[report]".'
        else:
            said = ""
            self._draw(folder, stem, loggers, trainer.global_step)
        return " ".join(part for part in (said, f"Open {folder / stem}.html" if folder else "") if part)

    def _draw(self, folder: Path | None, stem: str, loggers: Sequence[Any], step: int) -> None:
        takers = [(logger, give) for logger in loggers if (give := image_giver(logger)) is not None]
        if folder is None and not takers:
            return
        with tempfile.TemporaryDirectory() as temporary:
            path = save_overview((folder or Path(temporary)) / f"{stem}.png", self.history)
            for logger, give in takers:
                # One logger that fails must not keep the picture from the others.
                subject = f"image for {type(logger).__name__}"
                self._guarded(subject, partial(give, logger, f"{self.prefix}/overview", path, step))

    def _guarded(self, subject: str, act: Callable[[], Any]) -> Any:
        """What ``act`` returns; if it fails, a warning and None."""
        try:
            return act()
        except Exception as error:
            self._notices.warn(
                subject,
                f"The {subject} of UncertaintyCallback failed, which does not affect the training: "
                f"{type(error).__name__}: {error}. `UncertaintyCallback(report=False, summary=False)` turns it off.",
            )
        return None


def _say(history: History, closing: str) -> None:
    print_summary(history, closing=closing)
    sys.stdout.flush()


def _folder(logger: Any) -> Path | None:
    """Where a logger keeps the files of this run, as ModelCheckpoint finds it; None if that is not on this disk."""
    folder = getattr(logger, "log_dir", None)
    if folder is None and getattr(logger, "save_dir", None) is not None:
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = Path(logger.save_dir) / str(logger.name) / version
    return None if folder is None or "://" in str(folder) else Path(folder)
