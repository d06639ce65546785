"""Reading back what loggers wrote: the keys under one prefix, by step."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lightning_uncertainty._arguments import require

__all__ = ["Rows", "by_step", "read_csv_logger", "read_tensorboard", "under"]

Rows = dict[int, dict[str, float]]


def read_csv_logger(folder: Path | str, prefix: str = "uncertainty") -> Rows:
    """By step, what a CSVLogger wrote under ``prefix``, without the prefix: ``{9: {"weight/depth": 0.5}}``.

    A line that was cut off, as a killed run leaves it, does not count.

    Args:
        folder: the logger's ``log_dir``, which holds ``metrics.csv``.
        prefix: the ``log_prefix`` of the callback; everything, with full keys, if it is empty.

    Raises:
        FileNotFoundError: if there is no ``metrics.csv``.
        ValueError: if nothing in it has that prefix.
    """
    path = Path(folder) / "metrics.csv"
    if not path.is_file():
        raise FileNotFoundError(f"There is no metrics.csv in {folder}. Pass the `log_dir` of a CSVLogger.")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return _under(by_step(_cells(csv.DictReader(_whole_lines(file)))), prefix, where=str(path))


def read_tensorboard(folder: Path | str, prefix: str = "uncertainty") -> Rows:
    """By step, what a TensorBoardLogger wrote under ``prefix``, without the prefix.

    Args:
        folder: the logger's ``log_dir``, which holds event files.
        prefix: the ``log_prefix`` of the callback; everything, with full keys, if it is empty.

    Raises:
        FileNotFoundError: if there are no event files.
        ValueError: if nothing in them has that prefix.
        MissingExtraError: without tensorboard.
    """
    if not any(Path(folder).glob("*tfevents*")):
        raise FileNotFoundError(f"There are no event files in {folder}. Pass the `log_dir` of a TensorBoardLogger.")
    require("demo", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={SCALARS: 0})  # 0: all of them
    reader.Reload()
    cells = ((event.step, tag, event.value) for tag in reader.Tags()[SCALARS] for event in reader.Scalars(tag))
    return _under(by_step(cells), prefix, where=str(folder))


def by_step(cells: Iterable[tuple[int, str, float]]) -> Rows:
    """The values of each step, in the order of the steps."""
    rows: Rows = {}
    for step, key, value in cells:
        if key:
            rows.setdefault(step, {})[key] = value
    return dict(sorted(rows.items()))


def under(rows: Rows, prefix: str) -> Rows:
    """What is under a prefix, without it; steps that have nothing are left out.

    >>> under({3: {"u/weight/a": 1.0, "loss": 2.0}, 4: {"loss": 2.0}}, "u")
    {3: {'weight/a': 1.0}}
    """
    start = len(prefix) + 1
    found = {step: {k[start:]: v for k, v in row.items() if k.startswith(f"{prefix}/")} for step, row in rows.items()}
    return {step: row for step, row in found.items() if row}


def _whole_lines(file: Iterable[str]) -> Iterator[str]:
    """Those that end as a line does: half a number is another number."""
    return (line for line in file if line.endswith("\n"))


def _cells(lines: Iterable[Mapping[str, str | None]]) -> Iterator[tuple[int, str, float]]:
    for line in lines:
        try:
            step = int(line.get("step") or "")
        except ValueError:
            continue
        for key, text in line.items():
            try:
                yield step, key, float(text or "")
            except (TypeError, ValueError):  # empty, cut off, or no number
                continue


def _under(rows: Rows, prefix: str, *, where: str) -> Rows:
    found = under(rows, prefix) if prefix else rows
    if prefix and not found:
        others = {key.split("/")[0] for row in rows.values() for key in row}
        has = ", ".join(sorted(others)) or "nothing"
        raise ValueError(f"{where} has no values under {prefix!r}. It has: {has}. Pass the `log_prefix` of the run.")
    return found
