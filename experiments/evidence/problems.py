"""The nine problems: data, network and budget of each, and the weightings that a search by hand tries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch

from experiments.evidence.table import Table, TableData, TableNet
from lightning_uncertainty._arguments import lookup
from lightning_uncertainty.comparison.statistics import Direction
from lightning_uncertainty.demo.run import by_hand

__all__ = ["CONTROLS", "PROBLEMS", "TableProblem", "load"]

HAND_WEIGHTINGS = 9
HAND_FACTOR = 3.0


@dataclass(frozen=True)
class TableProblem:
    """A table and a network for it.

    Attributes:
        title: Name for people.
        units: True if the losses have different units or sizes, as they come.
        source: Module and function in :mod:`experiments.evidence.sets` that make the table of a seed.
        net: Class of the network, in the same module, by default :class:`TableNet`.
        seeds: Number of seeds; each has rows, a split and initial weights of its own.
        tuning: Number of the first seeds on whose validation rows all choices are made.
        steps: Optimizer steps of each training.
        batch_size: Rows in a batch.
        lrs: Learning rates to begin with.
        width: Width of the network.
    """

    title: str
    source: str
    units: bool = True
    net: str = ""
    seeds: int = 8
    tuning: int = 2
    steps: int = 400
    batch_size: int = 128
    lrs: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    width: int = 96

    def table(self, seed: int) -> Table:
        """Return the table of a seed."""
        return _table(self.source, seed)

    @property
    def directions(self) -> dict[str, Direction]:
        """``"min"`` or ``"max"`` for the metric of each task."""
        low = ("gaussian", "laplace")
        tasks = import_module(_module(self.source)).TASKS
        return {name: "min" if task["likelihood"] in low else "max" for name, task in tasks.items()}

    @property
    def hand(self) -> dict[str, dict[str, float]]:
        """The weightings that are tried by hand: that which standardises the labels, and others drawn around it.

        Each weight is that of the first times a factor, log-normal around 1 and mostly between a third and three.
        """
        table = self.table(0)
        first = by_hand({name: task["likelihood"] for name, task in table.tasks.items()}, table.scales)
        random = np.random.default_rng(0)
        drawn = HAND_FACTOR ** random.normal(size=(HAND_WEIGHTINGS - 1, len(first)))
        factors = np.concatenate([np.ones((1, len(first))), drawn])
        weights = np.array(list(first.values())) * factors
        return {f"hand_{index}": dict(zip(first, row, strict=True)) for index, row in enumerate(weights.tolist())}

    def make_data(self) -> TableData:
        """Return the data of the seed that was just set."""
        seed = torch.initial_seed()
        return TableData(self.table(seed), batch_size=self.batch_size, seed=seed)

    def make_net(self, lr: float) -> TableNet:
        """Return a new network for the data of the seed that was just set."""
        table = self.table(torch.initial_seed())
        net = getattr(import_module(_module(self.source)), self.net) if self.net else TableNet
        made: TableNet = net(
            dict(table.tasks),
            num_inputs=table.train[0].shape[1],
            classes=table.classes,
            scales=table.scales,
            width=self.width,
            lr=lr,
        )
        return made


def _module(source: str) -> str:
    return f"experiments.evidence.sets.{source.split('.')[0]}"


@cache
def _table(source: str, seed: int) -> Table:
    made: Table = getattr(import_module(_module(source)), source.split(".")[1])(seed)
    return made


PROBLEMS = {
    "scenes": "experiments.evidence.sets.scenes:ScenesProblem",  # those that take longest go first
    "yeast": TableProblem("yeast, 14 labels (control)", "yeast.genes", units=False, steps=250, width=64),
    "dollars": TableProblem("diamonds, in dollars", "diamonds.dollars"),
    "diamonds": TableProblem("diamonds, standardised", "diamonds.standardised", units=False),
    "flights": TableProblem("flights, in minutes", "flights.delays", width=64),
    "weather": TableProblem("sun and weather (TMY3)", "weather.weather"),
    "fluids": TableProblem("water (CoolProp), in SI units", "fluids.water"),
    "modules": TableProblem("solar modules (CEC), in their units", "modules.parameters"),
    "signals": TableProblem("MNIST-1D, digit and transforms", "signals.digits", net="SignalNet", width=64),
}
"""The problems by name. Their packages are imported when they are used."""

CONTROLS: dict[str, TableProblem] = {}
"""Further problems, of :mod:`experiments.evidence.why`."""


def load(name: str) -> Any:
    """Return a problem by name."""
    problem = lookup("problem", name, {**PROBLEMS, **CONTROLS})
    if isinstance(problem, str):
        module, attribute = problem.split(":")
        return getattr(import_module(module), attribute)()
    return problem
