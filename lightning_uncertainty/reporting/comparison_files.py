"""What ``compare`` has left in its folder, finished or not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ComparisonTable", "is_comparison", "read_comparison", "run_of"]

TABLE = "comparison.md"
METRICS = 8  # columns of a comparison that has not finished; which metrics it is about is not known yet
_RUN = re.compile(r"(.+)-seed(\d+)-[0-9a-f]{16}")
_OF_THE_CALLBACK = re.compile(r".*/(weight|sigma|loss|share)/[^/]+")
_RULE = re.compile(r":?-+:?")


@dataclass(frozen=True)
class ComparisonTable:
    """A comparison as text.

    Attributes:
        rows: the heading first.
        caption: what the cells are.
        sentences: whether the differences are larger than the noise.
        notes: what is missing.
    """

    rows: list[list[str]]
    caption: str
    sentences: list[str]
    notes: list[str]


def run_of(folder: Path) -> tuple[str, int] | None:
    """Arm and seed of the folder of one run; None for another folder."""
    match = _RUN.fullmatch(folder.name)
    return (match[1], int(match[2])) if match else None


def is_comparison(folder: Path) -> bool:
    """Whether ``compare`` has written to it."""
    return any(map(run_of, folder.iterdir()))


def read_comparison(folder: Path) -> ComparisonTable:
    """Its table and sentences; of one that has not finished, the runs that have."""
    runs = {path: _finished(path) for path in sorted(folder.iterdir()) if path.is_dir() and run_of(path)}
    finished = {path: content for path, content in runs.items() if content is not None}
    begun = [", seed ".join(map(str, run_of(path) or ())) for path in runs if path not in finished]
    notes = [f"Not finished: {'; '.join(begun)}."] if begun else []
    table = folder / TABLE
    read = _read_markdown(table.read_text(encoding="utf-8", errors="replace")) if table.is_file() else None
    if read is not None:
        newer = sum(_written(path / "run.json") > _written(table) for path in finished)
        if newer:
            notes.append(f"The table is that of an earlier comparison; runs that have finished since: {newer}.")
        return ComparisonTable(*read, notes)
    what = f"{TABLE} is not whole" if table.is_file() else "The comparison has not come to its end"
    notes.insert(0, f"{what}: these are the runs that have finished ({len(finished)}), without gains and intervals.")
    return ComparisonTable(list(_of_runs(list(finished.values()))), "", [], notes)


def _read_markdown(text: str) -> tuple[list[list[str]], str, list[str]] | None:
    """Rows, caption and sentences as ``ComparisonResult.to_markdown`` writes them; None if some are missing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [_row(line) for line in lines if line.startswith("|")]
    caption, *sentences = [line for line in lines if not line.startswith("|")] or [""]
    rows = [row for row in rows if not all(map(_RULE.fullmatch, row))]
    if not text.endswith("\n") or not rows or len(sentences) < len(rows[0]) - 2:
        return None
    return rows, caption, sentences


def _row(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip("|"))]


def _finished(run: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return {"arm": str(content["arm"]), "seed": int(content["seed"]), "metrics": dict(content["metrics"])}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _of_runs(runs: list[dict[str, Any]]) -> Iterator[list[str]]:
    names = dict.fromkeys(name for run in runs for name in run["metrics"] if not _OF_THE_CALLBACK.fullmatch(name))
    shown = [name for name in names if not name.endswith("/loss")][:METRICS] or list(names)[:METRICS]
    yield ["run", *shown]
    for run in sorted(runs, key=lambda run: (run["seed"], run["arm"])):
        values = (run["metrics"].get(name) for name in shown)
        yield [f"{run['arm']}, seed {run['seed']}", *("" if value is None else f"{value:.4g}" for value in values)]


def _written(path: Path) -> float:
    return path.stat().st_mtime
