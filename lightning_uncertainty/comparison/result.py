"""What a comparison found: metrics, gains, intervals, and a sentence."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lightning_uncertainty.comparison import tables
from lightning_uncertainty.comparison.statistics import Direction, Interval, MeanRelativeGain, relative_gain, t_interval
from lightning_uncertainty.comparison.store import FinishedRun

__all__ = ["ComparisonResult"]


@dataclass(frozen=True)
class ComparisonResult:
    """The runs of a comparison, and what follows from them. ``print`` shows table and sentences.

    Attributes:
        metrics: ``"min"`` or ``"max"`` by name.
        arms: their names, the baseline first.
        seeds: of the runs.
        runs: all of them, arm by arm.
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
        """A metric of an arm, by seed; NaN where the run did not give it."""
        return [float(self._values[arm, seed].metrics.get(metric, math.nan)) for seed in self.seeds]

    def mean(self, arm: str, metric: str) -> float:
        """Over the seeds."""
        return _mean(self.values(arm, metric))

    def std(self, arm: str, metric: str) -> float:
        """The standard deviation between the seeds, with ``n - 1`` in the denominator; NaN for one seed."""
        values = self.values(arm, metric)
        return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan

    def gains(self, arm: str, metric: str) -> list[float]:
        """The relative gain against the baseline of the same seed, in percent, by seed; positive is better."""
        higher = self.metrics[metric] == "max"
        pairs = zip(self.values(arm, metric), self.values(self.baseline, metric), strict=True)
        return [relative_gain(value, reference, higher_is_better=higher) for value, reference in pairs]

    def mean_gains(self, arm: str) -> list[float]:
        """The mean relative gain over all metrics, in percent, by seed; see :class:`MeanRelativeGain`."""
        gains = []
        for seed in self.seeds:
            baseline, own = (self._values[name, seed].metrics for name in (self.baseline, arm))
            reference = {name: baseline.get(name, math.nan) for name in self.metrics}
            gain = MeanRelativeGain(reference, self.metrics, sync_on_compute=False)  # all ranks have all runs
            gain.update({name: own.get(name, math.nan) for name in self.metrics})
            gains.append(float(gain.compute()))
        return gains

    def mean_gain(self, arm: str) -> float:
        """The mean of :meth:`mean_gains` over the seeds, in percent."""
        return _mean(self.mean_gains(arm))

    def interval(self, arm: str, metric: str | None = None) -> Interval | None:
        """The paired 95 % interval of a gain over the seeds: Student's t. None for one seed.

        It assumes that the differences of pairs are roughly normal, and is not corrected for looking at several arms
        or metrics.

        Args:
            arm: not the baseline.
            metric: of which metric; by default the mean over all.
        """
        return t_interval(self.mean_gains(arm) if metric is None else self.gains(arm, metric))

    def verdict(self, arm: str) -> str:
        """A sentence: whether the difference between an arm and the baseline is larger than the noise."""
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
        opening += f" (95 % interval {_signed(interval.low)} to {_signed(interval.high)} %). The difference is "
        if interval.excludes_zero:
            return opening + f"larger than the noise between seeds: {arm} is {'better' if gain > 0.0 else 'worse'}."
        return opening + f"within the noise of {seeds}: cannot tell."

    def _undefined(self, arm: str) -> str:
        for metric in self.metrics:
            for name in (self.baseline, arm):
                for seed, value in zip(self.seeds, self.values(name, metric), strict=True):
                    if not math.isfinite(value) or (name == self.baseline and value == 0.0):
                        return f"{metric!r} is {value:g} in {name}, seed {seed}"
        return "it is not finite"

    @property
    def sentences(self) -> list[str]:
        """A verdict for each arm but the baseline."""
        return [self.verdict(arm) for arm in self.arms[1:]]

    @property
    def origin(self) -> str:
        """How many of the runs were not run but found."""
        found, number = sum(run.reused for run in self.runs), len(self.runs)
        if not found:
            return f"All {number} runs are new."
        return f"{found} of {number} runs are from earlier: nothing that can be seen to define them has changed."

    @property
    def records(self) -> list[dict[str, Any]]:
        """Flat records of all runs, with arm, seed, metrics and gains in percent; ready for a table library."""
        records = []
        for run in self.runs:
            index = list(self.seeds).index(run.seed)
            record: dict[str, Any] = {"arm": run.arm, "seed": run.seed}
            record |= {name: self.values(run.arm, name)[index] for name in self.metrics}
            record |= {f"{name}: gain in %": self.gains(run.arm, name)[index] for name in self.metrics}
            record["mean relative gain in %"] = self.mean_gains(run.arm)[index]
            record["seconds"] = run.seconds
            records.append(record)
        return records

    def summary(self) -> list[dict[str, Any]]:
        """A record per arm and metric, and one per arm for the mean: mean, deviation, gain in percent, interval."""
        return [self._row(arm, metric) for arm in self.arms for metric in (*self.metrics, None)]

    def _row(self, arm: str, metric: str | None) -> dict[str, Any]:
        interval = self.interval(arm, metric)
        gains = self.mean_gains(arm) if metric is None else self.gains(arm, metric)
        return {
            "arm": arm,
            "metric": metric or "mean relative gain",
            "better": self.metrics[metric] if metric else "max",
            "seeds": len(self.seeds),
            "mean": self.mean(arm, metric) if metric else math.nan,
            "std": self.std(arm, metric) if metric else math.nan,
            "gain in %": _mean(gains),
            "low": interval.low if interval else math.nan,
            "high": interval.high if interval else math.nan,
        }

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`summary`."""
        tables.write_csv(path, self.summary())

    def to_markdown(self) -> str:
        """The table and the sentences, for an issue or a README."""
        return tables.markdown(self) + "\n" + "".join(f"{sentence}\n" for sentence in self.sentences)

    def print(self, console: Any = None) -> None:
        """Show table and sentences: by rich if it is installed, else as plain text.

        Args:
            console: a rich ``Console``; by default one for the standard output.
        """
        tables.show(self, console)

    def __str__(self) -> str:
        return tables.plain(self) + "\n\n" + "\n".join([*self.sentences, self.origin])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # no -0.00
