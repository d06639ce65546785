"""Looking things up by name, with an answer for the name that is not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(kind: str, name: object, known: Mapping[str, T]) -> T:
    """``known[name]``, or a ``ValueError`` that lists the known names and the closest one."""
    if isinstance(name, str) and name in known:
        return known[name]
    raise ValueError(f"Unknown {kind} {name!r}. {suggest(name, known)}")


def suggest(name: object, known: Iterable[str]) -> str:
    """A sentence that lists the known names, led by the closest one.

    >>> suggest("dpth", ["depth", "normals"])
    "Did you mean 'depth'? Known: 'depth', 'normals'."
    """
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(map(repr, names))}."


def file_stem(key: str) -> str:
    """A logger's key as part of the name of a file.

    >>> file_stem("train/mtl")
    'train_mtl'
    """
    return re.sub(r"[^\w.\-]+", "_", key)
