"""Run the article's Table 1 on generated street scenes: ``python -m experiments.scenes``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lightning_uncertainty.__main__ import run_app


def scenes(
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed and short trainings: whether all works, not who is best.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds.", show_default="3, quick: 1")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of each training.", show_default="600, quick: 150")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes.", show_default="one per core")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="The folder. Trainings that are finished there are not run again.")
    ] = Path("scenes_output"),
) -> None:
    """Compare learned weights with single tasks and a search by hand on generated street scenes."""
    from experiments.scenes.arms import Laboratory, run_experiment
    from experiments.scenes.settings import FULL, QUICK

    settings = QUICK if quick else FULL
    settings = replace(settings, seeds=seeds or settings.seeds)
    if steps is not None:
        settings = replace(settings, steps=steps, start_steps=2 * steps)
    command = "python -m experiments.scenes" + (" --quick" if quick else "")
    command += f" --seeds {seeds}" * (seeds is not None) + f" --steps {steps}" * (steps is not None)
    console = Console()
    results = run_experiment(Laboratory(settings, output / "runs", workers or os.cpu_count() or 1))
    # Only now: a change of the page would be a change of what a run has imported, and so of the run.
    from experiments.scenes.page import write_page

    with console.status("Writing the page and its pictures"):
        page = write_page(results, output, command=command)
    console.print(f"Table, figures and pictures: {page}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with ``arguments`` in place of those of the process, and return its exit code."""
    return run_app(scenes, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
