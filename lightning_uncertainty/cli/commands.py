"""The commands. What they need is imported when they run, so that ``--help`` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightning_uncertainty.cli.compare import compare
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
    rows: Annotated[int | None, typer.Option(help="Use so many rows, chosen at random.  [default: all]")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="How often to go through the training rows.  [default: fits 90 seconds]")
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


app.command()(compare)
