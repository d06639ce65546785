"""The state of the engine: dataclasses of tensors with one entry per task.

What is saved, moved to another device and shown in a snapshot follows from the fields of these dataclasses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_uncertainty.engine.window import Array, WindowMeans, host_values, is_few

__all__ = [
    "EngineState",
    "HostFlags",
    "TaskTensors",
    "move_tensors",
    "newest",
    "rows_later",
]


@dataclass
class TaskTensors:
    """Named tensors of shape (K,), one entry per task.

    A subclass adds a quantity as one more field. The metadata of a field say what its saved values may be:
    ``may_be_nan`` (by default False), ``negative`` (by default True), and ``missing``, the value for all tasks where a
    state lacks the field because an older version saved it; without, such a state is refused. ``shown`` (by default
    True) says whether a snapshot has the field.
    """

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by field; not copies."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def views(self, *names: str) -> list[Any]:
        """Return tensors on a CPU as arrays that share their memory, or views of Python's own for a few tasks.

        They are made once, since each costs three operations.
        """
        tensors, known = vars(self), self._views.get(names)
        if known is not None:
            for name, tensor in known[0]:
                if tensors[name] is not tensor:
                    break
            else:
                return known[1]
        arrays = [tensors[name].numpy() for name in names]
        found = [memoryview(each) if is_few(each) else each for each in arrays]
        self._views[names] = [(name, tensors[name]) for name in names], found
        return found

    @functools.cached_property
    def _views(self) -> dict[tuple[str, ...], tuple[list[tuple[str, Tensor]], list[Any]]]:
        return {}

    def __getstate__(self) -> dict[str, Tensor]:
        """Return what a copy has: its arrays share the memory of its own tensors."""
        vars(self).pop("_views", None)  # a copy for another process moves the tensors to shared memory
        return self.tensors()

    def to(self, device: torch.device) -> None:
        """Move all tensors to ``device``, as copies."""
        for name, tensor in self.tensors().items():
            setattr(self, name, tensor.to(device, copy=True))

    def rules(self) -> dict[str, Mapping[str, Any]]:
        """Return the metadata of each field."""
        return {each.name: each.metadata for each in fields(self)}

    def columns(self) -> dict[str, Tensor]:
        """Return what a snapshot shows of each task, each of shape (K,); by default the fields that are ``shown``."""
        rules = self.rules()
        return {key: tensor for key, tensor in self.tensors().items() if rules[key].get("shown", True)}


def move_tensors(holder: Any, device: torch.device) -> None:
    """Move the tensors among the attributes of ``holder`` to ``device``, as copies."""
    for name, value in vars(holder).items() if holder is not None else ():
        if isinstance(value, Tensor):
            setattr(holder, name, value.to(device, copy=True))


def rows_later(columns: Mapping[str, Tensor], names: Iterable[str]) -> Callable[[], dict[str, dict[str, float]]]:
    """Return a function that gives the present values of ``columns``, each of shape (K,), by task and column.

    They are rounded to single precision. The one transfer to the host waits until the function is called.
    """
    table = torch.stack([tensor.to(torch.float32) for tensor in columns.values()], dim=1)

    def read() -> dict[str, dict[str, float]]:
        return {name: dict(zip(columns, row, strict=True)) for name, row in zip(names, table.tolist(), strict=True)}

    return read


_UNSHOWN = {"missing": 0.0, "may_be_nan": True, "shown": False}
_LOWEST_RATIO = 1e-6


@dataclass
class EngineState(TaskTensors):
    """The memory of the engine of each task, whatever the strategy.

    Attributes:
        raw_loss: The mean loss of the last step with that task, over micro-batches and ranks; NaN before the first, and
            for all tasks after a step in which no loss was finite.
        lowest_loss: The lowest such mean so far; 0 if none was negative.
        nonfinite: The number of losses that were NaN or infinite.
        absent: The number of steps without the task.
        cut: bool: True if the factor was once beyond the range of a loss in fp16.
        dropped: The number of times that the task was weighed and the network did not learn from it.
        dead: The number of steps in which losses came, and none of any task was finite.
        epoch_loss: The sum of the mean losses of the steps of this epoch.
        epoch_steps: The number of these steps.
        epoch_ended: bool: True if the strategy was told that the epoch has ended; the same for all tasks.
        base_loss: The loss of which the relative loss is a part; negative in the first epoch of a task, 0 before it.
        val_loss, val_base_loss: The same of validations: the mean loss of the last one, and the base of it.
        val_shift: The logarithm of the number that validation would multiply the variances of a head by, or of the
            temperature that it would divide logits by; 0 where unknown.
        trust: The part of the way from the plain sum to the learned weights, see
            :class:`~lightning_uncertainty.engine.guard.Guard`.
        held: bool: True if the task stays at the factor of the plain sum.
        first_log, last_log, mean_log, lowest_log, spread_log: The logarithms of the first and of the last loss, their
            average over some steps, its lowest value in the plain sum, and the mean distance of two in a row.
        mean_steps: The number of steps in that average.
        guarded: The number of steps since the first loss that the guard has seen.
    """

    raw_loss: Tensor = field(metadata={"may_be_nan": True})
    lowest_loss: Tensor = field(metadata={"missing": 0.0})
    nonfinite: Tensor = field(metadata={"negative": False})
    absent: Tensor = field(metadata={"negative": False, "missing": 0.0})
    cut: Tensor = field(metadata={"missing": 0.0})
    dropped: Tensor = field(metadata={"negative": False, "missing": 0.0})
    dead: Tensor = field(metadata={"negative": False, "missing": 0.0})
    epoch_loss: Tensor = field(metadata=_UNSHOWN)
    epoch_steps: Tensor = field(metadata={**_UNSHOWN, "negative": False})
    epoch_ended: Tensor = field(metadata={"missing": 0.0, "shown": False})
    base_loss: Tensor = field(metadata=_UNSHOWN)
    val_loss: Tensor = field(metadata=_UNSHOWN)
    val_base_loss: Tensor = field(metadata=_UNSHOWN)
    val_shift: Tensor = field(metadata=_UNSHOWN)
    trust: Tensor = field(metadata={"negative": False, "missing": 1.0})
    held: Tensor = field(metadata={"missing": 0.0})
    first_log: Tensor = field(metadata={"missing": 0.0, "shown": False})
    lowest_log: Tensor = field(metadata={"missing": 0.0, "may_be_nan": True, "shown": False})
    mean_log: Tensor = field(metadata={"missing": 0.0, "shown": False})
    last_log: Tensor = field(metadata={"missing": 0.0, "shown": False})
    spread_log: Tensor = field(metadata={"missing": 0.0, "negative": False, "shown": False})
    mean_steps: Tensor = field(metadata={"negative": False, "missing": 0.0, "shown": False})
    guarded: Tensor = field(metadata={"negative": False, "missing": 1e9, "shown": False})

    @classmethod
    def of(cls, size: int) -> EngineState:
        """Return the state of ``size`` tasks before the first step."""
        first = {"raw_loss": math.nan, "trust": 1.0, "lowest_log": math.inf}
        kinds = {"nonfinite": torch.long, "absent": torch.long, "dropped": torch.long, "dead": torch.long}
        kinds |= dict.fromkeys(("cut", "held", "epoch_ended"), torch.bool)
        kinds |= {"mean_steps": torch.long, "guarded": torch.long}
        names = (each.name for each in fields(cls))
        return cls(**{n: torch.full((size,), first.get(n, 0), dtype=kinds.get(n, torch.float32)) for n in names})

    def remember(self, means: WindowMeans) -> None:
        """Update by one step."""
        if means.whole:  # there is nothing to count
            self.remember_on_host(host_values(means.raw_loss))
            return
        self.raw_loss, dead = newest(means, self.raw_loss)
        self.dead += dead
        self.epoch_loss = torch.where(means.present, self.epoch_loss + means.raw_loss, self.epoch_loss)
        self.epoch_steps += means.present
        self.lowest_loss = torch.fmin(self.lowest_loss, self.raw_loss)
        self.nonfinite += means.refused
        missed = ~means.present
        if means.dropped is not None:
            self.dropped += means.dropped
            missed &= means.used & means.dropped.eq(0)
        self.absent += missed

    def remember_on_host(self, loss: list[float] | Array) -> None:
        """Update by one step in which all tasks took part, on a CPU."""
        last, total, steps, lowest = self.views("raw_loss", "epoch_loss", "epoch_steps", "lowest_loss")
        if isinstance(loss, list):
            for index, value in enumerate(loss):
                last[index] = value
                total[index] += value
                steps[index] += 1.0
                lowest[index] = min(lowest[index], value)
        else:
            self._remember_many(loss, last, total, steps, lowest)

    @staticmethod
    @np.errstate(all="ignore")  # of losses at the end of the range
    def _remember_many(loss: Array, last: Array, total: Array, steps: Array, lowest: Array) -> None:
        last[:] = loss
        total += loss
        steps += 1.0
        np.fmin(lowest, loss, out=lowest)

    def columns(self) -> dict[str, Tensor]:
        return {**super().columns(), "ratio": self.ratios(self.epoch_loss / self.epoch_steps, self.base_loss)}

    def ratios(self, loss: Tensor, base: Tensor) -> Tensor:
        """Return ``loss / base`` for the tasks that take part in the relative loss, NaN for the others.

        A ratio is at least 1e-6, so that a loss of 0 leaves the others a say. A negative base is that of a task that
        waits for the end of its first epoch, unless all do.
        """
        fit = (base != 0.0) & (self.lowest_loss >= 0.0) & (loss >= 0.0)
        fit &= (base > 0.0) | ~(fit & (base > 0.0)).any()
        return torch.where(fit, (loss / base.abs()).clamp(min=_LOWEST_RATIO), torch.nan)


def newest(means: WindowMeans, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last loss of each task, NaN for all if losses came and none was finite; and whether that is so."""
    dead = means.refused.any() > means.present.any()
    return torch.where(means.present, means.raw_loss, before.masked_fill(dead, torch.nan)), dead


class HostFlags:
    """Follows flags on the device, which only ever go from False to True, without waiting for the device.

    The values travel to page-locked memory on their own and are read at the next poll. By then they are the old ones
    or the new ones; a late True costs nothing.
    """

    def __init__(self) -> None:
        self._landing: Tensor | None = None
        self._known: list[bool] = []

    def poll(self, flags: Tensor) -> bool:
        """Return True if one of ``flags`` (bool, of shape (n,)) is newly seen to be True; start the next look."""
        if self._landing is None:
            self._landing = torch.zeros(flags.shape, dtype=torch.bool, pin_memory=flags.is_cuda)
            self._known = [False] * flags.numel()
        before, self._known = self._known, self._landing.tolist()  # host memory: no device is asked
        self._landing.copy_(flags, non_blocking=True)
        return any(now and not then for now, then in zip(self._known, before, strict=True))
