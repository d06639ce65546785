"""Relative gains against a baseline, and their intervals over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_uncertainty._arguments import check_choice, lookup, require

Direction = Literal["min", "max"]
"""The direction in which a metric is better: less or more."""


def relative_gain(value: float, reference: float, *, higher_is_better: bool) -> float:
    """Return the change in percent of the reference, positive where ``value`` is better; NaN for a reference of 0.

    >>> relative_gain(75.0, 100.0, higher_is_better=False)
    25.0
    """
    if reference == 0.0:
        return math.nan
    change = 100.0 * (value - reference) / abs(reference)
    return change if higher_is_better else -change


class MeanRelativeGain(Metric):
    r"""The mean relative gain over a baseline, in percent: one number for a network with several tasks.

    .. math:: \Delta = \frac{100}{T} \sum_{t=1}^{T} (-1)^{l_t} \frac{M_t - B_t}{|B_t|}

    - ``M_t`` is metric ``t`` of the network, the mean over all updates and processes,
    - ``B_t`` the same metric of the baseline,
    - ``l_t`` is 1 where less is better, else 0; so positive is better.

    It is the multi-task performance of Maninis, Radosavovic and Kokkinos, "Attentive Single-Tasking of Multiple Tasks",
    CVPR 2019, in percent; the absolute value below keeps the sign right for metrics that can be negative. The mean is
    NaN if a metric has a baseline of 0 or was never given: leave it out. Each update reads its values on the host.

    Args:
        baseline: Metrics of the baseline, by name.
        directions: ``"min"`` or ``"max"`` for each of them.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if there are no metrics, the names differ, or a direction is neither ``"min"`` nor ``"max"``.

    Example:
        >>> gain = MeanRelativeGain({"price": 800.0, "accuracy": 0.5}, {"price": "min", "accuracy": "max"})
        >>> gain.update({"price": 720.0, "accuracy": 0.55})
        >>> gain.compute()
        tensor(10.)
        >>> {name: round(value.item(), 4) for name, value in gain.gains().items()}
        {'price': 10.0, 'accuracy': 10.0}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    gain_sum: Tensor
    count: Tensor

    def __init__(self, baseline: Mapping[str, float], directions: Mapping[str, Direction], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_directions(directions)
        if set(baseline) != set(directions):
            raise ValueError(f"baseline and directions must name the same metrics; got {[*baseline]}, {[*directions]}.")
        self.directions = dict(directions)
        self.baseline = {name: float(baseline[name]) for name in directions}
        # The gain is linear in the metric: the mean of the gains is the gain of the mean, and sums can be reduced.
        self.add_state("gain_sum", torch.zeros(len(directions)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(directions)), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, float | Tensor]) -> None:
        """Take in the metrics of one evaluation, some or all; ``ValueError`` if the baseline lacks one of them."""
        for name in values:
            lookup("metric of the baseline", name, self.baseline)
        for index, (name, reference) in enumerate(self.baseline.items()):
            if name in values:
                higher = self.directions[name] == "max"
                self.gain_sum[index] += relative_gain(float(values[name]), reference, higher_is_better=higher)
                self.count[index] += 1

    def compute(self) -> Tensor:
        """The mean over the metrics, a scalar, in percent."""
        return (self.gain_sum / self.count).mean()

    def gains(self) -> dict[str, Tensor]:
        """The gain of each metric, in percent; of this process only."""
        return dict(zip(self.baseline, self.gain_sum / self.count, strict=True))


def check_directions(directions: Mapping[str, str]) -> None:
    """Raise ``ValueError`` unless there are metrics, each with ``"min"`` or ``"max"``."""
    if not directions:
        raise ValueError('There are no metrics to compare by. Name at least one, for example {"val/loss": "min"}.')
    for name, direction in directions.items():
        check_choice(f"The direction of metric {name!r}", direction, ("min", "max"))


@dataclass(frozen=True)
class Interval:
    """A mean with its lower and upper limit.

    Attributes:
        mean: The mean.
        low: The lower limit.
        high: The upper limit.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval lies on one side of 0."""
        return self.low > 0.0 or self.high < 0.0


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return the confidence interval of the mean of normally distributed ``values``; None for fewer than two.

    It is ``mean +- t s / sqrt(n)``, with ``n - 1`` in the denominator of the standard deviation ``s`` and as degrees of
    freedom of Student's ``t``. Given the differences of pairs, it is the paired interval. NaN and infinity among the
    values make its limits NaN.

    >>> interval = t_interval([1.0, 2.0, 3.0])
    >>> f"{interval.mean:.2f}: {interval.low:.3f} to {interval.high:.3f}"
    '2.00: -0.484 to 4.484'
    """
    if len(values) < 2:
        return None
    if not all(map(math.isfinite, values)):
        return Interval(math.nan, math.nan, math.nan)
    require("compare", "scipy")
    from scipy import stats

    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = error * float(stats.t.ppf(0.5 + 0.5 * confidence, len(values) - 1))
    return Interval(mean, mean - half, mean + half)
