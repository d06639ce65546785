"""The files of runs: written whole, because others may read them meanwhile, and found again in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_uncertainty._arguments import file_stem
from lightning_uncertainty.reporting.gradients import GradientSnapshot
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.run_file import ComparisonFile, RunFile, UnusableFileError

__all__ = ["COMPARISON_FILE", "NothingToReportError", "ReportContent", "history_file", "read_report", "write_whole"]

COMPARISON_FILE = "comparison.json"
LISTED = 5  # other runs
LEARNED = "learned"  # the arm of a comparison that is shown first
_ENDING = "_history.json"


def write_whole(path: Path, text: str) -> None:
    """Write all of a text to a file, or nothing."""
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def history_file(prefix: str) -> str:
    """Return the name of the file in which a run keeps its history.

    >>> history_file("train/mtl")
    'train_mtl_history.json'
    """
    return f"{file_stem(prefix)}{_ENDING}"


class NothingToReportError(ValueError):
    """A folder or file has nothing that could be shown. The message says what it has."""


@dataclass
class ReportContent:
    """The content of a page.

    Attributes:
        title: The title of the page.
        prefix: The ``log_prefix`` of the callback, after which the page is named.
        history: The history of the run that is shown; None for a comparison whose runs have left none.
        gradients: The snapshots of each GradientView, by the name of its module.
        comparison: The comparison that the run is part of, if any.
        notes: Sentences that say which run was taken and what is missing.
    """

    title: str
    prefix: str
    history: History | None = None
    gradients: dict[str, list[GradientSnapshot]] = field(default_factory=dict)
    comparison: ComparisonFile | None = None
    notes: list[str] = field(default_factory=list)


def read_report(path: Path | str, prefix: str = "uncertainty") -> ReportContent:
    """Read what can be shown of a run, of the newest run below a folder, or of a comparison.

    Args:
        path: Folder of a run, of several (``lightning_logs``) or of a comparison; or the file in it.
        prefix: The ``log_prefix`` of the callback. A file of a run has its own.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        NothingToReportError: If nothing there is of this package, or can be read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no folder or file {path}. Pass the folder of a run, {_EXAMPLE}.")
    if path.is_dir():
        return _Search(path, prefix).content()
    if path.name == COMPARISON_FILE:
        return _Search(path.parent, prefix).content()
    search = _Search(path.parent, prefix)
    run = search.tried(RunFile, path)
    if run is None:
        reason = search.damaged.get(path, "it is not written by this package")
        raise NothingToReportError(
            f"{path} is no history of a run: {reason}. Pass the folder of a run, {_EXAMPLE}, or the *{_ENDING} in it."
        )
    return search.of_run(path, run)


_EXAMPLE = "for example lightning_logs/version_0"


