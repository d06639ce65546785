"""The files of runs in and below a folder, and what each of them has of this package."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lightning_uncertainty.reporting.gradients import GradientSnapshot, from_state
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.logged import Rows, read_csv_logger, read_tensorboard

__all__ = [
    "HISTORY_FILE",
    "RunFiles",
    "UnusableFileError",
    "find_runs",
    "natural",
    "prefixes_in",
    "read_checkpoint",
    "read_history",
    "read_log",
]

HISTORY_FILE = "_history.json"
_EVENTS = "tfevents"
_CHECKPOINTS = "checkpoints"  # where Lightning puts them, beside the logger's files
_OURS = re.compile(r"UncertaintyCallback\((.*)\)")
_GRADIENTS = re.compile(r"GradientView\((.*)\)")


class UnusableFileError(ValueError):
    """A file that should have something cannot be read; the message is the reason, in a few words."""


@dataclass
class RunFiles:
    """What lies in a folder that a run has written to.

    Attributes:
        folder: of the run.
        histories: files that the callback writes at the end of a fit, or that have such a name.
        checkpoints: files, or folders of sharded ones; the newest first.
        logs: ``metrics.csv`` files, and folders with event files of TensorBoard.
    """

    folder: Path
    histories: list[Path] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)

    @property
    def newest(self) -> tuple[float, list[Any]]:
        """To be sorted by: when something was last written, and among equals by name."""
        files = [*self.histories, *self.checkpoints]
        for log in self.logs:  # a folder is newer with every file in it, a page of ours among them
            files += log.glob(f"*{_EVENTS}*") if log.is_dir() else [log]
        return max(map(_written, files)), natural(self.folder)


def find_runs(root: Path) -> list[RunFiles]:
    """The folders with files of runs, ``root`` and below, the newest first; hidden ones and links are not entered."""
    runs: dict[Path, RunFiles] = {}
    for name, folders, files in os.walk(root):
        folder = Path(name)
        sharded = [child for child in folders if child.endswith(".ckpt") and (folder / child / "meta.pt").is_file()]
        folders[:] = sorted(child for child in folders if not child.startswith(".") and child not in sharded)
        found = RunFiles(
            folder,
            histories=[folder / file for file in files if file.endswith(HISTORY_FILE)],
            checkpoints=[folder / file for file in [*files, *sharded] if file.endswith(".ckpt")],
            logs=[folder / file for file in files if file == "metrics.csv"],
        )
        found.logs += [folder] if any(_EVENTS in file for file in files) else []
        if found.histories or found.checkpoints or found.logs:
            owner = folder.parent if folder.name == _CHECKPOINTS and folder != root else folder
            run = runs.setdefault(owner, RunFiles(owner))
            run.histories += found.histories
            run.checkpoints += found.checkpoints
            run.logs += found.logs
    for run in runs.values():
        run.checkpoints.sort(key=lambda path: (_written(path), natural(path)), reverse=True)
    return sorted(runs.values(), key=lambda run: run.newest, reverse=True)


def natural(path: Path) -> list[Any]:
    """To sort by, numbers as numbers: version_9 before version_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # a link to a checkpoint that is gone
        return 0.0


# ---------------------------------------------------------------------------------------------------- one file


def read_history(path: Path) -> History | None:
    """What the callback wrote at the end of a fit; None for a file of something else.

    Raises:
        UnusableFileError: if it is not whole, or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableFileError(f"it is not whole ({_short(error)})") from None
    if not isinstance(content, dict) or not {"version", "facts", "tasks"} <= content.keys():
        return None
    try:
        history = History.from_json(content)
    except ValueError as error:
        raise UnusableFileError(_short(error)) from None
    return history if len(history) else None


def read_checkpoint(path: Path) -> tuple[dict[str, History], dict[str, list[GradientSnapshot]]]:
    """The histories in a checkpoint by the callbacks' ``name``, and its gradient views by module.

    Only plain values and tensors are unpickled, so that a checkpoint of somebody else can do no harm, and of them only
    what is looked at is read from disk.

    Raises:
        UnusableFileError: if it is not whole, or cannot be read like that.
    """
    file = path / "meta.pt" if path.is_dir() else path
    try:
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever was done to it, or put into it
        raise UnusableFileError(f"it is not whole, or not plain enough to be read safely ({_short(error)})") from None
    callbacks = content.get("callbacks") if isinstance(content, Mapping) else None
    if not isinstance(callbacks, Mapping):
        return {}, {}
    states = [(str(key), state) for key, state in callbacks.items() if isinstance(state, Mapping) and state]
    try:
        return dict(_histories(states)), dict(_views(states))
    except Exception as error:
        raise UnusableFileError(_short(error)) from None


def _histories(states: list[tuple[str, Any]]) -> Iterator[tuple[str, History]]:
    for key, state in states:
        if (match := _OURS.fullmatch(key)) and state.get("history") is not None:
            history = History.from_state_dict(state["history"])
            if len(history):
                yield match[1], history


def _views(states: list[tuple[str, Any]]) -> Iterator[tuple[str, list[GradientSnapshot]]]:
    for key, state in states:
        if (match := _GRADIENTS.fullmatch(key)) and (snapshots := from_state(state)):
            yield match[1], snapshots


def read_log(path: Path) -> Rows:
    """Everything that a logger wrote, by step, with full keys.

    Raises:
        UnusableFileError: if it cannot be read, tensorboard being absent included.
    """
    try:
        return read_tensorboard(path, prefix="") if path.is_dir() else read_csv_logger(path.parent, prefix="")
    except Exception as error:  # event files raise all sorts of errors
        raise UnusableFileError(_short(error)) from None


def prefixes_in(rows: Rows, first: str, second: str) -> list[str]:
    """Those under which a task has both kinds of value.

    >>> prefixes_in({3: {"mtl/weight/a": 1.0, "mtl/share/a": 1.0, "other/weight/a": 2.0}}, "weight", "share")
    ['mtl']
    """
    keys = dict.fromkeys(key for row in rows.values() for key in row)
    found = (re.fullmatch(rf"(.+?)/{first}/([^/]+)", key) for key in keys)
    return list(dict.fromkeys(m[1] for m in found if m and f"{m[1]}/{second}/{m[2]}" in keys))


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= 120 else f"{text[:119].rsplit(' ', 1)[0]} …"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
