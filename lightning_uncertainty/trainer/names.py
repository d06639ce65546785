"""The names that UncertaintyMixin takes in a module, and the way out for a module that has them already."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from lightning_uncertainty.tasks import parse_tasks
from lightning_uncertainty.weighting import UncertaintyWeighting

__all__ = ["TAKEN", "check_class", "check_value"]

TAKEN = {
    "tasks": 'the tasks whose losses are weighed, for example {"depth": "laplace"}',
    "uncertainty": "the engine that holds their weights",
    "weigh": "the method that weighs their losses",
}


def check_value(kind: type, name: str, value: Any) -> None:
    """Check what an instance of ``kind`` is to have under one of the names in :data:`TAKEN`.

    A method ``weigh`` may stand over that of the mixin, or around it as ``torch.compile`` does, if it leads there.

    Raises:
        TypeError: if it is something else than the mixin means by that name.
        ValueError: if it is meant as tasks, and they are not valid.
    """
    if name == "weigh" and callable(value):
        code = getattr(inspect.unwrap(value), "__code__", None)
        if code is not None and {"weigh", "uncertainty"} & {*code.co_names}:
            return
    if name == "uncertainty" and isinstance(value, UncertaintyWeighting):
        return
    if name != "tasks" or callable(value) or isinstance(value, (str, Tensor, nn.Module)):
        raise TypeError(_clash(kind, name, value))
    # None leaves the tasks to the callback; what is empty may be filled later, and an iterator can be read only once.
    if value is None or isinstance(value, Iterator) or (isinstance(value, Iterable) and not [*value]):
        return
    try:
        parse_tasks(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error} {_clash(kind, name, value)}") from None


def check_class(kind: type, mixin: type) -> None:
    """Check the names in :data:`TAKEN` in the bodies of a class and of its bases other than ``mixin``.

    Raises:
        TypeError, ValueError: as :func:`check_value`.
    """
    for body in (vars(base) for base in kind.__mro__ if base is not mixin):
        for name in TAKEN.keys() & body.keys():
            value = body[name]
            computed = hasattr(type(value), "__get__") and not (callable(value) or isinstance(value, classmethod))
            if not (name == "tasks" and computed):  # a property, whose value is not known yet
                check_value(kind, name, value)


def _clash(kind: type, name: str, value: Any) -> str:
    found = value.__name__ if inspect.isclass(value) else f"an object of type {type(value).__name__}"
    return (
        f"{kind.__name__}.{name} is a name of UncertaintyMixin: {TAKEN[name]}; found {found}. If it is meant as "
        f"something else, give it another name, for example `own_{name}`."
    )
