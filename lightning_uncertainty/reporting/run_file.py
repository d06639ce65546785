"""The one file that a run leaves for its report, and the one that a comparison leaves: as text, and read back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lightning_uncertainty.reporting.gradients import GradientSnapshot, from_state, state_of
from lightning_uncertainty.reporting.history import History

__all__ = ["ComparedRun", "ComparisonFile", "RunFile", "UnusableFileError"]

RUN, COMPARISON = "lightning_uncertainty history", "lightning_uncertainty comparison"
VERSION = 1

_KINDS = {"steps": torch.long, "totals": torch.float64, "values": torch.float32}  # tensors among what is saved
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)  # whatever was done to a file


class UnusableFileError(ValueError):
    """A file cannot be read. The message is the reason in a few words."""


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
        content = {
            "format": RUN,
            "version": VERSION,
            "prefix": self.prefix,
            "finished": self.finished,
            "written": self.written,
            "history": self.history.state_dict(),
            "gradients": {name: state_of(seen) for name, seen in self.gradients.items()},
        }
        return json.dumps(_plain(content), allow_nan=False)

    @classmethod
    def read(cls, path: Path) -> RunFile | None:
        """Return what a run has written to ``path``; None for a file of something else.

        Raises:
            UnusableFileError: If it is not whole, or damaged.
        """
        content = _content(path, RUN)
        if content is None:
            return None
        try:
            gradients = {name: from_state(_tensors(state)) for name, state in content["gradients"].items()}
            history = History.from_state_dict(_tensors(content["history"]))
            return cls(content["prefix"], history, gradients, content["finished"], content["written"])
        except _DAMAGE as error:
            raise UnusableFileError(_short(error)) from None


@dataclass(frozen=True)
class ComparedRun:
    """A finished run of a comparison.

    Attributes:
        arm: Name of the arm.
        seed: Seed of everything random.
        folder: The run's folder, relative to that of the comparison.
    """

    arm: str
    seed: int
    folder: str


@dataclass(frozen=True)
class ComparisonFile:
    """The content of ``comparison.json``.

    Attributes:
        table: Rows of cells, the heading first.
        caption: Explanation of the cells.
        sentences: The verdicts: whether the differences are larger than the noise.
        notes: Further sentences for a reader, for example about runs that have not finished.
        runs: The finished runs.
    """

    table: list[list[str]]
    caption: str = ""
    sentences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    runs: list[ComparedRun] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> ComparisonFile | None:
        """Return what ``compare`` has written to ``path``; None for a file of something else.

        Raises:
            UnusableFileError: If it is not whole, or damaged.
        """
        content = _content(path, COMPARISON)
        if content is None:
            return None
        try:
            runs = [ComparedRun(run["arm"], run["seed"], run["folder"]) for run in content["runs"]]
            return cls(content["table"], content["caption"], content["sentences"], content["notes"], runs)
        except _DAMAGE as error:
            raise UnusableFileError(_short(error)) from None


def _content(path: Path, kind: str) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableFileError(f"it is not whole ({_short(error)})") from None
    if not isinstance(content, dict) or content.get("format") != kind:
        return None
    if content.get("version") != VERSION:
        raise UnusableFileError(f"it has version {content.get('version')!r}, and this package reads {VERSION}")
    return content


def _plain(value: Any) -> Any:
    """Return a saved state with lists in place of its tensors; what is not finite is None."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    flat = value.flatten().tolist()
    if value.dtype == torch.float32:  # nine digits tell all numbers of single precision apart
        flat = [float(f"{number:.9g}") for number in flat]
    return _nested([number if math.isfinite(number) else None for number in flat], value.shape)


def _nested(flat: list[Any], shape: Sequence[int]) -> list[Any]:
    if len(shape) < 2:
        return flat
    size = len(flat) // max(shape[0], 1)
    return [_nested(flat[start : start + size], shape[1:]) for start in range(0, len(flat), max(size, 1))]


def _tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state with its tensors, as :func:`_plain` found it; what is not finite comes back as NaN."""
    return {
        key: torch.tensor(_numbers(value), dtype=_KINDS[key]) if key in _KINDS else value
        for key, value in state.items()
    }


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return math.nan if value is None else value


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= 120 else f"{text[:119].rsplit(' ', 1)[0]} …"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
