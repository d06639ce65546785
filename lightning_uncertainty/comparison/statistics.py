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

from lightning_uncertainty._arguments import check_choice, suggest

__all__ = ["Direction", "Interval", "MeanRelativeGain", "check_directions", "relative_gain", "t_interval", "t_quantile"]

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
    CVPR 2019, in percent, with the absolute value of the baseline below, so that the sign stays right for metrics that
    can be negative.

    A metric whose baseline is 0 has no relative gain, and one that was never given has no value: theirs is NaN, and so
    is the mean. Leave such a metric out, or choose another for its task. Each update reads its values on the host.

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
            raise ValueError(
                f"baseline and directions must name the same metrics; got {', '.join(map(repr, baseline))} "
                f"and {', '.join(map(repr, directions))}."
            )
        self.directions = dict(directions)
        self.baseline = {name: float(baseline[name]) for name in directions}
        # The gain is linear in the metric: the mean of the gains is the gain of the mean, and sums can be reduced.
        self.add_state("gain_sum", torch.zeros(len(directions)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(directions)), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, float | Tensor]) -> None:
        """Take in the metrics of one evaluation, some or all.

        Raises:
            ValueError: if the baseline does not have one of them.
        """
        for name in values:
            if name not in self.baseline:
                raise ValueError(f"The baseline has no metric {name!r}. {suggest(name, self.baseline)}")
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
        mean: Mean of the values.
        low: Lower limit.
        high: Upper limit.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval lies on one side of 0."""
        return self.low > 0.0 or self.high < 0.0


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    r"""Return the confidence interval of the mean of normally distributed ``values``; None for fewer than two.

    .. math:: \bar x \pm t_{n-1} \, s / \sqrt n

    - ``s`` is the standard deviation with ``n - 1`` in the denominator,
    - ``t`` the quantile of Student's distribution with ``n - 1`` degrees of freedom at ``(1 + confidence) / 2``.

    Given the differences of pairs, it is the paired interval. NaN and infinity among the values make its limits NaN.

    >>> interval = t_interval([1.0, 2.0, 3.0])
    >>> f"{interval.mean:.2f}: {interval.low:.3f} to {interval.high:.3f}"
    '2.00: -0.484 to 4.484'
    """
    if len(values) < 2:
        return None
    if not all(map(math.isfinite, values)):
        return Interval(math.nan, math.nan, math.nan)
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    half = t_quantile(0.5 + 0.5 * confidence, len(values) - 1) * spread / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def t_quantile(probability: float, degrees: int) -> float:
    """Return the number that a t-distributed one stays below with ``probability``, by bisection, to double precision.

    >>> round(t_quantile(0.975, 2), 4)
    4.3027
    """
    if probability < 0.5:
        return -t_quantile(1.0 - probability, degrees)
    low, high = 0.0, 1.0
    while _distribution(high, degrees) < probability:
        low, high = high, 2.0 * high
    while low < (middle := 0.5 * (low + high)) < high:
        if _distribution(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return high


def _distribution(t: float, degrees: int) -> float:
    """Return the probability of less than ``t >= 0``: Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for n in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine**2 * (n - 1) / n
    two_sided = 2.0 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + 0.5 * two_sided
