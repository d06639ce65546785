"""Strategies say how the factors before the losses follow from the losses."""

from lightning_uncertainty.strategies.base import Strategy
from lightning_uncertainty.strategies.fixed import Fixed
from lightning_uncertainty.strategies.uncertainty import Uncertainty

__all__ = ["STRATEGIES", "Fixed", "Strategy", "Uncertainty"]

STRATEGIES: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in (Uncertainty, Fixed)}
"""The strategies that ``strategy="..."`` knows, by their short form."""
