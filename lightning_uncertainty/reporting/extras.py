"""Packages that only some parts need: looked for when those are used, and named with the command that installs them."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["MissingExtraError", "require"]


class MissingExtraError(ModuleNotFoundError):
    """A package of an optional extra is not installed. The message is one line with the command that installs it."""


def require(extra: str, *modules: str) -> None:
    """Make sure that ``modules`` can be imported, without importing them.

    Args:
        extra: the extra of this package that brings them.
        modules: top-level names.

    Raises:
        MissingExtraError: if one cannot.

    >>> require("demo", "pandas", "no_such_package")
    Traceback (most recent call last):
        ...
    lightning_uncertainty.reporting.extras.MissingExtraError: 'no_such_package' is not installed, and this needs it: pip install "lightning-uncertainty[demo]"
    """  # noqa: E501  # the message is one line
    if missing := [module for module in modules if find_spec(module) is None]:
        names, needs = ", ".join(map(repr, missing)), "is not installed, and this needs it"
        if len(missing) > 1:
            needs = "are not installed, and this needs them"
        raise MissingExtraError(f'{names} {needs}: pip install "lightning-uncertainty[{extra}]"')
