"""Compare ways to weigh the four tasks of a table of flights: ``python -m experiments.flights``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from experiments.flights.data import TASKS, make_data
from lightning_uncertainty import __main__ as cli
from lightning_uncertainty.demo.model import MultiTaskNet
from lightning_uncertainty.demo.run import compare_weights


def make_net(num_inputs: int, scales: dict[str, list[float]]) -> MultiTaskNet:
    """Return a new network."""
    return MultiTaskNet(TASKS, num_inputs=num_inputs, scales=scales)


def flights(
    rows: Annotated[int | None, typer.Option(min=500, help="Number of flights.", show_default="all")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of times through the training rows.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 1,
    output: Annotated[Path, typer.Option(help="The folder. Finished runs in it are used again.")] = Path(
        "flights_output"
    ),
) -> None:
    """Compare equal weights, labels standardised by hand, and learned weights on flights from New York."""
    data = make_data(rows)
    net = partial(make_net, data.train[0].shape[1])
    served = partial(make_data, rows)
    compare_weights("flights", net, served, output, epochs=epochs, seeds=range(seeds))
    cli.main(["report", str(output)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with ``arguments`` in place of those of the process, and return its exit code."""
    return cli.run_app(flights, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
