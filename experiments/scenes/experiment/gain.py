"""The one number of a row: how much better it is than one net per task."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from experiments.scenes.model.metrics import METRICS
from lightning_uncertainty.comparison.statistics import relative_gain

__all__ = ["mean_relative_gain"]


def mean_relative_gain(metrics: Mapping[str, float], single: Mapping[str, float]) -> float:
    """The mean over the tasks in ``metrics`` of the change against the single-task net, in percent, positive if better.

    Args:
        metrics: by task.
        single: of the single-task nets, by task.

    >>> single = {"semantic": 60.0, "instance": 2.0, "depth": 0.5}
    >>> round(mean_relative_gain({"semantic": 66.0, "depth": 0.4}, single), 6)
    15.0
    """
    return fmean(
        relative_gain(value, single[task], higher_is_better=METRICS[task].higher_is_better)
        for task, value in metrics.items()
    )
