"""The laboratory: the same module and data with equal, learned and other weights, over several seeds."""

from lightning_uncertainty.comparison.arms import ComparisonError
from lightning_uncertainty.comparison.result import ComparisonResult, FinishedRun
from lightning_uncertainty.comparison.runs import RunError
from lightning_uncertainty.comparison.statistics import Interval, MeanRelativeGain, relative_gain, t_interval
from lightning_uncertainty.comparison.study import compare

__all__ = [
    "ComparisonError",
    "ComparisonResult",
    "FinishedRun",
    "Interval",
    "MeanRelativeGain",
    "RunError",
    "compare",
    "relative_gain",
    "t_interval",
]
