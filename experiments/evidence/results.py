"""What follows from the trainings: gains on the test rows, with the learning rates and weightings that were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb
from pathlib import Path
from statistics import fmean, median

from experiments.evidence.problems import load
from experiments.evidence.statistics import Gains, bootstrap, chance, holm, p_value
from experiments.evidence.trainings import EQUAL, Training, Trainings, read_trainings
from lightning_uncertainty.comparison.statistics import Interval

__all__ = ["ARMS", "HAND", "SINGLE", "Results", "read_results"]

HAND, SINGLE = "by_hand", "single"
ARMS = {
    EQUAL: "equal weights",
    SINGLE: "a net for each task",
    HAND: "best of 9 by hand",
    "uncertainty": "**uncertainty** (default)",
    "no_guard": "uncertainty, no guard",
    "faster": "uncertainty, lr=0.05",
    "article": "uncertainty, the article's total",
    "initial": "initial",
    "log_sum": "log_sum",
    "geometric_mean": "geometric_mean",
    "uw_so": "uw_so",
    "dwa": "dwa",
    "random": "random",
    "torchjd_uw": "TorchJD UW",
    "torchjd_geometric_mean": "TorchJD GeometricMean",
}
"""The rows of all tables, with their titles."""


@dataclass(frozen=True)
class Results:
    """All trainings by problem.

    Attributes:
        trainings: Trainings by the name of their problem.
    """

    trainings: Mapping[str, Trainings]

    @cached_property
    def arms(self) -> list[str]:
        """The arms of :data:`ARMS` that every problem has."""
        return [arm for arm in ARMS if all(self.members(problem, arm) for problem in self.trainings)]

    def members(self, problem: str, arm: str) -> list[str]:
        """Return the arms that were trained for a row: many for single tasks and for weights by hand."""
        start = {HAND: "hand_", SINGLE: "single_"}.get(arm)
        known = self.trainings[problem].arms
        return [each for each in known if (each == arm if start is None else each.startswith(start))]

    def metrics(self, problem: str, arm: str) -> dict[int, dict[str, float]]:
        """Return the metrics on the test rows by seed and task, as chosen on the validation rows."""
        known = self.trainings[problem]
        members = [known.best_hand()] if arm == HAND else self.members(problem, arm)
        found: dict[int, dict[str, float]] = {}
        for member in members:
            for run in known.chosen(member):
                found.setdefault(run.seed, {}).update({task: run.test[task] for task in known.counted(member)})
        return found

    @cached_property
    def gains(self) -> Gains:
        """Mean relative gains over equal weights, in percent: problem -> arm -> one for each seed."""
        found = {}
        for problem, known in self.trainings.items():
            equal, tasks = self.metrics(problem, EQUAL), list(known.directions)
            by_arm = {arm: self.metrics(problem, arm) for arm in self.arms}
            found[problem] = {
                arm: [known.gain(runs[seed], equal[seed], tasks) for seed in sorted(equal)]
                for arm, runs in by_arm.items()
            }
        return found

    def over(self, arm: str, problems: Sequence[str] | None = None) -> list[list[float]]:
        """Return the gains of an arm, a list for each problem, by default for all."""
        return [list(self.gains[problem][arm]) for problem in problems or self.gains]

    def interval(self, arm: str, problems: Sequence[str] | None = None) -> Interval:
        """Return the mean gain of an arm over problems, with its bootstrap interval."""
        return bootstrap(self.over(arm, problems))

    def middle(self, arm: str) -> float:
        """Return the median over the problems of the mean gain of an arm."""
        return median(map(fmean, self.over(arm)))

    def chance(self, arm: str, other: str) -> float:
        """Return the chance that an arm is better than another."""
        return chance(self.over(arm), self.over(other))

    def resolved(self, reference: str) -> dict[tuple[str, str], int]:
        """Return 1, -1 or 0 by problem and arm: better than a reference, worse, or not resolved.

        By the paired t test over the seeds at 5 %, corrected by Holm for the number of arms.
        """
        found = {}
        for problem, arms in self.gains.items():
            differences = {
                arm: [mine - theirs for mine, theirs in zip(arms[arm], arms[reference], strict=True)]
                for arm in self.arms
                if arm != reference
            }
            corrected = holm({arm: p_value(each) for arm, each in differences.items()})
            for arm, each in differences.items():
                found[problem, arm] = 0 if corrected[arm] >= 0.05 else 1 if fmean(each) > 0.0 else -1
        return found

    def cost(self, problem: str, arm: str) -> int:
        """Return the number of trainings that an arm cost on a problem, all seeds and learning rates together."""
        return sum(len(self.trainings[problem].of(member)) for member in self.members(problem, arm))

    def cost_of_one(self, problem: str, arm: str) -> int:
        """Return the number of trainings that one seed of it costs: its learning rates, times nets or weightings."""
        return sum(len(self.trainings[problem].scores(member)) for member in self.members(problem, arm))

    def search(self, problem: str) -> list[float]:
        """Return the expected gain of the best of n weightings by hand, chosen on validation, for n = 1, 2, ...

        On the seeds to choose on, over all choices of n of them.
        """
        known, tasks = self.trainings[problem], list(self.trainings[problem].directions)
        equal = {run.seed: run.test for run in known.chosen(EQUAL)}
        points = []
        for member in self.members(problem, HAND):
            tuned = [run for run in known.chosen(member) if run.seed in known.tuning]
            gain = fmean(known.gain(run.test, equal[run.seed], tasks) for run in tuned)
            points.append((max(known.scores(member).values()), gain))
        values, total = [gain for _, gain in sorted(points)], len(points)
        return [
            sum(comb(k, n - 1) / comb(total, n) * value for k, value in enumerate(values)) for n in range(1, total + 1)
        ]

    @property
    def runs(self) -> list[Training]:
        """All trainings."""
        return [run for known in self.trainings.values() for run in known.runs]


def read_results(path: Path) -> Results:
    """Return what the file of all trainings says."""
    runs: dict[str, list[Training]] = {}
    for run in read_trainings(path):
        runs.setdefault(run.problem, []).append(run)
    found = {}
    for name, each in runs.items():
        problem, tried = load(name), dict[int, int]()
        for run in (run for run in each if run.arm == EQUAL):
            tried[run.seed] = tried.get(run.seed, 0) + 1
        tuning = [seed for seed, number in tried.items() if number == max(tried.values())]
        found[name] = Trainings(each, problem.directions, tuning, problem.lrs[len(problem.lrs) // 2])
    return Results(found)
