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
from lightning_uncertainty.snapshot import Snapshot

__all__ = ["comparison_table", "print_result", "sigma_table"]


def print_result(result: Result, *, console: Console) -> None:
    """Both tables, and where the files are."""
    console.print(comparison_table(result.comparison))
    console.print(sigma_table(result.comparison.targets, result.snapshots[-1]))
    console.print("\n", _paths(result.folder), sep="", soft_wrap=True)
    console.print(f"The three runs took {result.seconds:.0f} s.", highlight=False)


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


def sigma_table(targets: tuple[Target, ...], snapshot: Snapshot) -> Table:
    """What was learned for each task."""
    table = Table(
        title="\nLearned from losses in natural units",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        caption="Regressions: sigma is the error that the training expects (laplace: b, the mean absolute one).\n"
        "Classifications: sigma² is the temperature of the logits, not a noise of the labels.",
    )
    for heading in ("task", "likelihood"):
        table.add_column(heading)
    for heading in ("sigma", "temperature", "effective weight"):
        table.add_column(heading, justify="right")
    for target in targets:
        task = snapshot.tasks[target.name]
        assert task.sigma is not None
        learned = ("", f"{task.sigma**2:.3g}") if not target.unit else (f"{task.sigma:.4g} {target.unit}", "")
        table.add_row(target.name, target.likelihood, *learned, f"{task.weight:.3g} {target.weight_unit}")
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