class _Search:
    """A search of a folder: it reads file after file until one can be shown, and remembers what it met.

    Args:
        root: The folder.
        prefix: The ``log_prefix`` of the callback.
    """

    def __init__(self, root: Path, prefix: str) -> None:
        self.root, self.prefix = root, prefix
        self.damaged: dict[Path, str] = {}

    def content(self) -> ReportContent:
        """Return the content of the page.

        Raises:
            NothingToReportError: If there is none.
        """
        file = self.root / COMPARISON_FILE
        comparison = self.tried(ComparisonFile, file) if file.is_file() else None
        found = _histories(self.root)
        content = self._of_runs([path for path in found if path.name == history_file(self.prefix)], comparison)
        if content is None and comparison is None:
            raise NothingToReportError(self._nothing(found))
        content = content or ReportContent(_title(self.root), self.prefix, notes=[self._without_history(found)])
        content.comparison = comparison
        content.notes += [f"{self._name(path)} was passed over: {reason}." for path, reason in self.damaged.items()]
        return content

    def _of_runs(self, paths: list[Path], comparison: ComparisonFile | None) -> ReportContent | None:
        """Return the first that can be read: the folder's own, else of a learned run, else the newest."""
        folders = {self.root / Path(run.folder).name: run for run in comparison.runs} if comparison else {}
        runs = {path: next((run for folder, run in folders.items() if folder in path.parents), None) for path in paths}
        arms = {path: run.arm if run else "" for path, run in runs.items()}
        order = sorted(paths, key=lambda path: (path.parent != self.root, arms[path] != LEARNED))
        for place, path in enumerate(order):
            if (file := self.tried(RunFile, path)) is None:
                continue
            content, run = self.of_run(path, file), runs[path]
            if run is not None:
                content.title = f"{_title(self.root)}, {run.arm}, seed {run.seed}"
            rest = [other for other in order[place + 1 :] if arms[other] == arms[path]]
            if path.parent != self.root and (rest or place or run):
                content.notes.insert(0, self._choice(path, arms[path], rest))
            return content
        return None

    def _choice(self, path: Path, arm: str, rest: list[Path]) -> str:
        of_arm = f" of the arm {arm!r}" if arm else ""
        text = f"Shown is the newest run{of_arm} with something to show, {self._name(path.parent)}."
        if rest:
            more = f" and {len(rest) - LISTED} more" if len(rest) > LISTED else ""
            listed = ", ".join(self._name(other.parent) for other in rest[:LISTED])
            text += f" For another one, pass its own folder: {listed}{more}."
        return text

    def of_run(self, path: Path, run: RunFile) -> ReportContent:
        """Return what the file of a run has."""
        notes = [f"Read from {self._name(path)}."]
        if not run.finished:
            notes.append(
                "The run has not come to its end: it was killed, has failed or still goes on. What came after step "
                f"{run.history.steps[-1]:,} is missing: its file was last written at {run.written}. A run writes it at "
                "the end of an epoch, at a validation, and when it fails."
            )
        gradients = {f"of {module}": list(seen) for module, seen in run.gradients.items() if seen}
        return ReportContent(_title(path.parent), run.prefix, run.history, gradients, notes=notes)

    def tried(self, kind: Any, path: Path) -> Any:
        """Return what a file has; of one that is damaged, None, and the reason is kept."""
        try:
            return kind.read(path)
        except UnusableFileError as error:
            self.damaged[path] = str(error)
        return None

    def _name(self, path: Path) -> str:
        """Return what the page calls a file, which may go to another machine."""
        return str(path.relative_to(self.root))

    def _without_history(self, found: list[Path]) -> str:
        other = f" {self._nothing(found)}" if found and not self.damaged else ""  # under another prefix
        return f"No run has left a history yet.{other}"

    def _nothing(self, found: Iterable[Path]) -> str:
        """Return the reason why there is nothing to show, and what to do about it."""
        if self.damaged:
            reasons = "; ".join(f"{self._name(path)}: {reason}" for path, reason in self.damaged.items())
            return f"Nothing in {self.root} can be read. {reasons}."
        runs = (self.tried(RunFile, path) for path in found)
        prefixes = list(dict.fromkeys(run.prefix for run in runs if run is not None))
        if prefixes:
            known = ", ".join(map(repr, prefixes))
            missing = f"{self.root} has nothing under the prefix {self.prefix!r}"
            return f"{missing}. Found: {known}. Pass --prefix {prefixes[0]}."
        return (
            f"{self.root} has no run in it: no *{_ENDING} of this package and no {COMPARISON_FILE}, there or below. A "
            "run writes its history beside the files of its logger, first at the end of its first epoch, and not "
            "without a logger or with `report=False`. Pass the folder of its logger."
        )


def _histories(root: Path) -> list[Path]:
    """Return all files that have such a name, the newest first; hidden folders and links are not entered."""

    def walk() -> Iterator[Path]:
        for name, folders, files in os.walk(root):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            yield from (Path(name, file) for file in files if file.endswith(_ENDING))

    return sorted(walk(), key=lambda path: (path.stat().st_mtime, _natural(path)), reverse=True)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key to sort by, numbers as numbers: version_9 before version_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _title(folder: Path) -> str:
    return f"Uncertainty weighting: {folder.resolve().name}"
