"""``lightning-uncertainty scenes``: run what is missing, show a bar with the time left, write the page."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.scenes.experiment.report import write_report
from experiments.scenes.experiment.results import Results
from experiments.scenes.experiment.runner import run_experiment
from experiments.scenes.experiment.settings import Settings
from experiments.scenes.experiment.store import Store

__all__ = ["run_command"]

_MEMORY_OF_SPEED = 3600.0  # seconds over which the time left is estimated: cells take minutes on a busy machine


def run_command(settings: Settings, output: Path, *, workers: int, command: str, console: Console) -> Path:
    """Run the experiment into ``output`` and give the page.

    Args:
        settings: of all rows.
        output: the folder; cells that are finished there are not run again.
        workers: processes.
        command: for the page.
        console: for the bar.

    Raises:
        ValueError: if the folder has cells of other settings.
        OSError: if it cannot be written to.
    """
    store = Store.open(output, settings)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # more processes beat more threads for networks this small
    try:
        results = _run(store, workers, console)
        with console.status("Writing the page and its pictures"):
            return write_report(results, output, command=command)
    finally:
        torch.set_num_threads(before)


def _run(store: Store, workers: int, console: Console) -> Results:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    left = TimeRemainingColumn(), TextColumn("left")
    with Progress(*columns, *left, console=console, speed_estimate_period=_MEMORY_OF_SPEED) as progress:
        bar = progress.add_task("trainings", total=None)

        def report(name: str, done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total, description=name or "trainings")

        return run_experiment(store, workers=workers, report=report)
