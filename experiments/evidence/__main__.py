"""Compare ways to weigh losses on nine sets of data: ``python -m experiments.evidence``."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lightning_uncertainty.__main__ import run_app


def evidence(
    quick: Annotated[
        bool, typer.Option("--quick", help="Two seeds and short trainings (10 minutes): whether all works.")
    ] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="One tiny training of four arms each, for tests.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="A problem; may be repeated.", show_default="all")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes.", show_default="one per core")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="The folder. Trainings that are finished there are not run again.")
    ] = Path("evidence_output"),
) -> None:
    """Train single tasks, every strategy, weightings by hand and two peers, and write tables and figures."""
    from experiments.evidence.problems import PROBLEMS
    from experiments.evidence.study import FULL, QUICK, SMOKE

    budget, names = SMOKE if smoke else QUICK if quick else FULL, list(only or PROBLEMS)
    if unknown := sorted({*names} - {*PROBLEMS}):
        raise typer.BadParameter(f"There are no problems {unknown}. Expected some of {[*PROBLEMS]}.")
    run_all(names, output / "runs", budget, workers or os.cpu_count() or 1)
    # Only now: a change of the page would be a change of what a run has imported, and so of the run.
    from experiments.evidence.page import write_page

    command = "python -m experiments.evidence" + " --quick" * quick + " --smoke" * smoke
    page = write_page([output / "runs" / f"{name}.csv" for name in names], output, command=command)
    Console().print(f"Tables and figures: {page}", soft_wrap=True)


def run_all(names: Sequence[str], folder: Path, budget: Any, workers: int) -> None:
    """Run each problem in a process of its own, some side by side, and show how far all have come.

    Raises:
        OSError: if processes fail, once all have ended; what they said stands above.
    """
    from experiments.evidence.study import Study, run_problem
    from lightning_uncertainty.comparison.progress import progress_bar

    folder.mkdir(parents=True, exist_ok=True)
    spawn, waiting, running, failed = multiprocessing.get_context("spawn"), list(names), dict[Any, Any](), list[str]()
    total, known = sum(Study(name, folder, budget).planned for name in names), _finished(folder)
    try:
        with progress_bar(total, min(len(known), total), wanted=None) as bar:
            while waiting or running:
                while waiting and len(running) < workers:
                    process = spawn.Process(target=run_problem, args=(name := waiting.pop(0), folder, budget))
                    process.start()
                    running[process.sentinel] = name, process
                for sentinel in wait(list(running), timeout=2.0):
                    name, process = running.pop(sentinel)
                    process.join()
                    failed += [name] * bool(process.exitcode)
                for run in sorted((found := _finished(folder)) - known):
                    bar.begin(run)
                    bar.reach(run)
                known = found
    finally:
        for _, process in running.values():
            process.kill()
    if failed:
        raise OSError(f"The processes of {failed} have failed. Start the command again to go on.")


def _finished(folder: Path) -> set[str]:
    """Return the finished trainings, by problem, peer, learning rate, arm and seed."""
    return {str(path.parent.relative_to(folder)).rsplit("-", 1)[0] for path in folder.glob("*/*/*/run.json")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with ``arguments`` in place of those of the process, and return its exit code."""
    return run_app(evidence, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
