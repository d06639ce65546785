"""The saved form of the engine: tensors by name and tasks by name, nothing pickled as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["HostFlag", "SavedState", "read_state", "unmatched", "write_state"]

VERSION = 1

_NOT_NEGATIVE = {"count", "exp_avg_sq", "nonfinite", "absent"}
_MAY_BE_NAN = {"raw_loss"}  # a task that was not seen yet has none
_MAY_LACK = {"absent"}  # not counted by the first releases: it then counts from here


@dataclass(frozen=True)
class SavedState:
    """A checked state: the short form of the tasks, and tensors with one entry per task in their order."""

    tasks: dict[str, str | float]
    regularizer: str
    steps: int
    frozen: bool
    tensors: dict[str, Tensor]


def write_state(
    tasks: Mapping[str, str | float], regularizer: str, steps: int, frozen: bool, tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The form that :func:`read_state` reads; the tensors are copied to the CPU."""
    return {
        "version": VERSION,
        "tasks": list(tasks),
        "likelihoods": list(tasks.values()),
        "regularizer": regularizer,
        "steps": steps,
        "frozen": frozen,
        **{key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()},
    }


def unmatched(saved: Mapping[str, str | float], present: Mapping[str, str | float]) -> dict[str, str]:
    """A sentence for each task whose sigma cannot be restored, because it is not on both sides or is another kind."""
    sentences = {}
    for name in dict.fromkeys([*saved, *present]):
        if name not in present:
            sentences[name] = f"Task {name!r} is in the checkpoint but not among the tasks: its sigma was dropped."
        elif name not in saved:
            sentences[name] = f"Task {name!r} is not in the checkpoint: its sigma was not restored."
        elif saved[name] != present[name]:
            sentences[name] = (
                f"Task {name!r} was {saved[name]!r} in the checkpoint and is {present[name]!r} now: "
                "its sigma was not restored."
            )
    return sentences


def read_state(state: Any, tensors: Sequence[str]) -> SavedState:
    """Check all of a saved state before any of it is used.

    Raises:
        ValueError: if it is not a state of this package, is incomplete, of a newer version, or has tensors of a wrong
            shape or with NaN in them.
    """
    if not isinstance(state, Mapping):
        raise _error(f"it is of type {type(state).__name__}")
    expected = ("version", "tasks", "likelihoods", "regularizer", "steps", "frozen", *tensors)
    if missing := [key for key in expected if key not in state and key not in _MAY_LACK]:
        raise _error(f"it lacks {', '.join(map(repr, missing))}")
    if not _is_count(state["version"]) or not 1 <= state["version"] <= VERSION:
        raise _error(
            f"its version is {state['version']!r}, and this package reads up to {VERSION}: if it is newer, "
            "update lightning_uncertainty"
        )
    names, likelihoods = state["tasks"], state["likelihoods"]
    if not _are_tasks(names, likelihoods):
        raise _error(f"its task list {names!r} does not fit its likelihoods {likelihoods!r}")
    if not _is_count(state["steps"]) or not isinstance(state["frozen"], bool):
        raise _error(f"its steps are {state['steps']!r} and frozen is {state['frozen']!r}")
    if not isinstance(state["regularizer"], str):
        raise _error(f"its regularizer is {state['regularizer']!r}")
    zeros = torch.zeros(len(names), dtype=torch.long)
    checked = {key: _read_tensor(key, state.get(key, zeros), names) for key in tensors}
    tasks = dict(zip(names, likelihoods, strict=True))
    return SavedState(tasks, state["regularizer"], state["steps"], state["frozen"], checked)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_tasks(names: Any, likelihoods: Any) -> bool:
    if not (isinstance(names, list) and isinstance(likelihoods, list) and len(names) == len(likelihoods)):
        return False
    known = all(isinstance(likelihood, (str, float, int)) for likelihood in likelihoods)
    return known and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _read_tensor(key: str, value: Any, names: list[str]) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (len(names),):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise _error(f"{key!r} should be a tensor of shape ({len(names)},), one entry per task, and is {found}")
    if value.is_complex():
        raise _error(f"{key!r} is complex")
    if key in _NOT_NEGATIVE and bool((value < 0).any()):
        raise _error(f"{key!r} is negative: {value.tolist()}")
    if key not in _MAY_BE_NAN:
        broken = [name for name, fine in zip(names, torch.isfinite(value).tolist(), strict=True) if not fine]
        if broken:
            raise _error(f"{key!r} is not finite for {', '.join(map(repr, broken))}")
    return value


def _error(reason: str) -> ValueError:
    return ValueError(
        f"This is no usable state of UncertaintyWeighting: {reason}. Nothing was loaded. "
        "To go on without it, remove that entry from the checkpoint: the weights then start from the data."
    )


class HostFlag:
    """Follows a flag on the device that only ever goes from False to True, one poll late.

    Reading a device tensor stops the host until the device has caught up. Here the value travels to page-locked memory
    on its own, and is read at the next poll: by then it is the old value or the new one, and a late True costs nothing.
    """

    def __init__(self) -> None:
        self._landing: Tensor | None = None

    def poll(self, flag: Tensor) -> bool:
        """Whether ``flag`` (bool, of shape ()) was True at an earlier poll; starts the next look."""
        if self._landing is None:
            self._landing = torch.zeros((), dtype=torch.bool, pin_memory=flag.is_cuda)
        known = bool(self._landing.tolist())  # host memory: no device is asked
        self._landing.copy_(flag, non_blocking=True)
        return known
