"""The data sets that the demo knows."""

from __future__ import annotations

from lightning_uncertainty.demo.dataset import DataSet
from lightning_uncertainty.demo.diamonds import DIAMONDS
from lightning_uncertainty.demo.flights import FLIGHTS

__all__ = ["DATA_SETS"]

DATA_SETS: dict[str, DataSet] = {data.name: data for data in (DIAMONDS, FLIGHTS)}
"""By the name that the user writes after ``--data``."""
