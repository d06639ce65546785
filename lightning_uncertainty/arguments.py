"""Checks of arguments: the value as it is meant, or an error that says what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

__all__ = ["check_bounds", "check_choice", "check_init", "check_number", "check_steps"]


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_steps(name: str, value: object) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a number of steps that is not negative; got {value!r}.")


def check_number(name: str, value: object, *, above: float = -math.inf, below: float = math.inf) -> float:
    """``value`` as a float that is finite and lies in [above, below)."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and above <= value < below):  # type: ignore[arg-type, operator]
        limits = f" of at least {above:g}" if above > -math.inf else ""
        limits += f"{' and' if limits else ''} less than {below:g}" if below < math.inf else ""
        raise ValueError(f"{name} must be a finite number{limits}; got {value!r}.")
    return float(value)  # type: ignore[arg-type]


def check_init(init: object) -> float | Literal["auto"]:
    """``init`` as a float or ``"auto"``."""
    if init == "auto":
        return "auto"
    try:
        return check_number("init", init)
    except ValueError:
        raise ValueError(f'init must be "auto" or a finite log-variance, for example 0.0; got {init!r}.') from None


def check_bounds(bounds: object) -> tuple[float, float]:
    """``bounds`` as two ordered floats."""
    if isinstance(bounds, Iterable) and not isinstance(bounds, str):
        lowest_highest = tuple(bounds)
        numbers = all(isinstance(bound, (int, float)) for bound in lowest_highest)
        if len(lowest_highest) == 2 and numbers and lowest_highest[0] < lowest_highest[1]:
            return float(lowest_highest[0]), float(lowest_highest[1])
    raise ValueError(f"bounds must be (lowest, highest) log-variances, for example (-40.0, 40.0); got {bounds!r}.")
