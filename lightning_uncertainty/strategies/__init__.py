"""Strategies say how the factors before the losses follow from the losses."""

from __future__ import annotations

import copy

from lightning_uncertainty._arguments import lookup
from lightning_uncertainty.strategies.base import Strategy
from lightning_uncertainty.strategies.fixed import Fixed
from lightning_uncertainty.strategies.uncertainty import Uncertainty

__all__ = ["STRATEGIES", "Fixed", "Strategy", "Uncertainty", "get_strategy"]

STRATEGIES: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in (Uncertainty, Fixed)}
"""The strategies that ``strategy="..."`` knows, by their short form."""


def get_strategy(strategy: str | Strategy) -> Strategy:
    """Return a new strategy: the one of that name with its default settings, or a copy that no other engine shares.

    Raises:
        ValueError: if there is none of that name.
    """
    if isinstance(strategy, Strategy):
        return copy.deepcopy(strategy)
    return lookup("strategy", strategy, STRATEGIES)()
