"""The commands. What they need is imported when they run, so that ``--help`` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightning_uncertainty.cli.compare import compare
from lightning_uncertainty.cli.report import report
from lightning_uncertainty.reporting.extras import require

__all__ = ["app"]

app = typer.Typer(
    help="Learned weights for multi-task losses, from each task's homoscedastic uncertainty.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def welcome(context: typer.Context) -> None:
    """Learned weights for multi-task losses, from each task's homoscedastic uncertainty."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="diamonds or flights.")] = "diamonds",
    rows: Annotated[int | None, typer.Option(help="Use so many rows, chosen at random.", show_default="all")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="How often to go through the training rows.", show_default="fits 90 seconds")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the rows, the split, the network and the batches.")] = 0,
    output: Annotated[Path, typer.Option(help="The folder for logs, checkpoints, table and picture.")] = Path(
        "demo_output"
    ),
    plain_heads: Annotated[
        bool,
        typer.Option(
            "--plain-heads", help="In natural units, leave it to the last layer to grow to dollars or minutes."
        ),
    ] = False,
) -> None:
    """Train one network three times on real data: two plain sums of the losses, and learned weights."""
    require("demo", "matplotlib", "pandas", "rich", "tensorboard")
    from rich.console import Console

    from lightning_uncertainty.demo.options import Options
    from lightning_uncertainty.demo.run import run_demo
    from lightning_uncertainty.demo.table import print_result

    try:
        options = Options(data=data, rows=rows, epochs=epochs, seed=seed, output=output, plain_heads=plain_heads)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    console = Console()
    print_result(run_demo(options, console=console), console=console)


@app.command()
def scenes(
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed and short trainings: whether all works, not who is best.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many.", show_default="3, quick: 1")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of the optimizer in each training.", show_default="600, quick: 150")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per core")] = None,
    output: Annotated[
        Path, typer.Option(help="The folder. Trainings that are finished there are not run again.")
    ] = Path("scenes_output"),
) -> None:
    """The article's Table 1 on generated street scenes: learned weights against single tasks and a search by hand."""
    require("scenes", "matplotlib", "rich")
    import os
    from dataclasses import replace

    from rich.console import Console

    from lightning_uncertainty.scenes.experiment.command import run_command
    from lightning_uncertainty.scenes.experiment.settings import FULL, QUICK

    settings = QUICK if quick else FULL
    settings = replace(settings, seeds=seeds or settings.seeds)
    if steps is not None:
        settings = replace(settings, steps=steps, start_steps=2 * steps)
    command = "lightning-uncertainty scenes" + (" --quick" if quick else "")
    command += f" --seeds {seeds}" * (seeds is not None) + f" --steps {steps}" * (steps is not None)
    console = Console()
    try:
        page = run_command(settings, output, workers=workers or os.cpu_count() or 1, command=command, console=console)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    console.print(f"Table, figures and pictures: {page}", soft_wrap=True)


app.command()(compare)
app.command()(report)
