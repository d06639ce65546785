"""Measure what a sigma at prediction time is worth: ``python -m experiments.predictive``."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.evidence.sets.weather import weather
from experiments.evidence.table import Table
from experiments.predictive import returns
from experiments.predictive.coverage import SOURCES, covered, fewer, known_noise
from lightning_uncertainty import __main__ as cli
from lightning_uncertainty._arguments import require
from lightning_uncertainty.reporting.tables import Table as TextTable

FOLDER = Path(__file__).parent
EPOCHS, HEAD_EPOCHS, HEAD_SEEDS = 100, 15, 5
TEXT = """\
# What a sigma at prediction time is worth

Written by `python -m experiments.predictive`, from `results.json`.

## Coverage of nominal 90 % intervals on fresh data
`predictive(task, mean)` with sigma of the training and with sigma of the validation (a third as many rows), for the
same networks, trained for {epochs} epochs. Means over {seeds} seeds, with the standard deviation between seeds.

{coverage}
Seeds differ. With sigma of the validation and known noise, coverage lies outside of 87 to 93 % in
{outside}.

With 400 rows of made-up data the network learns most of their noise by heart. What is left as the training residual is
no noise that a prediction could have.

## Daily returns, negative log-likelihood of the last 30 % of days
In nats per day, lower is better. The head is a network of 16 units that starts from the variance of RiskMetrics and
sees the last {past} days of both indices; its losses are `gaussian_nll` of two tasks that are `"nll"`. It trains on 60
% of days and validates on 10 %. Constant sigma and GARCH(1,1), which sees one index only, are fitted to these 70 %. The
head: mean of {head_seeds} seeds ± standard deviation.

{likelihood}
Multiplying the variances by the mean squared z-score of the validation changes little here: on the validation days it
was {shift}, and the noise of another year is not that of this one.
"""


def measure(seeds: int, epochs: int) -> dict[str, Any]:
    """Return all numbers."""
    require("predictive", "pvlib", "arch")
    tables: dict[str, Callable[[int], Table]] = {
        "known noise, 400 rows": partial(known_noise, 400),
        "TMY3, 400 rows": lambda seed: fewer(weather(seed), 400, seed),
        "TMY3, 2,440 rows": lambda seed: fewer(weather(seed), 2440, seed),
    }
    coverage = {
        name: [covered(make(seed), epochs=epochs, seed=seed) for seed in range(seeds)] for name, make in tables.items()
    }
    heads = [returns.head(seed, epochs=HEAD_EPOCHS) for seed in range(HEAD_SEEDS)]
    return {"epochs": epochs, "coverage": coverage, "baselines": returns.baselines(), "heads": heads}


def spread(values: Iterable[float], form: str) -> str:
    """Return mean and standard deviation as text."""
    values = [*values]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{form}} ± {deviation:{form}}"


def page(numbers: Mapping[str, Any]) -> str:
    """Return the page of the numbers."""
    rows = [
        [name, task, *(cell for source in SOURCES for cell in _cells(runs, task, source))]
        for name, runs in numbers["coverage"].items()
        for task in runs[0]
    ]
    header = ["data", "task", "sigma, training", "covered", "sigma, validation", "covered"]
    heads = numbers["heads"]
    days = [[name, *(f"{row[index]:.3f}" for index in returns.INDICES)] for name, row in numbers["baselines"].items()]
    for source in SOURCES:
        cells = (spread((run[source][index] for run in heads), ".3f") for index in returns.INDICES)
        days.append([f"variance head, scale of the {source}", *cells])
    shifts = [statistics.fmean(run["shift"][index] for run in heads) for index in returns.INDICES]
    return TEXT.format(
        epochs=numbers["epochs"],
        seeds=len(next(iter(numbers["coverage"].values()))),
        coverage=TextTable(header, rows, left=(0, 1)).markdown(),
        outside=" and ".join(_outside(numbers["coverage"]["known noise, 400 rows"])),
        past=returns.PAST,
        head_seeds=len(heads),
        likelihood=TextTable(["model", "S&P 500", "Nasdaq"], days).markdown(),
        shift=" and ".join(f"{shift:.2f}" for shift in shifts),
    )


def _outside(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for task in runs[0]:
        count = sum(not 0.87 <= run[task]["validation"]["covered"] <= 0.93 for run in runs)
        yield f"{count} of {len(runs)} seeds for {task}"


def _cells(runs: Sequence[Mapping[str, Any]], task: str, source: str) -> tuple[str, str]:
    found = [run[task][source] for run in runs]
    covered = [100.0 * each["covered"] for each in found]
    return f"{statistics.fmean(each['sigma'] for each in found):.3g}", f"{spread(covered, '.1f')} %"


def predictive(
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds of each coverage.")] = 10,
    epochs: Annotated[int, typer.Option(min=1, help="Number of times through the training rows.")] = EPOCHS,
    output: Annotated[Path, typer.Option(help="The folder of results.json and RESULTS.md.")] = FOLDER,
) -> None:
    """Measure the coverage of intervals, and the likelihood of daily returns."""
    numbers = measure(seeds, epochs)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (output / "RESULTS.md").write_text(page(numbers))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with ``arguments`` in place of those of the process, and return its exit code."""
    return cli.run_app(predictive, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
