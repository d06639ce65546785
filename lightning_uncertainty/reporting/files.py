"""The files of a run and of a comparison: written whole, read back, and found again in a folder."""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from lightning_uncertainty._arguments import file_stem
from lightning_uncertainty.reporting.gradients import GradientSnapshot, from_state, state_of
from lightning_uncertainty.reporting.history import DAMAGE, History
from lightning_uncertainty.reporting.run_history import RunHistory

__all__ = ["ComparisonFile", "NothingToReportError", "ReportContent", "RunFile", "read_report"]

RUN, COMPARISON = "lightning_uncertainty history", "lightning_uncertainty comparison"
VERSION = 1
COMPARISON_FILE = "comparison.json"
LEARNED = "learned"  # the arm of a comparison that is shown first

_ENDING = "_history.json"
_EXAMPLE = "for example lightning_logs/version_0"
_KINDS = {  # tensors among what is saved
    "steps": torch.long,
    "totals": torch.float64,
    "values": torch.float32,
    "metric_values": torch.float64,
}


class NothingToReportError(ValueError):
    """A folder or file has nothing that could be shown. The message says what it has, and what to pass instead."""


def write_whole(path: Path, text: str) -> None:
    """Write all of a text to a file, or nothing."""
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(text, encoding="utf-8", newline="\n")  # the same file on every system
    os.replace(draft, path)


def history_file(prefix: str) -> str:
    """Return the name of the file in which a run keeps its history."""
    return f"{file_stem(prefix)}{_ENDING}"


@dataclass(frozen=True)
class RunFile:
    """The content of ``<log_prefix>_history.json``.

    Attributes:
        prefix: The ``log_prefix`` of the callback.
        history: The weights and losses up to the moment of writing.
        gradients: The snapshots of each GradientView, by the name of its module.
        finished: True if the fit came to its end.
        written: The time of writing, for a reader.
    """

    prefix: str
    history: History
    gradients: Mapping[str, Sequence[GradientSnapshot]] = field(default_factory=dict)
    finished: bool = True
    written: str = ""

    def to_text(self) -> str:
        """Return the content as JSON. What is not finite is null."""
        gradients = {name: state_of(seen) for name, seen in self.gradients.items()}
        content = {**vars(self), "history": self.history.state_dict(), "gradients": gradients}
        content["about"] = self.history.about
        return json.dumps({"format": RUN, "version": VERSION, **content}, allow_nan=False, default=_numbers)

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """Return what a run has written to ``path``; raise NothingToReportError if that is not usable."""
        with _content(path, RUN) as content:
            gradients = {name: from_state(_tensors(state)) for name, state in content["gradients"].items()}
            history = RunHistory.from_state_dict(_tensors(content["history"]))
            history.about = content.get("about", {})
            return cls(content["prefix"], history, gradients, content["finished"], content["written"])


@dataclass(frozen=True)
class ComparisonFile:
    """The part of ``comparison.json`` that a page shows.

    Attributes:
        table: Rows of cells, the heading first.
        caption: Explanation of the cells.
        sentences: The verdicts: whether the differences are larger than the noise.
        notes: Further sentences for a reader, for example about runs that have not finished.
        runs: The ``arm``, ``seed`` and ``folder`` of each finished run, the folder relative to that of the comparison.
    """

    table: list[list[str]]
    caption: str
    sentences: list[str]
    notes: list[str]
    runs: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> ComparisonFile:
        """Return what ``compare`` has written to ``path``; raise NothingToReportError if that is not usable."""
        with _content(path, COMPARISON) as content:
            return cls(**{each.name: content[each.name] for each in fields(cls)})


@dataclass
class ReportContent:
    """The content of a page.

    Attributes:
        history: The history of the run that is shown; None for a comparison whose runs have left none.
        title: The title of the page.
        prefix: The ``log_prefix`` of the callback, after which the page is named.
        gradients: The snapshots of each GradientView, by the name of its module.
        comparison: The comparison that the run is part of, if any.
        notes: Sentences that say which run was taken and what is missing.
    """

    history: History | None
    title: str = "Uncertainty weighting"
    prefix: str = "uncertainty"
    gradients: Mapping[str, Sequence[GradientSnapshot]] = field(default_factory=dict)
    comparison: ComparisonFile | None = None
    notes: list[str] = field(default_factory=list)


