"""The table: a row per way to weigh, as in the article's Table 1."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from experiments.scenes.data.batch import TASKS
from experiments.scenes.experiment.cells import grid_cell
from experiments.scenes.experiment.controls import LR_FACTORS, lr_row, of_constant_sum, of_learned_sum
from experiments.scenes.experiment.grid import best_point
from experiments.scenes.experiment.results import Results
from experiments.scenes.experiment.train import Outcome
from experiments.scenes.model.metrics import METRICS

__all__ = ["Row", "control_rows", "lr_table", "markdown", "table_rows", "write_csv", "write_runs"]


@dataclass(frozen=True)
class Row:
    """One way to weigh, over all seeds.

    Attributes:
        name: of its files.
        title: for people.
        runs: training runs that one seed of it costs.
        weights: factors before the losses, as parts of 1, means over the seeds, at the end of the training.
        metrics: by task, one value per seed.
        gains: mean relative gain over the single-task nets in percent, one per seed.
    """

    name: str
    title: str
    runs: int
    weights: Mapping[str, float]
    metrics: Mapping[str, Sequence[float]]
    gains: Sequence[float]


def table_rows(results: Results) -> list[Row]:
    """All rows, in the order of the article."""
    equal, best = _names_by_hand(results)
    points = len(results.grid)
    return [
        *(_row(results, f"single-{task}", f"{task} only", 1) for task in TASKS),
        _row(results, equal, "equal weights", 1),
        _row(results, best, f"best of {points} weightings by hand", points),
        _row(results, "never-learned", "start from the data, never learned", 1),
        _row(results, "retrained", "learned weights, fixed from the first step", 2),
        _row(results, "learned-semantic-instance", "learned: semantic + instance", 1),
        _row(results, "learned-semantic-depth", "learned: semantic + depth", 1),
        _row(results, "learned-instance-depth", "learned: instance + depth", 1),
        _row(results, "learned", "**learned: all three**", 1),
    ]


def control_rows(results: Results) -> list[Row]:
    """The ratios and the sum of the weights apart: each of the important rows, with the sum of the other."""
    equal, best = _names_by_hand(results)
    return [
        _row(results, equal, "equal weights", 1),
        _row(results, of_learned_sum(equal), "equal weights, scaled to the sum of the learned ones", 2),
        _row(results, best, "best weighting by hand", len(results.grid)),
        _row(
            results, of_learned_sum(best), "best by hand, scaled to the sum of the learned ones", len(results.grid) + 1
        ),
        _row(results, of_constant_sum("learned"), "learned weights, divided by their sum", 1),
        _row(results, "learned", "**learned weights**", 1),
    ]


def lr_table(results: Results) -> str:
    """Mean gain of the important rows with other learning rates, for people."""
    equal, best = _names_by_hand(results)
    titles = {equal: "equal weights", best: "best weighting by hand", "learned": "**learned weights**"}
    factors = sorted([1.0, *LR_FACTORS])
    lines = [
        ["mean gain over single task [%]", *(f"lr {factor * results.settings.lr:g}" for factor in factors)],
        ["---", *["---:"] * len(factors)],
        *(
            [title, *(_spread(results.gains(lr_row(row, f)), 1, sign="+") for f in factors)]
            for row, title in titles.items()
        ),
    ]
    return _table(lines)


def _names_by_hand(results: Results) -> tuple[str, str]:
    """The rows of equal weights and of the best ones by hand."""
    factor = results.settings.grid_factor
    return grid_cell((0, 0), 0, factor).row, grid_cell(best_point(results.grid), 0, factor).row


def _row(results: Results, name: str, title: str, runs: int) -> Row:
    outcomes = [outcome for _, outcome in sorted(results.outcomes[name].items())]
    metrics = {task: [o.metrics[task] for o in outcomes] for task in TASKS if task in outcomes[0].metrics}
    return Row(name, title, runs, _mean_shares(outcomes), metrics, results.gains(name))


def _mean_shares(outcomes: Sequence[Outcome]) -> dict[str, float]:
    shares = [{task: weight / sum(o.weights.values()) for task, weight in o.weights.items()} for o in outcomes]
    return {task: fmean(share[task] for share in shares) for task in shares[0]}


def markdown(rows: Sequence[Row]) -> str:
    """The table for people, with mean and standard deviation over the seeds."""
    headings = [METRICS[task].title + f" [{METRICS[task].unit}]" for task in TASKS]
    arrows = ["↑" if METRICS[task].higher_is_better else "↓" for task in TASKS]
    columns = [f"{arrow} {heading}" for arrow, heading in zip(arrows, headings, strict=True)]
    head = [
        "what is trained",
        "weights: semantic / instance / depth",
        *columns,
        "↑ mean gain over single task [%]",
        "runs",
    ]
    return _table([head, ["---", "---", *["---:"] * 5], *map(_cells, rows)])


def _table(lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cells(row: Row) -> list[str]:
    weights = " / ".join(f"{row.weights[task]:.2f}" if task in row.weights else "-" for task in TASKS)
    metrics = [_spread(row.metrics.get(task, ()), METRICS[task].decimals) for task in TASKS]
    single = row.name.startswith("single-")
    return [row.title, weights, *metrics, "0" if single else _spread(row.gains, 1, sign="+"), str(row.runs)]


def _spread(values: Sequence[float], decimals: int, sign: str = "") -> str:
    if not values:
        return "-"
    mean = f"{fmean(values):{sign}.{decimals}f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values):.{decimals}f}"


def write_csv(rows: Sequence[Row], path: Path) -> Path:
    """The same as numbers, a line per row: means, standard deviations over the seeds (empty for one), weights."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_lines(rows))
    return path


def write_runs(results: Results, path: Path) -> Path:
    """A line per training: what it was, what it gave, and how long it took."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        metrics = [f"{task} [{METRICS[task].unit}]" for task in TASKS]
        writer.writerow(["row", "seed", *(f"weight of {task}" for task in TASKS), *metrics, "gain [%]", "seconds"])
        for row, outcomes in results.outcomes.items():
            for (seed, outcome), gain in zip(sorted(outcomes.items()), results.gains(row), strict=True):
                values = [measured.get(task, "") for measured in (outcome.weights, outcome.metrics) for task in TASKS]
                writer.writerow([row, seed, *values, gain, round(outcome.seconds, 1)])
    return path


def _lines(rows: Sequence[Row]) -> Iterator[list[object]]:
    quantities = [*(f"{task} [{METRICS[task].unit}]" for task in TASKS), "gain [%]"]
    statistics = [f"{quantity}: {what}" for quantity in quantities for what in ("mean", "sd")]
    yield ["row", "title", "runs", "seeds", *(f"weight of {task}" for task in TASKS), *statistics]
    for row in rows:
        values = [*(row.metrics.get(task, ()) for task in TASKS), row.gains]
        numbers = [number for series in values for number in _mean_and_sd(series)]
        weights = [row.weights.get(task, "") for task in TASKS]
        yield [row.name, row.title.strip("*"), row.runs, len(row.gains), *weights, *numbers]


def _mean_and_sd(values: Sequence[float]) -> tuple[object, object]:
    known = [value for value in values if not math.isnan(value)]
    return (fmean(known) if known else "", stdev(known) if len(known) > 1 else "")
