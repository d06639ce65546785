"""What the demo prints at the end."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_uncertainty.demo.comparison import Comparison, Run
from lightning_uncertainty.demo.folder import OutputFolder
from lightning_uncertainty.demo.run import LEARNED, Result
from lightning_uncertainty.demo.target import Target
from lightning_uncertainty.reporting.summary import print_summary

__all__ = ["comparison_table", "print_result"]


def print_result(result: Result, *, console: Console) -> None:
    """The comparison, where the files are, and what became of the weights of the run that learned them."""
    console.print(comparison_table(result.comparison))
    console.print("\n", _paths(result.folder), sep="", soft_wrap=True)
    console.print(f"The three runs took {result.seconds:.0f} s.", highlight=False)
    print_summary(result.history, console=console, closing=f"Open {result.folder.page}")


def comparison_table(comparison: Comparison) -> Table:
    """A row per task, a column per run, and the mean change."""
    table = Table(
        title="\nOn held-out rows, in natural units",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        caption="↓ less is better, ↑ more is better; in brackets the change against\n"
        "the first run, + is better. One seed: small differences are noise.",
    )
    table.add_column("task")
    table.add_column("metric")
    for run in comparison.runs:
        table.add_column(run.title.replace(", ", ",\n"), justify="right")
    for target in comparison.targets:
        table.add_row(target.name, _metric(target), *(_cell(comparison, run, target) for run in comparison.runs))
    table.add_section()
    changes = [_percent(comparison.mean_change(run)) for run in comparison.runs[1:]]
    table.add_row("mean change", "", "reference", *changes, style="bold")
    return table


def _metric(target: Target) -> str:
    arrow = "↑" if target.higher_is_better else "↓"
    return f"{arrow} {target.metric_name}" + (f", {target.unit}" if target.unit else "")


def _cell(comparison: Comparison, run: Run, target: Target) -> str:
    value = _four_digits(comparison.metrics[run.name][target.name])
    return value if run is comparison.runs[0] else f"{value} ({_percent(comparison.change(run, target))})"


def _percent(change: float) -> str:
    return f"{change:+.1f}%"


def _four_digits(value: float) -> str:
    decimals = 3 - math.floor(math.log10(abs(value))) if value else 3
    return f"{value:.{max(decimals, 0)}f}"


def _paths(folder: OutputFolder) -> Text:
    run = LEARNED.name
    lines = {
        "picture": folder.picture,
        "table": folder.comparison,
        "CSV": folder.metrics(run),
        "checkpoint": folder.checkpoint(run),
        "TensorBoard": f"tensorboard --logdir {folder.tensorboard}",
    }
    return Text("\n".join(f"{what + ':':<13}{where}" for what, where in lines.items()))
