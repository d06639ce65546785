"""The study of one problem: every arm with learning rates of its own, chosen on validation rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.evidence.problems import load
from experiments.evidence.scalarized import PEERS, WEIGHTS, scalarized
from experiments.evidence.trainings import EQUAL, Training, Trainings, write_trainings
from lightning_uncertainty import UncertaintyCallback, UncertaintyWarning
from lightning_uncertainty.comparison import FinishedRun, compare

__all__ = ["FULL", "LEARNED", "QUICK", "SMOKE", "STRATEGIES", "Budget", "Study", "arms_of", "run_problem"]

STRATEGIES = (EQUAL, "uncertainty", "initial", "log_sum", "geometric_mean", "uw_so", "dwa", "random")
"""Strategies by name, with their defaults."""

LEARNED = ("uncertainty", "no_guard", "faster", "article")
"""Arms that learn sigmas."""


@dataclass(frozen=True)
class Budget:
    """What a run may cost.

    Attributes:
        seeds: Number of seeds at most; a problem may have fewer.
        tuning: Number of seeds at most on which learning rates and weightings are chosen.
        part: Part of the steps of each problem.
        lrs: Number of learning rates to begin with.
        further: Number of further learning rates, at either end, for an arm whose best is at that end.
        arms: Arms to train, by default all.
    """

    seeds: int = 8
    tuning: int = 2
    part: float = 1.0
    lrs: int = 3
    further: int = 2
    arms: tuple[str, ...] | None = None


FULL = Budget()
QUICK = Budget(seeds=2, tuning=1, part=0.4, further=1)
SMOKE = Budget(seeds=1, tuning=1, part=0.01, lrs=1, further=0, arms=("equal", "uncertainty", "torchjd_uw", "hand_0"))


def arms_of(problem: Any) -> dict[str, Any]:
    """Return all arms of a problem but the peers, as :func:`~lightning_uncertainty.compare` takes them."""
    tasks = list(problem.directions)
    singles = {f"single_{task}": {each: float(each == task) for each in tasks} for task in tasks}
    strategies = {name: {"strategy": name} for name in STRATEGIES}
    return {
        **strategies,
        "no_guard": {"guard": False},
        "faster": {"lr": 0.05},
        "article": {"scale": None, "guard": False},  # the total of Kendall et al., from the first step
        **problem.hand,
        **singles,
    }


@dataclass
class Study:
    """The trainings of one problem, in a folder.

    Attributes:
        name: Name of the problem.
        folder: Folder of the runs; those that are finished there are used again.
        budget: What it may cost.
        runs: The trainings so far.
    """

    name: str
    folder: Path
    budget: Budget
    runs: list[Training] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.problem = load(self.name)
        arms, only = {**arms_of(self.problem), **dict.fromkeys(PEERS)}, self.budget.arms
        self.arms = {name: arm for name, arm in arms.items() if only is None or name in only}
        self.steps = max(round(self.budget.part * self.problem.steps), 3)
        self.seeds = range(min(self.budget.seeds, self.problem.seeds))
        self.tuning = range(min(self.budget.tuning, self.problem.tuning))
        lrs = self.problem.lrs
        self.lrs = lrs if self.budget.lrs >= len(lrs) else lrs[len(lrs) // 2 :][: self.budget.lrs]

    @property
    def planned(self) -> int:
        """The number of trainings, if no arm needs further learning rates."""
        hands = sum(name.startswith("hand_") for name in self.arms)
        rest = len(self.arms) - max(hands - 1, 0)
        return len(self.arms) * len(self.lrs) * len(self.tuning) + rest * (len(self.seeds) - len(self.tuning))

    @property
    def trainings(self) -> Trainings:
        """All trainings so far."""
        return Trainings(self.runs, self.problem.directions, self.tuning, self.lrs[len(self.lrs) // 2])

    def run(self) -> Trainings:
        """Train whatever is not done yet: choose on the first seeds, then train the rest with what was chosen."""
        for lr in self.lrs:
            self.train(self.arms, lr, self.tuning)
        for _ in range(self.budget.further):
            for lr, arms in self._further().items():
                self.train(arms, lr, self.tuning)
        known = self.trainings
        hands = [arm for arm in self.arms if arm.startswith("hand_")]
        finalists = [arm for arm in self.arms if arm not in hands] + ([known.best_hand()] if hands else [])
        for lr in sorted({known.best_lr(arm) for arm in finalists}):
            arms = [arm for arm in finalists if known.best_lr(arm) == lr]
            self.train(arms, lr, [seed for seed in self.seeds if seed not in self.tuning])
        return self.trainings

    def _further(self) -> dict[float, list[str]]:
        """Return a learning rate beyond the end for each arm whose best is there; of those by hand for the best."""
        known, found = self.trainings, dict[float, list[str]]()
        for arm in self.arms:
            if (edge := known.on_edge(arm)) and not (arm.startswith("hand_") and arm != known.best_hand()):
                found.setdefault(next_rate(known.best_lr(arm), edge), []).append(arm)
        return found

    def train(self, arms: Iterable[str], lr: float, seeds: Sequence[int]) -> None:
        """Train arms with a learning rate, those of this package together, and each peer."""
        groups = {"ours": {name: self.arms[name] for name in arms if name not in PEERS}}
        groups |= {name: {name: WEIGHTS} for name in arms if name in PEERS}
        for group, members in groups.items():
            if members and seeds:
                self._compare(group, members, lr, seeds)

    def _compare(self, group: str, arms: Mapping[str, Any], lr: float, seeds: Sequence[int]) -> None:
        given = {name: arm for name, arm in arms.items() if {*arm} <= {*self.problem.directions, *WEIGHTS}}  # weights
        parts = [f"{part}/{task}" for part in ("val", "test") for task in self.problem.directions]
        result = compare(
            partial(make_net, self.name, lr, None if group == "ours" else group),
            self.problem.make_data,
            metrics={name: self.problem.directions[name.split("/")[1]] for name in parts},
            seeds=list(seeds),
            trainer=trainer_options(self.steps),
            arms={"learned": None, EQUAL: None, **{name: arm for name, arm in arms.items() if name not in given}},
            fixed=given,
            baseline=next(iter(arms)),
            evaluate="test",
            folder=self.folder / self.name / f"{group}-{lr:g}",
            progress=False,
        )
        self.runs += [self._training(run, lr) for run in result.runs]

    def _training(self, run: FinishedRun, lr: float) -> Training:
        val, test = ({t: run.metrics[f"{part}/{t}"] for t in self.problem.directions} for part in ("val", "test"))
        sigma = {task: weight**-0.5 for task, weight in run.weights.items()} if run.arm in LEARNED else {}
        return Training(self.name, run.arm, lr, run.seed, run.seconds, val, test, sigma)


def next_rate(lr: float, way: int) -> float:
    """Return the next learning rate of the ladder 1, 3, 10, 30, ... or 2, 6, 20, ... upwards or downwards.

    >>> [next_rate(lr, way) for lr in (0.001, 0.003, 0.002, 0.006) for way in (-1, 1)]
    [0.0003, 0.003, 0.001, 0.01, 0.0006, 0.006, 0.002, 0.02]
    """
    return float(f"{lr * 3.2 if way > 0 else lr / 3.1:.0e}")


def make_net(name: str, lr: float, peer: str | None) -> Any:
    """Return a new network of a problem, weighed by this package or by a peer."""
    net = load(name).make_net(lr)
    return net if peer is None else scalarized(net, peer)


def trainer_options(steps: int) -> dict[str, Any]:
    """Return the options of a Trainer for so many steps, which writes nothing."""
    return {
        "accelerator": "cpu",
        "max_steps": steps,
        "max_epochs": -1,
        "limit_val_batches": 0,
        "logger": False,
        "callbacks": [UncertaintyCallback(report=False)],
    }


def run_problem(name: str, folder: Path, budget: Budget) -> None:
    """Run the study of a problem in this process, with one thread, and write its trainings."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UncertaintyWarning)  # what single runs have to say
    study = Study(name, folder, budget)
    study.run()
    write_trainings(folder / f"{name}.csv", study.runs)
