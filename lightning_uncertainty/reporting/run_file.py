"""The one file that a run leaves for its report, and the one that a comparison leaves: as text, and read back."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from lightning_uncertainty.reporting.gradients import GradientSnapshot, from_state, state_of
from lightning_uncertainty.reporting.history import DAMAGE, History

__all__ = ["ComparisonFile", "NothingToReportError", "RunFile"]

RUN, COMPARISON = "lightning_uncertainty history", "lightning_uncertainty comparison"
VERSION = 1

_KINDS = {"steps": torch.long, "totals": torch.float64, "values": torch.float32}  # tensors among what is saved


class NothingToReportError(ValueError):
    """A folder or file has nothing that could be shown. The message says what it has, and what to pass instead."""


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
        return json.dumps(content, allow_nan=False, default=_numbers)

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """Return what a run has written to ``path``.

        Raises:
            NothingToReportError: If it is of something else, not whole, or damaged.
        """
        with _content(path, RUN) as content:
            gradients = {name: from_state(_tensors(state)) for name, state in content["gradients"].items()}
            history = History.from_state_dict(_tensors(content["history"]))
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
        """Return what ``compare`` has written to ``path``.

        Raises:
            NothingToReportError: If it is of something else, not whole, or damaged.
        """
        with _content(path, COMPARISON) as content:
            return cls(**{each.name: content[each.name] for each in fields(cls)})


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
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 150, placeholder=" …")
        raise NothingToReportError(
            f"{path} cannot be read ({reason}). It must be a whole file that a run or `compare` has written. Pass the "
            "folder of another run, for example lightning_logs/version_0, or write the file again by training."
        ) from None


def _numbers(tensor: torch.Tensor) -> list[float | None]:
    """Return all numbers of a tensor in one row; what is not finite is None."""
    numbers = tensor.flatten().tolist()
    if tensor.dtype == torch.float32:  # nine digits tell all numbers of single precision apart
        numbers = [float(f"{number:.9g}") for number in numbers]
    return [number if math.isfinite(number) else None for number in numbers]


def _tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state with its tensors, in one row each; what was not finite comes back as NaN."""
    return {
        key: torch.tensor([math.nan if number is None else number for number in value], dtype=_KINDS[key])
        if key in _KINDS
        else value
        for key, value in state.items()
    }
