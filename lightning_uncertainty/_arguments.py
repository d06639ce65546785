"""Arguments and how they are checked and saved, suggestions for names that are not known, and missing extras."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from numbers import Integral, Real
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def as_number(value: Any) -> int | float | None:
    """Return a number as Python's own, also one of numpy or of an array without axes; None for anything else.

    True and False are no numbers.
    """
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def check_steps(name: str, value: object) -> int:
    """Return ``value`` as a whole number that is not negative."""
    number = as_number(value)
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"{name} must be a number of steps that is not negative; got {value!r}.")
    return number


def check_number(name: str, value: object, *, above: float = -math.inf, below: float = math.inf) -> float:
    """Return ``value`` as a float that is finite and lies in [above, below)."""
    number = as_number(value)
    if number is None or not (math.isfinite(number) and above <= number < below):
        limits = f" of at least {above:g}" if above > -math.inf else ""
        limits += f"{' and' if limits else ''} less than {below:g}" if below < math.inf else ""
        raise ValueError(f"{name} must be a finite number{limits}; got {value!r}.")
    return float(number)


def check_init(init: object) -> float | Literal["auto"]:
    """Return ``init`` as a float or ``"auto"``."""
    if isinstance(init, str) and init == "auto":
        return "auto"
    try:
        return check_number("init", init)
    except ValueError:
        raise ValueError(f'init must be "auto" or a finite log-variance, for example 0.0; got {init!r}.') from None


def check_bounds(bounds: object) -> tuple[float, float]:
    """Return ``bounds`` as two ordered floats."""
    limits = [as_number(bound) for bound in bounds] if isinstance(bounds, Iterable) else []
    if len(limits) == 2 and None not in limits and limits[0] < limits[1]:  # type: ignore[operator]
        return float(limits[0]), float(limits[1])  # type: ignore[arg-type]
    raise ValueError(f"bounds must be (lowest, highest) log-variances, for example (-40.0, 40.0); got {bounds!r}.")


class Setting:
    """A class that users write into configurations, and so into checkpoints: it loads with ``weights_only=True``.

    So do its subclasses, also those of the user: to define a class is to trust it.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        import torch  # here, because the command line answers without it

        super().__init_subclass__(**kwargs)
        torch.serialization.add_safe_globals([cls])


def lookup(kind: str, name: object, known: Mapping[str, T]) -> T:
    """Return ``known[name]``, or raise a ``ValueError`` that lists the known names and the closest one."""
    if isinstance(name, str) and name in known:
        return known[name]
    raise ValueError(f"Unknown {kind} {name!r}. {suggest(name, known)}")


def suggest(name: object, known: Iterable[str]) -> str:
    """Return a sentence that lists the known names, led by the closest one.

    >>> suggest("dpth", ["depth", "normals"])
    "Did you mean 'depth'? Known: 'depth', 'normals'."
    """
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {listed(names)}."


def listed(names: Iterable[object], most: int = 12) -> str:
    """Return names for a sentence: the first ones, and how many more there are.

    >>> listed(["depth", "normals", "edges"], most=1)
    "'depth' and 2 more"
    """
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def file_stem(key: str) -> str:
    """Return a logger's key as part of the name of a file, on any system: for Windows, ``aux.html`` is a device.

    >>> file_stem("train/mtl"), file_stem("aux")
    ('train_mtl', 'aux_')
    """
    stem = re.sub(r"[^\w.\-]+", "_", key)
    return re.sub(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", r"\1_", stem)


class MissingExtraError(ModuleNotFoundError):
    """A package of an optional extra is not installed. The message is one line with the command that installs it."""


def require(extra: str, *modules: str) -> None:
    """Raise ``MissingExtraError`` unless all ``modules``, which ``extra`` brings, can be imported; import none.

    >>> require("demo", "pandas", "no_such_package")
    Traceback (most recent call last):
        ...
    lightning_uncertainty._arguments.MissingExtraError: 'no_such_package' is not installed, and this needs it: pip install "lightning-uncertainty[demo]"
    """  # noqa: E501  # the message is one line
    if missing := [module for module in modules if find_spec(module) is None]:
        needs = "are not installed, and this needs them" if missing[1:] else "is not installed, and this needs it"
        names = ", ".join(map(repr, missing))
        raise MissingExtraError(f'{names} {needs}: pip install "lightning-uncertainty[{extra}]"')
