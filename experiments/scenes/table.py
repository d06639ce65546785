"""The tables: a row per way to weigh, as in the article's Table 1, for people and as CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from experiments.scenes.arms import LR_FACTORS
from experiments.scenes.data.batch import TASKS
from experiments.scenes.model.metrics import METRICS
from experiments.scenes.results import Results
from lightning_uncertainty.reporting.tables import Table, csv_text

__all__ = ["Row", "control_rows", "lr_table", "main_rows", "rows_csv", "rows_table", "runs_csv"]

UNITS = [f"{task} [{METRICS[task].unit}]" for task in TASKS]


@dataclass(frozen=True)
class Row:
    """One way to weigh, over all seeds.

    Attributes:
        name: Name of the row.
        title: Name for people.
        cost: Number of trainings that one seed of it costs.
        shares: Factors before the losses, as parts of 1, means over the seeds, at the end of the training.
        metrics: Values by task, one per seed.
        gains: Mean relative gains over the single-task nets in percent, one per seed.
    """

    name: str
    title: str
    cost: int
    shares: Mapping[str, float]
    metrics: Mapping[str, Sequence[float]]
    gains: Sequence[float]


def main_rows(results: Results) -> list[Row]:
    """Return all rows, in the order of the article."""
    points = len(results.grid)
    return [
        *(_row(results, f"single-{task}", f"{task} only") for task in TASKS),
        _row(results, "equal", "equal weights"),
        _row(results, results.best_row, f"best of {points} weightings by hand", points),
        _row(results, "never-learned", "start from the data, never learned"),
        _row(results, "retrained", "learned weights, fixed from the first step", 2),
        _row(results, "learned-semantic-instance", "learned: semantic + instance"),
        _row(results, "learned-semantic-depth", "learned: semantic + depth"),
        _row(results, "learned-instance-depth", "learned: instance + depth"),
        _row(results, "learned", "**learned: all three**"),
    ]


def control_rows(results: Results) -> list[Row]:
    """Return each of the important rows, with the sum of the other: the ratios and the sum of the weights apart."""
    best, points = results.best_row, len(results.grid)
    scaled = "scaled to the sum of the learned ones"
    return [
        _row(results, "equal", "equal weights"),
        _row(results, "equal-of-learned-sum", f"equal weights, {scaled}", 2),
        _row(results, best, "best weighting by hand", points),
        _row(results, f"{best}-of-learned-sum", f"best by hand, {scaled}", points + 1),
        _row(results, "learned-of-constant-sum", "learned weights, divided by their sum"),
        _row(results, "learned", "**learned weights**"),
    ]


def _row(results: Results, name: str, title: str, cost: int = 1) -> Row:
    runs = results.of(name)
    factors, metrics = [results.factors(run) for run in runs], [results.metrics(run) for run in runs]
    shares = {task: fmean(each[task] / sum(each.values()) for each in factors) for task in factors[0]}
    values = {task: [each[task] for each in metrics] for task in metrics[0]}
    return Row(name, title, cost, shares, values, results.gains(name))


def rows_table(rows: Sequence[Row]) -> Table:
    """Return the table for people, with mean and standard deviation over the seeds."""
    arrows = {True: "↑", False: "↓"}
    columns = [f"{arrows[m.higher_is_better]} {m.title} [{m.unit}]" for m in METRICS.values()]
    weights, gain = "weights: semantic / instance / depth", "↑ mean gain over single task [%]"
    return Table(["what is trained", weights, *columns, gain, "runs"], [_cells(row) for row in rows], left=(0, 1))


def _cells(row: Row) -> list[str]:
    weights = " / ".join(f"{row.shares[task]:.2f}" if task in row.shares else "-" for task in TASKS)
    metrics = [_spread(row.metrics.get(task, ()), f".{METRICS[task].decimals}f") for task in TASKS]
    gain = "0" if row.name.startswith("single-") else _spread(row.gains, "+.1f")
    return [row.title, weights, *metrics, gain, str(row.cost)]


def lr_table(results: Results) -> Table:
    """Return the mean gain of the important rows with other learning rates."""
    titles = {"equal": "equal weights", results.best_row: "best weighting by hand", "learned": "**learned weights**"}
    factors = sorted([1.0, *LR_FACTORS])
    gains = {row: [results.gains(row if f == 1.0 else f"{row}-lr-{f:g}") for f in factors] for row in titles}
    header = ["mean gain over single task [%]", *(f"lr {factor * results.settings.lr:g}" for factor in factors)]
    return Table(header, [[title, *(_spread(each, "+.1f") for each in gains[row])] for row, title in titles.items()])


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    mean = f"{fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values):{form.removeprefix('+')}}"


def rows_csv(rows: Sequence[Row]) -> str:
    """Return a line per row: weights, means, and standard deviations over the seeds (empty for one)."""
    statistics = [f"{quantity}: {what}" for quantity in (*UNITS, "gain [%]") for what in ("mean", "sd")]
    header = ["row", "title", "runs", "seeds", *(f"weight of {task}" for task in TASKS), *statistics]
    lines = []
    for row in rows:
        series = [*(row.metrics.get(task, ()) for task in TASKS), row.gains]
        numbers = [number for values in series for number in _mean_and_sd(values)]
        shares = [row.shares.get(task) for task in TASKS]
        lines.append([row.name, row.title.strip("*"), row.cost, len(row.gains), *shares, *numbers])
    return csv_text(header, lines)


def _mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else None, stdev(known) if len(known) > 1 else None


def runs_csv(results: Results) -> str:
    """Return a line per training: its row and seed, weights and metrics, and the seconds that it took."""
    header = ["row", "seed", *(f"weight of {task}" for task in TASKS), *UNITS, "gain [%]", "seconds"]
    lines = []
    for row in results.rows:
        for run, gain in zip(results.of(row), results.gains(row), strict=True):
            values = [measured.get(t) for measured in (results.factors(run), results.metrics(run)) for t in TASKS]
            lines.append([row, run.seed, *values, gain, round(run.seconds, 1)])
    return csv_text(header, lines)
