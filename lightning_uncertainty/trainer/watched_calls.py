"""Calls inside the code of others, watched for as long as one ``training_step`` runs.

No watch outlives that, so that no copy, checkpoint or script of a module ever holds one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_uncertainty._arguments import suggest
from lightning_uncertainty.trainer.packages import is_compiled, trainer_around

__all__ = ["STEP", "NoLossesError", "logged_names", "offer", "watch_calls"]

Note = Callable[[Any, Any, Any, Any], None]
"""A function that gets the owner, the arguments, the named arguments and the output of a call."""
STEP = "training_step"
_LIKELY = re.compile("loss|criteri|objective", re.IGNORECASE)
_SHOWN = 5  # names in an error


class NoLossesError(TypeError):
    """The losses by name were not found where they should be."""


@contextmanager
def watch_calls(module: Any, path: str, note: Note) -> Iterator[None]:
    """Tell ``note`` of each call of the submodule, method or function at ``path`` that is made in this context.

    Raises:
        NoLossesError: If there is nothing to call at ``path``, or ``torch.compile`` hides the call.
    """
    owner, name, target = _find(module, path)
    if isinstance(target, nn.Module):
        handle = target.register_forward_hook(lambda *call: note(*call), with_kwargs=True)  # None keeps the output
        try:
            yield
        finally:
            handle.remove()
        return
    own = name in getattr(owner, "__dict__", ())
    object.__setattr__(owner, name, _Watched(target, note))
    try:
        yield
    finally:
        if own:
            object.__setattr__(owner, name, target)
        else:
            object.__delattr__(owner, name)


class _Watched:
    """Something to call whose calls are told of; in all else it is what it was."""

    def __init__(self, target: Any, note: Note) -> None:
        self._target, self._note = target, note

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self._target(*args, **kwargs)
        self._note(getattr(self._target, "__self__", self._target), args, kwargs, output)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def _find(module: Any, path: str) -> tuple[Any, str, Any]:
    """Return what is at ``path``: in which object, under which name, and itself."""
    owner, target, name, above = None, module, "", ""
    for name in path.split("."):
        owner, above = target, f"{above}{name}."
        try:
            if isinstance(owner, (list, tuple)):
                target = owner[int(name)]
            else:
                target = owner[name] if isinstance(owner, Mapping) else getattr(owner, name)
        except (AttributeError, LookupError, ValueError):
            beside = owner.named_children() if isinstance(owner, nn.Module) else ()
            known = [f"{above[: -len(name) - 1]}{child}" for child, _ in beside]
            raise NoLossesError(
                f"losses_from={path!r} leads nowhere in {type(module).__name__}: {type(owner).__name__} has no "
                f"{name!r}. Expected the path of a submodule or method. {suggest(path, [*known, *_likely(module)])}"
            ) from None
        for each in (owner, target):
            if isinstance(each, nn.Module) and is_compiled(each, inside=False):
                raise NoLossesError(
                    f"losses_from={path!r} is to be watched, and {type(each).__name__} is compiled as a whole, which "
                    "hides the call. Compile the network alone, for example `module.encoder.compile()`."
                )
    if not callable(target) or (not isinstance(target, nn.Module) and isinstance(owner, (list, tuple, Mapping))):
        raise NoLossesError(
            f"losses_from={path!r} leads to an object of type {type(target).__name__}. Expected a submodule, or a "
            f"method or function that is an attribute. {suggest(path, _likely(module))}"
        )
    return owner, name, target


def offer(module: Any, names: Mapping[str, Sequence[str]]) -> str:
    """Return how losses may be reached without a change to the module; ``names`` are what was seen, by path."""
    ways = []
    for path, found in names.items():
        if len(found) > 1:
            tasks = ", ".join(f'"{name}": ...' for name in found[:_SHOWN])
            where = "" if path == STEP else f', losses_from="{path}"'
            ways.append(
                f"If {', '.join(map(repr, found[:_SHOWN]))}, which it {'returns' if path == STEP else 'logs'}, are the "
                f"losses: `UncertaintyCallback({{{tasks}}}{where})`, with the likelihood of each."
            )
    if likely := _likely(module)[:_SHOWN]:
        ways.append(
            f'If they are made in {", ".join(map(repr, likely))}: `losses_from="{likely[0]}"`, with `split=function` '
            "unless it returns them by name."
        )
    return " ".join(ways)


def logged_names(module: Any, ours: Iterable[str]) -> list[str]:
    """Return the keys that a module has logged, but for those that end in one of ``ours``."""
    metrics = getattr(trainer_around(module), "callback_metrics", {})
    return [key for key in metrics if not key.endswith(tuple(ours))]


def _likely(module: Any) -> list[str]:
    """Return the paths of the submodules and methods that look like losses by their names or classes."""
    found = []
    for path, inner in module.named_modules():
        if path and _LIKELY.search(f"{path.rpartition('.')[2]} {type(inner).__name__}"):
            found.append(path)
        methods = [name for name in dir(type(inner)) if _LIKELY.search(name) and callable(getattr(type(inner), name))]
        found += [f"{path}.{name}" if path else name for name in methods]
    return sorted(found, key=lambda path: path.count("."))
