"""Strategies say how the factors before the losses follow from the losses."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_uncertainty._arguments import lookup, suggest
from lightning_uncertainty.engine.state import TaskTensors
from lightning_uncertainty.strategies.base import Strategy
from lightning_uncertainty.strategies.dwa import DWA
from lightning_uncertainty.strategies.fixed import Equal, Fixed
from lightning_uncertainty.strategies.geometric_mean import GeometricMean
from lightning_uncertainty.strategies.initial import Initial
from lightning_uncertainty.strategies.live import LiveRule
from lightning_uncertainty.strategies.log_sum import LogSum
from lightning_uncertainty.strategies.random import Random
from lightning_uncertainty.strategies.uncertainty import Uncertainty
from lightning_uncertainty.strategies.uw_so import UWSO
from lightning_uncertainty.strategies.weights import WeightRule

__all__ = [
    "DWA",
    "STRATEGIES",
    "UWSO",
    "Equal",
    "Fixed",
    "GeometricMean",
    "Initial",
    "LiveRule",
    "LogSum",
    "Random",
    "Strategy",
    "TaskTensors",
    "Uncertainty",
    "WeightRule",
    "check_options",
    "get_strategy",
]

_ALL = (Uncertainty, Equal, Fixed, Initial, LogSum, GeometricMean, UWSO, DWA, Random)

STRATEGIES: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in _ALL}
"""The strategies that ``strategy="..."`` knows, by their short form."""


def get_strategy(strategy: str | Strategy) -> Strategy:
    """Return a new strategy: the one of that name with its default settings, or a copy that no other engine shares.

    Raises:
        ValueError: if there is none of that name, or it is a class, or one of your own has no name.
    """
    if isinstance(strategy, type):
        kind = strategy.__name__
        raise ValueError(f"The strategy {kind} is a class. Expected an object: write `strategy={kind}()`.")
    if not isinstance(strategy, Strategy):
        return lookup("strategy", strategy, STRATEGIES)()
    if not isinstance(getattr(strategy, "name", None), str):
        kind = type(strategy).__name__
        raise ValueError(f"The strategy {kind} has no name for checkpoints. Write `name = {kind.lower()!r}` into it.")
    return copy.deepcopy(strategy)


def check_options(options: Mapping[str, Any], strategy: str | Strategy, known: Iterable[str]) -> None:
    """Check the settings of :class:`Uncertainty` that stand beside ``strategy``.

    Raises:
        TypeError: if there is no such setting.
        ValueError: if one has another value than its default, and another strategy is chosen.
    """
    settings = inspect.signature(Uncertainty).parameters
    for name, value in options.items():
        if name not in settings:
            raise TypeError(f"There is no option {name!r}. {suggest(name, known)}")
        if strategy != Uncertainty.name and value != settings[name].default:
            raise ValueError(
                f'{name}={value!r} would have no effect: only strategy="uncertainty" has such a setting. Leave it out, '
                f"or write strategy=Uncertainty({name}={value!r})."
            )
