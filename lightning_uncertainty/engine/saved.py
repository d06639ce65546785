"""The saved form of the engine: tensors by field and tasks by name, nothing pickled as an object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lightning_uncertainty.engine.state import TaskTensors
from lightning_uncertainty.likelihoods import LIKELIHOODS, NLL, Likelihood
from lightning_uncertainty.tasks import Task, parse_tasks

__all__ = ["SavedState", "check_fields", "read_state", "short_forms", "task_settings", "unusable"]

VERSION = 1


def short_forms(tasks: Mapping[str, Task]) -> dict[str, str | float]:
    """Return what :func:`~lightning_uncertainty.tasks.parse_tasks` would make these tasks of."""
    kinds = {name: task.likelihood for name, task in tasks.items()}
    return {name: kind.name if kind.learned or kind == NLL else kind.coefficient for name, kind in kinds.items()}


def task_settings(tasks: Mapping[str, Task]) -> dict[str, dict[str, Any]]:
    """Return what the short forms do not tell: the settings of each task that are not the default, by name.

    A learned likelihood of which the name alone does not tell the constants is among them, by its fields.
    """
    found = {}
    for name, task in tasks.items():
        plain, kind = Task(name, task.likelihood), task.likelihood
        settings = {each.name: getattr(task, each.name) for each in fields(Task)}
        settings = {key: value for key, value in settings.items() if value != getattr(plain, key)}
        if kind.learned and LIKELIHOODS.get(kind.name) != kind:
            settings["likelihood"] = {each.name: getattr(kind, each.name) for each in fields(Likelihood)}
        if settings:
            found[name] = settings
    return found


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
        settings: The further settings of the tasks, by name, as :func:`task_settings` returns them.
        scale: The scale of the total.
        strategy_settings: The settings of the strategy.
    """

    tasks: dict[str, str | float]
    strategy: str
    regularizer: str
    steps: int
    frozen: bool
    tensors: dict[str, Tensor]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scale: str | None = "auto"
    strategy_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """The tasks as :func:`~lightning_uncertainty.tasks.parse_tasks` takes them."""
        specs = {name: {"likelihood": form, **self.settings.get(name, {})} for name, form in self.tasks.items()}
        for spec in specs.values():
            if isinstance(kind := spec["likelihood"], Mapping):
                spec["likelihood"] = Likelihood(**kind)
        return specs

    def written(self) -> dict[str, Any]:
        """Return the form that :func:`read_state` reads; the tensors are copied to the CPU."""
        return {
            "version": VERSION,
            "tasks": list(self.tasks),
            "likelihoods": list(self.tasks.values()),
            "settings": self.settings,
            "strategy": self.strategy,
            "strategy_settings": self.strategy_settings,
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
        raise unusable(f"it is of type {type(state).__name__}")
    saved_by = state.get("strategy", "uncertainty")  # the only one before there was a choice
    rules = {} if engine is None else engine.rules()
    if strategy is not None and strategy[0] == saved_by:
        rules |= strategy[1].rules()
    needed = [key for key, rule in rules.items() if rule.get("missing") is None]
    expected = ("version", "tasks", "likelihoods", "regularizer", "steps", "frozen", *needed)
    if missing := [key for key in expected if key not in state]:
        raise unusable(f"it lacks {', '.join(map(repr, missing))}")
    if not _is_count(state["version"]) or not 1 <= state["version"] <= VERSION:
        raise unusable(
            f"its version is {state['version']!r}, and this package reads up to {VERSION}: if it is newer, "
            "update lightning_uncertainty"
        )
    names, likelihoods = state["tasks"], state["likelihoods"]
    if not _are_tasks(names, likelihoods):
        raise unusable(f"its task list {names!r} does not fit its likelihoods {likelihoods!r}")
    if not _is_count(state["steps"]) or not isinstance(state["frozen"], bool):
        raise unusable(f"its steps are {state['steps']!r} and frozen is {state['frozen']!r}")
    for key, value in (("strategy", saved_by), ("regularizer", state["regularizer"])):
        if not isinstance(value, str):
            raise unusable(f"its {key} is {value!r}")
    if not isinstance(scale := state.get("scale", "auto"), str | None):
        raise unusable(f"its scale is {scale!r}")
    tensors = {key: _read_tensor(key, state.get(key), names, rule) for key, rule in rules.items()}
    tasks = dict(zip(names, likelihoods, strict=True))
    settings, options = state.get("settings", {}), state.get("strategy_settings", {})
    kinds, counts = (tasks, saved_by, state["regularizer"]), (state["steps"], state["frozen"])
    saved = SavedState(*kinds, *counts, tensors, settings, scale, options)
    try:
        parse_tasks(saved.specs)
    except (AttributeError, TypeError, ValueError) as error:
        raise unusable(f"its settings {settings!r} are damaged: {error}") from None
    return saved


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
        raise unusable(f"{key!r} should be a tensor of shape ({len(names)},), one entry per task, and is {found}")
    if value.is_complex():
        raise unusable(f"{key!r} is complex")
    if not rule.get("negative", True) and bool((value < 0).any()):
        raise unusable(f"{key!r} is negative: {value.tolist()}")
    if not rule.get("may_be_nan", False):
        broken = [name for name, fine in zip(names, torch.isfinite(value).tolist(), strict=True) if not fine]
        if broken:
            raise unusable(f"{key!r} is not finite for {', '.join(map(repr, broken))}")
    return value


def unusable(reason: str) -> ValueError:
    """Return the error of a state that cannot be used."""
    return ValueError(
        f"This is no usable state of UncertaintyWeighting: {reason}. Nothing was loaded. "
        "To go on without it, remove that entry from the checkpoint: the weights then start from the data."
    )
