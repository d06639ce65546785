"""The result of a comparison: metrics, gains, intervals, and a sentence."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from lightning_uncertainty.comparison.arms import ComparisonError
from lightning_uncertainty.comparison.statistics import Direction, Interval, relative_gain, t_interval
from lightning_uncertainty.reporting.files import write_whole
from lightning_uncertainty.reporting.markup import for_notebook
from lightning_uncertainty.reporting.tables import Table

_FILE = "comparison.json"


@dataclass(frozen=True)
class FinishedRun:
    """The result of one training.

    Attributes:
        arm: Name of the way in which the losses were weighed.
        seed: Seed of everything random.
        metrics: Scalar metrics of the evaluation.
        seconds: Time that training and evaluation took.
        start: Fingerprints of the initial weights and of the first batches.
        weights: Effective weights of the losses at the end, by task, as they are logged.
        factors: Factors before the raw losses at the end, by task, that another training can be given as weights.
        folder: Folder of the run, with its logs and the history of its weights.
        reused: True if the run was read from its folder, not trained now.
        strategy: Name of the strategy that weighed the losses; empty for given weights, or unknown.
    """

    arm: str
    seed: int
    metrics: Mapping[str, float]
    seconds: float
    start: Mapping[str, str]
    weights: Mapping[str, float]
    factors: Mapping[str, float] = field(default_factory=dict)
    folder: Path = field(default=Path(), compare=False)
    reused: bool = field(default=False, compare=False)
    strategy: str = ""


def to_json(run: FinishedRun) -> dict[str, Any]:
    """Return a run as plain data, without its folder. JSON has no NaN, which is None."""
    content = {key: value for key, value in asdict(run).items() if key not in ("folder", "reused")}
    return {**content, "metrics": {name: None if math.isnan(value) else value for name, value in run.metrics.items()}}


def from_json(content: Mapping[str, Any], folder: Path) -> FinishedRun:
    """Return the run whose plain data ``content`` is."""
    metrics = {name: math.nan if value is None else value for name, value in content["metrics"].items()}
    return FinishedRun(**{**content, "metrics": metrics}, folder=folder, reused=True)


@dataclass(frozen=True)
class ComparisonResult:
    """The runs of a comparison, and what follows from them. ``print`` shows table and sentences.

    Attributes:
        metrics: ``"min"`` or ``"max"`` by the name of the metric.
        arms: Names of the arms, the baseline first.
        seeds: Seeds of the runs.
        runs: The runs, arm by arm; some may be missing as long as the comparison goes on.
    """

    metrics: Mapping[str, Direction]
    arms: Sequence[str]
    seeds: Sequence[int]
    runs: Sequence[FinishedRun]

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return self.arms[0]

    @cached_property
    def _values(self) -> dict[tuple[str, int], FinishedRun]:
        return {(run.arm, run.seed): run for run in self.runs}

    def values(self, arm: str, metric: str) -> list[float]:
        """Return a metric of an arm, by seed; NaN where the run did not give it."""
        return [float(self._values[arm, seed].metrics.get(metric, math.nan)) for seed in self.seeds]

    def mean(self, arm: str, metric: str) -> float:
        """Return the mean of a metric over the seeds."""
        return _mean(self.values(arm, metric))

    def std(self, arm: str, metric: str) -> float:
        """Return the standard deviation between the seeds, with ``n - 1`` in the denominator; NaN for one seed."""
        values = self.values(arm, metric)
        return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan

    def gains(self, arm: str, metric: str) -> list[float]:
        """Return the relative gain over the baseline of the same seed, in percent, by seed; positive is better."""
        higher = self.metrics[metric] == "max"
        pairs = zip(self.values(arm, metric), self.values(self.baseline, metric), strict=True)
        return [relative_gain(value, reference, higher_is_better=higher) for value, reference in pairs]

    def mean_gains(self, arm: str) -> list[float]:
        """Return the mean relative gain over all metrics, in percent, by seed; see :class:`MeanRelativeGain`."""
        return [_mean(gains) for gains in zip(*(self.gains(arm, metric) for metric in self.metrics), strict=True)]

    def mean_gain(self, arm: str) -> float:
        """Return the mean of :meth:`mean_gains` over the seeds, in percent."""
        return _mean(self.mean_gains(arm))

    def interval(self, arm: str, metric: str | None = None) -> Interval | None:
        """Return the paired 95 % interval of a gain over the seeds, by default of the mean gain; None for one seed.

        It is Student's, as if the differences of pairs were normal, without a correction for several arms or metrics.
        """
        return t_interval(self.mean_gains(arm) if metric is None else self.gains(arm, metric))

    def verdict(self, arm: str) -> str:
        """Say in a sentence whether the difference between an arm and the baseline is larger than the noise."""
        gain, number = self.mean_gain(arm), len(self.seeds)
        seeds = f"{number} seed{'s' if number > 1 else ''}"
        opening = f"{arm} against {self.baseline}, {seeds}: "
        if not math.isfinite(gain):
            return opening + f"no mean relative gain, since {self._undefined(arm)}."
        opening += f"mean relative gain {_signed(gain)} %"
        interval = self.interval(arm)
        if interval is None:
            return opening + ". One seed shows no noise, so there is no interval: cannot tell. Add seeds."
        if len(set(self.mean_gains(arm))) == 1:
            same = "Both arms gave the same metrics" if gain == 0.0 else "It is the same"
            return opening + f". {same} with every seed, so there is no noise to compare with: cannot tell."
        opening += f" (95 % interval {_range(interval)}). The difference is "
        if interval.excludes_zero:
            return opening + f"larger than the noise between seeds: {arm} is {'better' if gain > 0.0 else 'worse'}."
        return opening + f"within the noise of {seeds}: cannot tell."

    def _undefined(self, arm: str) -> str:
        for metric, name in product(self.metrics, (self.baseline, arm)):
            for seed, value in zip(self.seeds, self.values(name, metric), strict=True):
                if not math.isfinite(value) or (name == self.baseline and value == 0.0):
                    return f"{metric!r} is {value:g} in {name}, seed {seed}"
        return "it is not finite"

    @property
    def sentences(self) -> list[str]:
        """Verdicts on all arms but the baseline."""
        return [self.verdict(arm) for arm in self.arms[1:]]

    @property
    def origin(self) -> str:
        """A sentence that says how many runs were not trained but found."""
        found, number = sum(run.reused for run in self.runs), len(self.runs)
        reused = f"{found} of {number} runs are from earlier: nothing that can be seen to define them has changed."
        return reused if found else f"All {number} runs are new."

    @property
    def finished(self) -> bool:
        """True if all runs are there. Before, there are no gains and no sentences."""
        return len(self.runs) == len(self.arms) * len(self.seeds)

    @property
    def table(self) -> Table:
        """A row per metric, the mean relative gain, and its interval; a row per run if some are still missing."""
        if not self.finished:
            numbers = [[f"{run.metrics.get(metric, math.nan):.4g}" for metric in self.metrics] for run in self.runs]
            rows = [[run.arm, str(run.seed), *row] for run, row in zip(self.runs, numbers, strict=True)]
            return Table(["arm", "seed", *self.metrics], rows)
        rows = [
            [f"{'↓' if direction == 'min' else '↑'} {metric}", *(self._cell(arm, metric) for arm in self.arms)]
            for metric, direction in self.metrics.items()
        ]
        rows.append(["mean relative gain", "reference", *(_percent(self.mean_gain(arm)) for arm in self.arms[1:])])
        rows.append(["95 % interval", "", *(_range(self.interval(arm)) for arm in self.arms[1:])])
        caption = f"mean ± standard deviation between seeds; in brackets the gain against {self.baseline}, + is better"
        named = {run.arm: run.strategy for run in self.runs if run.strategy not in ("", "uncertainty", run.arm)}
        caption += "".join(f"; {arm} is the strategy {strategy}" for arm, strategy in named.items())
        return Table(["metric", *self.arms], rows, caption=caption, sums=[len(rows) - 2])

    def _cell(self, arm: str, metric: str) -> str:
        mean, std = self.mean(arm, metric), self.std(arm, metric)
        cell = f"{mean:.4g}" + ("" if math.isnan(std) else f" ± {std:.2g}")
        return cell if arm == self.baseline else f"{cell} ({_percent(_mean(self.gains(arm, metric)))})"

    def to_markdown(self) -> str:
        """Return table and sentences, for an issue or a README."""
        return self.table.markdown() + "\n" + "".join(f"{sentence}\n" for sentence in self.sentences)

    def write(self, folder: Path) -> None:
        """Write ``comparison.json``, which :meth:`load` and the ``report`` command read."""
        table, number = self.table, len(self.arms) * len(self.seeds)
        note = f"The comparison has not come to its end: {len(self.runs)} of {number} runs have finished."
        content = {
            "format": "lightning_uncertainty comparison",
            "version": 1,
            "table": [list(table.header), *map(list, table.rows)],
            "caption": table.caption,
            "sentences": self.sentences if self.finished else [],
            "notes": [] if self.finished else [note],
            "metrics": dict(self.metrics),
            "arms": list(self.arms),
            "seeds": list(self.seeds),
            "runs": [{**to_json(run), "folder": run.folder.name} for run in self.runs],
        }
        write_whole(folder / _FILE, json.dumps(content, indent=2))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ComparisonResult:
        """Read the result that :func:`~lightning_uncertainty.compare` has left in its folder, once it has finished."""
        content = json.loads((Path(folder) / _FILE).read_text(encoding="utf-8"))
        runs = [from_json(run, Path(folder) / run.pop("folder")) for run in content["runs"]]
        result = cls(content["metrics"], content["arms"], content["seeds"], runs)
        if not result.finished:
            raise ComparisonError(f"{folder} has a comparison that has not finished. Call `compare` again to go on.")
        return result

    def _repr_html_(self) -> str:
        """Return table and sentences for a notebook."""
        return for_notebook([self.table], notes=[*(self.sentences if self.finished else ()), self.origin])

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self.table.folded()), "\n".join([*self.sentences, self.origin])])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan


def _range(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.low):
        return "none"
    return f"{_signed(interval.low)} to {_signed(interval.high)} %"


def _percent(value: float) -> str:
    return "none" if math.isnan(value) else f"{_signed(value)} %"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # no -0.00
