"""A comparison as a table: plain, Markdown, CSV, and for a terminal."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lightning_uncertainty.comparison.statistics import Interval

if TYPE_CHECKING:
    from lightning_uncertainty.comparison.result import ComparisonResult

__all__ = ["markdown", "plain", "rows", "show", "write_csv"]

CAPTION = "mean ± standard deviation between seeds; in brackets the gain against {baseline}, + is better"


def rows(result: ComparisonResult) -> list[list[str]]:
    """A heading, a row per metric, the mean relative gain, and its interval."""
    table = [["metric", *result.arms]]
    for metric, direction in result.metrics.items():
        arrow = "↓" if direction == "min" else "↑"
        table.append([f"{arrow} {metric}", *(_cell(result, arm, metric) for arm in result.arms)])
    table.append(["mean relative gain", "reference", *(_percent(result.mean_gain(arm)) for arm in result.arms[1:])])
    table.append(["95 % interval", "", *(_interval_cell(result.interval(arm)) for arm in result.arms[1:])])
    return table


def plain(result: ComparisonResult) -> str:
    """In columns, for any terminal and log."""
    table = rows(result)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    return "\n".join([lines[0], rule, *lines[1:], _caption(result)])


def markdown(result: ComparisonResult) -> str:
    """As a table of Markdown; a bar in the name of a metric is escaped."""
    heading, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows(result)]
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_caption(result)}\n"


def write_csv(path: str | os.PathLike[str], records: Sequence[dict[str, Any]]) -> None:
    """A row per record; what is not known is an empty field."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]))
        writer.writeheader()
        for record in records:
            unknown = {key: "" for key, value in record.items() if isinstance(value, float) and math.isnan(value)}
            writer.writerow({**record, **unknown})


def show(result: ComparisonResult, console: Any = None) -> None:
    """By rich if it is installed, else as plain text."""
    if console is None and find_spec("rich") is None:
        print(result)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    heading, *body, gain, interval = rows(result)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=_caption(result))
    table.add_column(heading[0])
    for name in heading[1:]:
        table.add_column(name, justify="right")
    for row in body:
        table.add_row(*row)
    table.add_section()
    table.add_row(*gain, style="bold")
    table.add_row(*interval)
    console.print(table)
    for sentence in (*result.sentences, result.origin):
        console.print(f"\n{sentence}", highlight=False, markup=False)


def _cell(result: ComparisonResult, arm: str, metric: str) -> str:
    mean, std = result.mean(arm, metric), result.std(arm, metric)
    cell = _number(mean) if math.isnan(std) else f"{_number(mean)} ± {std:.2g}"
    if arm == result.baseline:
        return cell
    gains = result.gains(arm, metric)
    return f"{cell} ({_percent(sum(gains) / len(gains))})"


def _interval_cell(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.low):
        return "none"
    return f"{_percent(interval.low)} to {_percent(interval.high)}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _percent(value: float) -> str:
    return "none" if math.isnan(value) else f"{round(value, 2) + 0.0:+.2f} %"


def _caption(result: ComparisonResult) -> str:
    return CAPTION.format(baseline=result.baseline)
