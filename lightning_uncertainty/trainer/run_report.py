"""The history of a run: kept while it goes on, written to a file, and told at the end by a summary and a page."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_uncertainty._arguments import file_stem
from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.reporting.figures import overview
from lightning_uncertainty.reporting.files import ReportContent, RunFile, history_file, write_whole
from lightning_uncertainty.reporting.gradients import GradientSnapshot
from lightning_uncertainty.reporting.page import build_page
from lightning_uncertainty.reporting.run_history import RunHistory
from lightning_uncertainty.reporting.summary import print_summary
from lightning_uncertainty.snapshot import Score, Snapshot
from lightning_uncertainty.trainer.gradient_view import GradientView
from lightning_uncertainty.trainer.loggers import folder_of, give_files, give_layout, give_picture
from lightning_uncertainty.trainer.packages import callbacks_of, is_silent
from lightning_uncertainty.trainer.run_facts import RunFacts, now

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_NO_PAGE = "No logger keeps files on this disk, so there is no page: add a CSVLogger to have one."
WRITING = 0.02  # most of a run's time that writing its history may take


class RunReport:
    """Keeps the history of a run, writes it while the run goes on, and tells it at the end.

    The file is written at the end of each epoch and at each validation, but not in the first ``49 t`` seconds after a
    write that took ``t`` seconds: writing takes at most 2 % of the time. The end of a fit and an exception are always
    written. Nothing in it can stop a training: it warns instead.

    Args:
        prefix: First part of the keys in the loggers.
        report: True writes files.
    """

    def __init__(self, prefix: str, *, report: bool) -> None:
        self.prefix, self.report = prefix, report
        self.facts = RunFacts(prefix)
        self._history = RunHistory()
        self._first: Callable[[], Snapshot] | None = None  # the first point, while it is still on the device
        self._next_write = -float("inf")  # by time.monotonic()
        self._notices = Notices()
        self._laid_out = False
        self._told: tuple[RunHistory, bool] | None = None  # of the last fit, and whether it came to its end

    @property
    def history(self) -> RunHistory:
        """The history of the run so far. Reading it changes nothing."""
        # While the first point is on the device, it is the only one.
        return self._history if self._first is None else RunHistory.of([self._first()])

    @property
    def begun(self) -> bool:
        """True if there is a point."""
        return self._first is not None or len(self._history) > 0

    def begin(self, state: Any = None) -> None:
        """Start a history of other weights, or go on with that of a checkpoint unless it is damaged."""
        self._history, self._first = RunHistory(), None
        self._told = None if state is None else self._told
        try:
            if state is not None:
                self._history = RunHistory.from_state_dict(state)
        except ValueError as error:
            self._notices.warn("history", f"{error} The history of this run starts at the checkpoint.")

    def record(self, snapshot: Snapshot) -> None:
        """Add a point."""
        self._fetch_first()
        self._history.add(snapshot)

    def record_later(self, snapshot: Callable[[], Snapshot]) -> None:
        """Put the first point aside; it is fetched from the device with the next one, or when the file is written."""
        self._first = snapshot

    def end(self, snapshot: Snapshot) -> None:
        """Set the last point."""
        self._fetch_first()
        self._history = self._history.ended(snapshot)

    def _fetch_first(self) -> None:
        if self._first is not None:
            self._history.add(self._first())
            self._first = None

    def save(self, trainer: Trainer, snapshot: Snapshot) -> None:
        """Write the history with ``snapshot`` as its last point, if it is time to."""
        if self.report and time.monotonic() >= self._next_write and self._may_speak(trainer):
            self._fetch_first()
            self._save(trainer, self._history.ended(snapshot))

    def lay_out(self, trainer: Trainer, prefixes: list[str]) -> None:
        """Give the loggers that combine curves their layout, once: with the first row, and for all callbacks."""
        if not self._laid_out and prefixes[0] == self.prefix:
            for logger in trainer.loggers:
                with self._guarded(f"layout for {type(logger).__name__}"):
                    give_layout(logger, prefixes)
        self._laid_out = True

    def end_validation(self, trainer: Trainer) -> None:
        """Add the metrics of a validation to the history."""
        with self._guarded("table of metrics"):
            self.facts.end_validation(trainer, self._history)

    def fail(
        self, trainer: Trainer, exception: BaseException, snapshot: Callable[[], Snapshot], *, summary: bool
    ) -> None:
        """Deliver what there is of a run that was interrupted; of one that failed, write the history only."""
        if isinstance(exception, KeyboardInterrupt):  # who does that wants to know how it stands
            self.end(snapshot())
            self.deliver(trainer, summary=summary, finished=False)
        elif self.report and len(self._history) and self._may_speak(trainer):  # as the device may not answer any more
            self._save(trainer, self._history)

    def deliver(self, trainer: Trainer, *, summary: bool, finished: bool = True) -> None:
        """Write all files, which say whether the fit came to its end, draw the picture, and print the summary."""
        if not self._may_speak(trainer):
            return
        self._history.about, self._told = self.facts.about(trainer), (self._history, finished)
        closing = ""
        if self.report:
            with self._guarded("report"):
                closing = self._write_all(trainer, finished) if trainer.loggers else _NO_PAGE
        if summary:
            with self._guarded("summary"):
                print_summary(self.history, closing=closing)

    def add_test(self, trainer: Trainer, scores: dict[str, Score]) -> None:
        """Add the scores of a test to the history, and write it and the page again.

        They have the whole fit, also if the test has loaded a checkpoint from the midst of it.
        """
        self._fetch_first()
        told, finished = self._told or (self._history, False)
        self._history, self._told = self._history.tested(scores), (told.tested(scores), finished)
        if self.report and trainer.loggers and self._may_speak(trainer):
            with self._guarded("report"), tempfile.TemporaryDirectory() as temporary:
                self._write_page(trainer, temporary, *self._told)

    def _may_speak(self, trainer: Trainer) -> bool:
        """Return whether there is anything to say: on the main rank, and not in a run in which Lightning is silent."""
        return trainer.is_global_zero and not is_silent(trainer) and self.begun

    def _save(self, trainer: Trainer, history: RunHistory) -> None:
        began = time.monotonic()
        history.about = self.facts.about(trainer)
        with self._guarded("history file"):
            folder = folder_of(trainer.loggers, trainer.default_root_dir)
            if folder is not None:
                self._write_history(trainer, folder, history, finished=False)
        now = time.monotonic()
        self._next_write = now + (now - began) * (1.0 - WRITING) / WRITING

    def _write_history(self, trainer: Trainer, folder: Path, history: RunHistory, *, finished: bool) -> Path:
        """Write the history into a folder; return its file."""
        file = RunFile(self.prefix, history, _gradients(trainer), finished, now())
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / history_file(self.prefix)
        write_whole(path, file.to_text())
        return path

    def _write_page(self, trainer: Trainer, temporary: str, history: RunHistory, finished: bool) -> tuple[Path, str]:
        """Write history and page beside the files of a logger, else give them to one; return page and what to say."""
        folder = folder_of(trainer.loggers, trainer.default_root_dir)
        page = (folder or Path(temporary)) / f"{file_stem(self.prefix)}.html"
        file = self._write_history(trainer, page.parent, history, finished=finished)
        content = ReportContent(history, history.heading, self.prefix, _gradients(trainer))
        write_whole(page, build_page(content))
        return page, f"Open {page}" if folder is not None else self._give_away(trainer, page, file)

    def _write_all(self, trainer: Trainer, finished: bool) -> str:
        """Write all files and draw the picture; return what to say of them."""
        with tempfile.TemporaryDirectory() as temporary:
            page, said = self._write_page(trainer, temporary, self.history, finished)
            if find_spec("matplotlib") is None:
                return f'The plots need matplotlib: pip install "lightning-uncertainty[report]". {said}'.rstrip()
            picture = page.with_suffix(".png")
            overview(self.history).savefig(picture)
            for logger in trainer.loggers:  # one that fails must not keep the picture from the others
                with self._guarded(f"image for {type(logger).__name__}"):
                    give_picture(logger, f"{self.prefix}/overview", picture, trainer.global_step)
        return said

    def _give_away(self, trainer: Trainer, page: Path, history: Path) -> str:
        """Give files that no folder keeps to the first logger that takes them; return what to say of them."""
        for logger in trainer.loggers:
            with self._guarded(f"page for {type(logger).__name__}"):
                if place := give_files(logger, self.prefix, [page, history]):
                    return f"{page.name} is {place}."
        return _NO_PAGE

    @contextmanager
    def _guarded(self, subject: str) -> Iterator[None]:
        """Warn of an error instead of raising it."""
        try:
            yield
        except Exception as error:
            self._notices.warn(
                subject,
                f"The {subject} of UncertaintyCallback failed, which does not affect the training: "
                f"{type(error).__name__}: {error}. `UncertaintyCallback(report=False, summary=False)` turns it off.",
            )


def _gradients(trainer: Trainer) -> dict[str, list[GradientSnapshot]]:
    """Return what each GradientView of a Trainer has seen, by the name of its module."""
    views = (view for view in callbacks_of(trainer) if isinstance(view, GradientView) and view.snapshots)
    return {view.module: view.snapshots for view in views}
