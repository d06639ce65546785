"""Reading back what loggers wrote: the keys under one prefix, by step."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from lightning_uncertainty.reporting.extras import require

__all__ = ["read_csv_logger", "read_tensorboard"]

Rows = dict[int, dict[str, float]]


def read_csv_logger(folder: Path | str, prefix: str = "uncertainty") -> Rows:
    """By step, what a CSVLogger wrote under ``prefix``, without the prefix: ``{9: {"weight/depth": 0.5}}``.

    A line that was cut off, as a killed run leaves it, gives what is in it.

    Args:
        folder: the logger's ``log_dir``, which holds ``metrics.csv``.
        prefix: the ``log_prefix`` of the callback.

    Raises:
        FileNotFoundError: if there is no ``metrics.csv``.
        ValueError: if nothing in it has that prefix.
    """
    path = Path(folder) / "metrics.csv"
    if not path.is_file():
        raise FileNotFoundError(f"There is no metrics.csv in {folder}. Pass the `log_dir` of a CSVLogger.")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return _collect(_cells(csv.DictReader(file)), prefix, where=str(path))


def read_tensorboard(folder: Path | str, prefix: str = "uncertainty") -> Rows:
    """By step, what a TensorBoardLogger wrote under ``prefix``, without the prefix.

    Args:
        folder: the logger's ``log_dir``, which holds event files.
        prefix: the ``log_prefix`` of the callback.

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
    return _collect(cells, prefix, where=str(folder))


def _cells(lines: Iterator[Mapping[str, str | None]] | csv.DictReader[str]) -> Iterator[tuple[int, str, float]]:
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


def _collect(cells: Iterator[tuple[int, str, float]], prefix: str, *, where: str) -> Rows:
    rows: Rows = {}
    others = set()
    for step, key, value in cells:
        if key and key.startswith(f"{prefix}/"):
            rows.setdefault(step, {})[key[len(prefix) + 1 :]] = value
        elif key:
            others.add(key.split("/")[0])
    if not rows:
        found = ", ".join(sorted(others)) or "nothing"
        raise ValueError(f"{where} has no values under {prefix!r}. It has: {found}. Pass the `log_prefix` of the run.")
    return dict(sorted(rows.items()))
