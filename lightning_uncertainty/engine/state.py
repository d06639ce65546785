"""The state of the engine: dataclasses of tensors with one entry per task, and their saved form.

What is saved, moved to another device and shown in a snapshot follows from the fields of these dataclasses. The saved
form is plain: tensors by field and tasks by name, nothing pickled as an object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lightning_uncertainty.engine.window import WindowMeans
from lightning_uncertainty.likelihoods import LIKELIHOODS, NLL, Likelihood
from lightning_uncertainty.tasks import Task

__all__ = [
    "EngineState",
    "HostFlags",
    "SavedState",
    "TaskTensors",
    "check_fields",
    "move_tensors",
    "newest",
    "own_likelihoods",
    "read_state",
    "rows_later",
    "short_forms",
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
        base_loss: The loss of which the relative loss is a part; negative in the first epoch of a task, 0 before it.
        val_loss, val_base_loss: The same of validations: the mean loss of the last one, and the base of it.
        trust: The part of the way from the plain sum to the learned weights, see
            :class:`~lightning_uncertainty.engine.guard.Guard`.
        held: bool: True if the task stays at the factor of the plain sum.
        first_log, last_log, mean_log, lowest_log, spread_log: The logarithms of the first and of the last loss, their
            average over some steps, its lowest value in the plain sum, and the mean distance of two in a row.
        mean_steps: The number of steps in that average.
        guarded: The number of steps that the guard has seen; the same for all tasks.
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
    base_loss: Tensor = field(metadata=_UNSHOWN)
    val_loss: Tensor = field(metadata=_UNSHOWN)
    val_base_loss: Tensor = field(metadata=_UNSHOWN)
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
        kinds |= {"cut": torch.bool, "held": torch.bool, "mean_steps": torch.long, "guarded": torch.long}
        names = (each.name for each in fields(cls))
        return cls(**{n: torch.full((size,), first.get(n, 0), dtype=kinds.get(n, torch.float32)) for n in names})

    def remember(self, means: WindowMeans) -> None:
        """Update by one step."""
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


# ---------------------------------------------------------------------------------------------------- the saved form
VERSION = 1


def short_forms(tasks: Mapping[str, Task]) -> dict[str, str | float]:
    """Return what :func:`~lightning_uncertainty.tasks.parse_tasks` would make these tasks of."""
    kinds = {name: task.likelihood for name, task in tasks.items()}
    return {name: kind.name if kind.learned or kind == NLL else kind.coefficient for name, kind in kinds.items()}


def own_likelihoods(tasks: Mapping[str, Task]) -> dict[str, Likelihood]:
    """Return the learned likelihoods of which the name alone does not tell the constants."""
    kinds = {name: task.likelihood for name, task in tasks.items() if task.likelihood.learned}
    return {name: kind for name, kind in kinds.items() if LIKELIHOODS.get(kind.name) != kind}


@dataclass(frozen=True)
class SavedState:
    """A saved state that has been checked.

    Attributes:
        tasks: The short forms of the likelihoods, by task, in the order of the entries of the tensors.
        strategy: The name of the strategy.
        regularizer: The name of the regulariser.
        steps: The number of optimizer steps.
        frozen: True if learning was frozen by hand.
        tensors: The tensors by field, each with one entry per task.
        likelihoods: The likelihoods of one's own, by task.
        scale: The scale of the total.
    """

    tasks: dict[str, str | float]
    strategy: str
    regularizer: str
    steps: int
    frozen: bool
    tensors: dict[str, Tensor]
    likelihoods: Mapping[str, Likelihood] = field(default_factory=dict)
    scale: str | None = "auto"

    @property
    def specs(self) -> dict[str, str | float | Likelihood]:
        """The tasks as :func:`~lightning_uncertainty.tasks.parse_tasks` takes them."""
        return {**self.tasks, **self.likelihoods}

    def written(self) -> dict[str, Any]:
        """Return the form that :func:`read_state` reads; the tensors are copied to the CPU."""
        return {
            "version": VERSION,
            "tasks": list(self.tasks),
            "likelihoods": list(self.tasks.values()),
            "own_likelihoods": {
                name: {each.name: getattr(own, each.name) for each in fields(Likelihood)}
                for name, own in self.likelihoods.items()
            },
            "strategy": self.strategy,
            "regularizer": self.regularizer,
            "scale": self.scale,
            "steps": self.steps,
            "frozen": self.frozen,
            **{key: tensor.detach().to("cpu", copy=True) for key, tensor in self.tensors.items()},
        }

    def copy_to(self, tensors: Mapping[str, Tensor], forms: Mapping[str, str | float]) -> None:
        """Copy the entries of tasks of the same name and form into ``tensors``, which have the entries of ``forms``."""
        present, saved = ({name: place for place, name in enumerate(names)} for names in (forms, self.tasks))
        matched = [name for name, form in forms.items() if self.tasks.get(name) == form]
        here = torch.tensor([present[name] for name in matched], dtype=torch.long)
        there = torch.tensor([saved[name] for name in matched], dtype=torch.long)
        for key, tensor in tensors.items():
            if key in self.tensors:
                tensor[here.to(tensor.device)] = self.tensors[key].cpu()[there].to(tensor)

    def differences(
        self, forms: Mapping[str, str | float], strategy: str, regularizer: str
    ) -> Iterator[tuple[str, str, str]]:
        """Yield kind, task and sentence for all that cannot be restored, or goes on in another way.

        Tasks with a fixed weight, whose form is a number, have nothing to restore.
        """
        if self.strategy != strategy:
            yield (
                "strategy",
                "",
                f"The checkpoint was trained with strategy={self.strategy!r}, and this is {strategy!r}: it starts "
                "anew.",
            )
        for name in dict.fromkeys([*self.tasks, *forms]):
            before, now = self.tasks.get(name), forms.get(name)
            if before == now or not (isinstance(before, str) or isinstance(now, str)):
                continue
            if now is None:
                sentence = f"Task {name!r} is in the checkpoint but not among the tasks: its sigma"
                yield "gone", name, f"{sentence} was dropped."
            elif before is None:
                yield "new", name, f"Task {name!r} is not in the checkpoint: its sigma was not restored."
            else:
                sentence = f"Task {name!r} was {before!r} in the checkpoint and is {now!r} now: its sigma"
                yield "changed", name, f"{sentence} was not restored."
        if strategy == self.strategy == "uncertainty" and self.regularizer != regularizer:
            yield (
                "regularizer",
                "",
                f"The checkpoint was trained with regularizer={self.regularizer!r}, and this is {regularizer!r}: sigma "
                "will move to another optimum.",
            )


def read_state(
    state: Any, engine: TaskTensors | None = None, strategy: tuple[str, TaskTensors] | None = None
) -> SavedState:
    """Check all of a saved state before any of it is used.

    Args:
        state: The saved state.
        engine: The state whose fields are read; None reads no tensors of the engine.
        strategy: The name and the state of the present strategy, whose fields are read if the state was saved by the
            same strategy.

    Raises:
        ValueError: if it is not a state of this package, is incomplete, of a newer version, or has tensors of a wrong
            shape or with NaN in them.
    """
    if not isinstance(state, Mapping):
        raise _error(f"it is of type {type(state).__name__}")
    saved_by = state.get("strategy", "uncertainty")  # the only one before there was a choice
    rules = {} if engine is None else engine.rules()
    if strategy is not None and strategy[0] == saved_by:
        rules |= strategy[1].rules()
    needed = [key for key, rule in rules.items() if rule.get("missing") is None]
    expected = ("version", "tasks", "likelihoods", "regularizer", "steps", "frozen", *needed)
    if missing := [key for key in expected if key not in state]:
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
    for key, value in (("strategy", saved_by), ("regularizer", state["regularizer"])):
        if not isinstance(value, str):
            raise _error(f"its {key} is {value!r}")
    if not isinstance(scale := state.get("scale", "auto"), str | None):
        raise _error(f"its scale is {scale!r}")
    tensors = {key: _read_tensor(key, state.get(key), names, rule) for key, rule in rules.items()}
    tasks = dict(zip(names, likelihoods, strict=True))
    try:
        own = {name: Likelihood(**constants) for name, constants in state.get("own_likelihoods", {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise _error(f"its own_likelihoods are damaged: {error}") from None
    return SavedState(tasks, saved_by, state["regularizer"], state["steps"], state["frozen"], tensors, own, scale)


def check_fields(engine: TaskTensors, strategy: TaskTensors) -> None:
    """Raise ``ValueError`` if a field of the strategy's state has the name of something else in a saved state."""
    taken = {*SavedState({}, "", "", 0, False, engine.tensors()).written()}
    if clash := sorted(taken & strategy.tensors().keys()):
        raise ValueError(f"A strategy's state cannot have a field {clash[0]!r}: the engine saves one. Rename it.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_tasks(names: Any, likelihoods: Any) -> bool:
    if not (isinstance(names, list) and isinstance(likelihoods, list) and len(names) == len(likelihoods)):
        return False
    known = all(isinstance(likelihood, (str, float, int)) for likelihood in likelihoods)
    return known and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _read_tensor(key: str, value: Any, names: list[str], rule: Mapping[str, Any]) -> Tensor:
    if value is None and rule.get("missing") is not None:
        return torch.full((len(names),), rule["missing"])
    if not isinstance(value, Tensor) or value.shape != (len(names),):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise _error(f"{key!r} should be a tensor of shape ({len(names)},), one entry per task, and is {found}")
    if value.is_complex():
        raise _error(f"{key!r} is complex")
    if not rule.get("negative", True) and bool((value < 0).any()):
        raise _error(f"{key!r} is negative: {value.tolist()}")
    if not rule.get("may_be_nan", False):
        broken = [name for name, fine in zip(names, torch.isfinite(value).tolist(), strict=True) if not fine]
        if broken:
            raise _error(f"{key!r} is not finite for {', '.join(map(repr, broken))}")
    return value


def _error(reason: str) -> ValueError:
    return ValueError(
        f"This is no usable state of UncertaintyWeighting: {reason}. Nothing was loaded. "
        "To go on without it, remove that entry from the checkpoint: the weights then start from the data."
    )


# ---------------------------------------------------------------------------------------------------- flags


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
