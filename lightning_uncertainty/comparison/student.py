"""Student's t distribution for whole degrees of freedom: all that an interval over a few seeds needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Interval", "t_interval", "t_quantile"]


@dataclass(frozen=True)
class Interval:
    """A mean and the limits of what it may be.

    Attributes:
        mean: of the values.
        low: lower limit.
        high: upper limit.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of it lies on one side of 0."""
        return self.low > 0.0 or self.high < 0.0


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    r"""The confidence interval of the mean of normally distributed ``values``; None for fewer than two.

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
    """What a t-distributed number stays below with ``probability``: by bisection, to double precision.

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
    """The probability of less than ``t >= 0``: Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even)."""
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