def read_report(path: Path | str, prefix: str = "uncertainty") -> ReportContent:
    """Read what can be shown of a run, of the newest run below a folder, or of a comparison.

    Args:
        path: Folder of a run, of several (``lightning_logs``) or of a comparison; or the file in it.
        prefix: The ``log_prefix`` of the callback. A file of a run has its own.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        NothingToReportError: If nothing there is of this package, or it is damaged.
    """
    path, name = Path(path), history_file(prefix)
    if not path.exists():
        raise FileNotFoundError(f"There is no folder or file {path}. Pass the folder of a run: {_EXAMPLE}.")
    if path.is_file():
        return _of_comparison(path.parent, prefix) if path.name == COMPARISON_FILE else _of_run(path, path.parent)
    if (path / name).is_file():
        return _of_run(path / name, path)
    if (path / COMPARISON_FILE).is_file():
        return _of_comparison(path, prefix)
    if found := sorted(path.rglob(name), key=os.path.getmtime):
        several = f", the newest of {len(found)} runs. For another one, pass its own folder."
        return _of_run(found[-1], path, several if len(found) > 1 else ".")
    if others := sorted(other.name for other in path.rglob(f"*{_ENDING}")):
        stem = others[0].removesuffix(_ENDING)
        raise NothingToReportError(f"{path} has no {name}, but {others[0]}. To read that, pass --prefix {stem}.")
    raise NothingToReportError(
        f"{path} has no run in it: no {name} and no {COMPARISON_FILE}, there or below. A run writes its history beside "
        "the files of its logger, first at the end of its first epoch, and not without a logger or with "
        f"`report=False`. Pass the folder of its logger: {_EXAMPLE}."
    )


def _of_run(path: Path, root: Path, choice: str = ".") -> ReportContent:
    """Read the file of a run; ``choice`` says why this one was taken."""
    run = RunFile.read(path)
    notes = [f"Read from {path.relative_to(root)}{choice}"]  # no absolute path: the page may go to another machine
    if not run.finished:
        notes.append(
            "The run has not come to its end: it was killed, has failed or still goes on. What came after step "
            f"{run.history.steps[-1]:,} is missing: its file was last written at {run.written}. A run writes it at "
            "the end of an epoch, at a validation, and when it fails."
        )
    return ReportContent(
        run.history, f"{run.history.heading}: {_name(path.parent)}", run.prefix, run.gradients, notes=notes
    )


def _of_comparison(folder: Path, prefix: str) -> ReportContent:
    """Read a comparison and the newest of its runs with learned weights, or of the others if there is none."""
    comparison, title = ComparisonFile.read(folder / COMPARISON_FILE), f"Uncertainty weighting: {_name(folder)}"
    runs = {path: run for run in comparison.runs for path in Path(folder, run["folder"]).rglob(history_file(prefix))}
    if not runs:
        notes = [f"No run has left a history yet, {history_file(prefix)}."]
        return ReportContent(None, title, prefix, comparison=comparison, notes=notes)
    newest = max(runs, key=lambda path: (runs[path]["arm"] == LEARNED, os.path.getmtime(path)))
    arm, seed = runs[newest]["arm"], runs[newest]["seed"]
    content = _of_run(newest, folder, f", the newest run of the arm {arm!r}. For another one, pass its own folder.")
    content.title, content.comparison = f"{title}, {arm}, seed {seed}", comparison
    return content


def _name(folder: Path) -> str:
    return folder.resolve().name


@contextmanager
def _content(path: Path, kind: str) -> Iterator[Any]:
    """Give what a file holds, and refuse the file if that turns out to be unusable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != kind:
            raise ValueError("it is not written by this package")
        if content["version"] != VERSION:
            raise ValueError(f"it has version {content['version']!r}, and this package reads {VERSION}")
        yield content
    except (OSError, *DAMAGE) as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 150, placeholder=" ...")
        raise NothingToReportError(
            f"{path} cannot be read ({reason}). It must be a whole file that a run or `compare` has written. Pass the "
            f"folder of another run, {_EXAMPLE}, or write the file again by training."
        ) from None


def _numbers(tensor: torch.Tensor) -> list[float | None]:
    """Return all numbers of a tensor in one row; what is not finite is None."""
    digits = 9 if tensor.dtype == torch.float32 else 17  # which tell all numbers of their precision apart
    numbers = (n if isinstance(n, int) else float(f"{n:.{digits}g}") for n in tensor.flatten().tolist())
    return [number if math.isfinite(number) else None for number in numbers]


def _tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state with its tensors, in one row each; what was not finite comes back as NaN."""
    known = {key: [math.nan if number is None else number for number in state[key]] for key in _KINDS if key in state}
    return {**state, **{key: torch.tensor(numbers, dtype=_KINDS[key]) for key, numbers in known.items()}}
