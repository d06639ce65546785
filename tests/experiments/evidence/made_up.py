"""Trainings with made-up numbers: each arm has a skill of its own, and the middle learning rate is best."""

import numpy as np

from experiments.evidence.problems import load
from experiments.evidence.scalarized import PEERS
from experiments.evidence.study import LEARNED, arms_of
from experiments.evidence.trainings import Training

SKILL = {"equal": 0.0, "uncertainty": 0.2, "log_sum": 0.25, "hand_3": 0.3}


def trainings(name, *, seeds=4, tuning=2):
    """All arms on one problem."""
    problem, random = load(name), np.random.default_rng(0)
    runs = []
    for arm in [*arms_of(problem), *PEERS]:
        for lr in problem.lrs:
            chosen = lr == problem.lrs[1]
            final = chosen and (not arm.startswith("hand_") or arm == "hand_3")
            for seed in range(seeds if final else tuning):
                level = 1.0 - SKILL.get(arm, 0.1) + 0.2 * (not chosen)
                val, test = ({t: better(d, level, random) for t, d in problem.directions.items()} for _ in range(2))
                sigma = dict.fromkeys(problem.directions, 1.0) if arm in LEARNED else {}
                runs.append(Training(name, arm, lr, seed, 1.0, val, test, sigma))
    return runs


def better(direction, level, random):
    error = level * (1.0 + 0.01 * random.normal())
    return error if direction == "min" else 1.0 / error
