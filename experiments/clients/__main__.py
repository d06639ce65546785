"""Train public libraries with and without learned weights: ``python -m experiments.clients [names] [--seeds 3]``."""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from experiments.clients.results import Run, write_results
from lightning_uncertainty import __main__ as cli

if TYPE_CHECKING:
    from experiments.clients.client import Client

CLIENTS = {
    "molecules": "molecules:CLIENT",
    "forecasts": "forecasts:CLIENT",
    "genes": "cells:BOUND",
    "kinds": "cells:KINDS",
    "waves": "waves:CLIENT",
    "speech": "speech:CLIENT",
    "search": "search:CLIENT",
    "scans": "scans:CLIENT",
}
OUTPUT = Path("clients_output")
RESULTS = Path(__file__).with_name("RESULTS.md")


def load(name: str) -> Client:
    """Return a client by name. Its library is imported when it trains."""
    file, attribute = CLIENTS[name].split(":")
    client: Client = getattr(importlib.import_module(f"experiments.clients.{file}"), attribute)
    return client


def train(name: str, seeds: int) -> list[Run]:
    """Train all arms of a client, arm after arm for each seed, and say what came of each."""
    from lightning.pytorch import seed_everything

    client, runs = load(name), []
    for seed in range(seeds):
        for arm in ("plain", *client.learned):
            seed_everything(seed, verbose=False)
            callbacks = [] if arm == "plain" else [client.learned[arm]()]
            began = time.perf_counter()
            metrics = dict(client.train(seed, [*callbacks]))
            runs.append(Run(arm, seed, metrics, time.perf_counter() - began))
            print(name, runs[-1], flush=True)
    return runs


def clients(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(CLIENTS)}.", show_default="all")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
) -> None:
    """Train each client as its library's tutorial does, without and with learned weights, and write RESULTS.md."""
    if unknown := sorted({*(names or ())} - {*CLIENTS}):
        raise typer.BadParameter(f"There are no clients {unknown}. Expected some of {[*CLIENTS]}.")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # those of the libraries
    OUTPUT.mkdir(exist_ok=True)
    for name in names or CLIENTS:
        runs = [vars(run) for run in train(name, seeds)]
        (OUTPUT / f"{name}.json").write_text(json.dumps(runs, indent=1), encoding="utf-8")
    found = {name: OUTPUT / f"{name}.json" for name in CLIENTS}
    trained = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items() if path.exists()}
    write_results(RESULTS, {name: (load(name), [Run(**run) for run in runs]) for name, runs in trained.items()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with ``arguments`` in place of those of the process, and return its exit code."""
    return cli.run_app(clients, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
