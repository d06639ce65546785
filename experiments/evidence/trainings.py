"""The trainings: one line of the CSV file each, and what is chosen from them on validation rows."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from lightning_uncertainty.comparison.statistics import Direction, relative_gain
from lightning_uncertainty.reporting.files import write_whole
from lightning_uncertainty.reporting.tables import csv_text

__all__ = ["EQUAL", "Training", "Trainings", "read_trainings", "write_trainings"]

EQUAL = "equal"
_HEADER = ("problem", "arm", "lr", "seed", "seconds", "val", "test", "sigma")


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        problem: Name of the problem.
        arm: Name of the way in which the losses were weighed.
        lr: Highest learning rate.
        seed: Seed of everything random.
        seconds: Time that it took.
        val, test: Metrics by task, on the rows to choose on and on those to test on.
        sigma: Learned sigmas by task, if any were learned.
    """

    problem: str
    arm: str
    lr: float
    seed: int
    seconds: float
    val: Mapping[str, float]
    test: Mapping[str, float]
    sigma: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trainings:
    """All trainings of one problem.

    Attributes:
        runs: The trainings.
        directions: ``"min"`` or ``"max"`` for the metric of each task.
        tuning: Seeds on which learning rates and weightings are chosen.
        middle: The learning rate at which equal weights are the reference of all choices.
    """

    runs: Sequence[Training]
    directions: Mapping[str, Direction]
    tuning: Collection[int]
    middle: float

    def of(self, arm: str, lr: float | None = None) -> list[Training]:
        """Return the trainings of an arm by seed, with one learning rate or with all."""
        found = [run for run in self.runs if run.arm == arm and lr in (None, run.lr)]
        return sorted(found, key=lambda run: (run.lr, run.seed))

    @property
    def arms(self) -> list[str]:
        """Names of the arms, as they were trained."""
        return list(dict.fromkeys(run.arm for run in self.runs))

    def scores(self, arm: str) -> dict[float, float]:
        """Return what each learning rate of an arm gave on the validation rows, in percent; -inf if it diverged.

        It is the mean gain, over the tasks and the seeds to choose on, against equal weights with the middle rate. Of
        a net for a single task only that task counts.
        """
        reference = {run.seed: run.val for run in self.of(EQUAL, self.middle)}
        found: dict[float, list[float]] = {}
        for run in self.of(arm):
            if run.seed in self.tuning:
                found.setdefault(run.lr, []).append(self.gain(run.val, reference[run.seed], self.counted(arm)))
        means = {lr: fmean(each) for lr, each in found.items()}
        return {lr: mean if math.isfinite(mean) else -math.inf for lr, mean in means.items()}

    def counted(self, arm: str) -> list[str]:
        """Return the tasks whose metrics count for an arm."""
        task = arm.removeprefix("single_")
        return [task] if task in self.directions and task != arm else list(self.directions)

    def best_lr(self, arm: str) -> float:
        """Return the learning rate that is best on the validation rows."""
        scores = self.scores(arm)
        return max(scores, key=scores.__getitem__)

    def on_edge(self, arm: str) -> int:
        """Return -1 or 1 if no lower or no higher learning rate than the best was tried, else 0."""
        tried, best = sorted(self.scores(arm)), self.best_lr(arm)
        return -1 if best == tried[0] else int(best == tried[-1])

    def best_hand(self) -> str:
        """Return the arm of the weighting by hand that is best on the validation rows."""
        hands = [arm for arm in self.arms if arm.startswith("hand_")]
        return max(hands, key=lambda arm: max(self.scores(arm).values()))

    def chosen(self, arm: str) -> list[Training]:
        """Return the trainings of an arm with its best learning rate, by seed."""
        return self.of(arm, self.best_lr(arm))

    def gain(self, values: Mapping[str, float], reference: Mapping[str, float], tasks: Iterable[str]) -> float:
        """Return the mean relative gain over ``tasks``, in percent."""
        pairs = ((task, self.directions[task] == "max") for task in tasks)
        return fmean(relative_gain(values[task], reference[task], higher_is_better=higher) for task, higher in pairs)


def write_trainings(path: Path, runs: Iterable[Training]) -> None:
    """Write a line per training, numbers with six digits."""
    rows = [
        [r.problem, r.arm, f"{r.lr:.6g}", r.seed, f"{r.seconds:.2f}", *map(_pairs, (r.val, r.test, r.sigma))]
        for r in runs
    ]
    write_whole(path, csv_text(_HEADER, rows))


def read_trainings(path: Path) -> list[Training]:
    """Return the trainings of such a file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Training(
                row["problem"],
                row["arm"],
                float(row["lr"]),
                int(row["seed"]),
                float(row["seconds"]),
                *({k: float(v) for k, v in (pair.split("=") for pair in row[part].split())} for part in _HEADER[5:]),
            )
            for row in csv.DictReader(file)
        ]


def _pairs(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.6g}" for name, value in metrics.items())
