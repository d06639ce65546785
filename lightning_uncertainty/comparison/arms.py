"""The arms of a comparison: the same module with its weights learned, equal, or given."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from lightning_uncertainty._arguments import as_number, suggest
from lightning_uncertainty.strategies import STRATEGIES
from lightning_uncertainty.tasks import Task, parse_tasks
from lightning_uncertainty.trainer.attachment import attach_weighting, attached_weighting, was_given
from lightning_uncertainty.trainer.callback import UncertaintyCallback
from lightning_uncertainty.trainer.packages import callbacks_of
from lightning_uncertainty.weighting import UncertaintyWeighting, WeightingOptions

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

EQUAL, LEARNED = "equal", "learned"
OPTIONS = ("tasks", *WeightingOptions.__annotations__)
"""The keys by which the options of an arm are told from weights by task."""


class ComparisonError(ValueError):
    """A comparison cannot be made: the message says why, and what to write instead."""


@dataclass(frozen=True)
class Arm:
    """One way to weigh the losses.

    Attributes:
        name: The name in folders and tables.
        weights: The given weights by task; "equal" for 1 each; None if the callback decides.
        options: Options of the callback, over those that it has.
        by_seed: A function that returns one of these, as users write it, for a seed.
    """

    name: str
    weights: Mapping[str, float] | Literal["equal"] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    by_seed: Callable[[int], Any] | None = None

    def at(self, seed: int) -> Arm:
        """Return the arm as it is trained with this seed."""
        return self if self.by_seed is None else _read(self.name, self.by_seed(seed))

    def check(self, tasks: Iterable[Task], *, given: bool) -> None:
        """Raise ``ComparisonError`` unless the arm can weigh these tasks; ``given`` if the module brings an engine."""
        if self.weights is not None:
            self._factors(tasks)
            return
        names = [task.name for task in tasks]
        if both := [name for name in self.options if name in names]:
            raise ComparisonError(
                f"The arm {self.name!r} can be read in two ways: {both[0]!r} is a task and an option of the callback. "
                f"Give weights by `fixed={{{self.name!r}: ...}}`, or call the task something else."
            )
        if self.options and given:
            raise ComparisonError(
                f"The arm {self.name!r} has options for the callback, but the module brings an UncertaintyWeighting, "
                "whose own options count. Write `tasks = {...}` into the module instead."
            )
        options: Any = dict(copy.deepcopy(self.options))
        try:
            UncertaintyWeighting(options.pop("tasks", list(tasks)), **options)
        except (TypeError, ValueError) as error:
            raise ComparisonError(f"The options of the arm {self.name!r} cannot be used: {error}") from error

    def apply(self, module: LightningModule, trainer: Trainer) -> None:
        """Make ``trainer`` weigh the losses of ``module`` like this, which :meth:`check` has allowed."""
        if not ours_in(trainer):
            callbacks_of(trainer).insert(0, UncertaintyCallback())  # before those that save
        weights, given = self.weights and self._factors(tasks_of(module, trainer)), was_given(module)
        if weights:  # also for a module that has trained, whose sigma is not to be taken over
            attach_weighting(module, UncertaintyWeighting(weights) if given else None)
        for callback in ours_in(trainer):
            callback.summary = False  # the comparison has a table of its own
            if weights:
                callback.tasks, callback.options = None if given else parse_tasks(weights), {}
            else:
                options: Any = dict(copy.deepcopy(self.options))  # a strategy has a state
                callback.tasks = parse_tasks(options.pop("tasks")) if "tasks" in options else callback.tasks
                callback.options.update(options)

    def _factors(self, tasks: Iterable[Task]) -> dict[str, float]:
        """Return a fixed weight for each task; those that the module fixes keep theirs where no other is given."""
        own = {task.name: None if task.likelihood.learned else task.likelihood.precision_coefficient for task in tasks}
        given = self.weights if isinstance(self.weights, Mapping) else {k: 1.0 for k, v in own.items() if v is None}
        for name in given:
            if name not in own:
                option = "".join(f" Or is it the option {o!r}?" for o in get_close_matches(name, OPTIONS, n=1))
                raise ComparisonError(f"The weights {self.name!r} name a task {name!r}. {suggest(name, own)}{option}")
        weights = {**own, **given}
        if missing := [repr(name) for name, weight in weights.items() if weight is None]:
            absent = ", ".join(missing)
            raise ComparisonError(f"The weights {self.name!r} say nothing of {absent}. Give each task a number.")
        return {name: float(weight) for name, weight in weights.items() if weight is not None}


def parse_arms(arms: Mapping[str, Any], fixed: Mapping[str, Mapping[str, float]], baseline: str) -> tuple[Arm, ...]:
    """Return all arms: the baseline first, then learned and equal weights, then the others."""
    if taken := [name for name in fixed if name in (EQUAL, LEARNED, *arms)]:
        where = "in `arms` too" if taken[0] in arms else "there anyway"
        raise ComparisonError(f"{taken[0]!r} cannot name fixed weights, since it is {where}. Choose another name.")
    found = {LEARNED: Arm(LEARNED), EQUAL: Arm(EQUAL, "equal")}
    found |= {name: Arm(name, _checked_weights(name, weights)) for name, weights in fixed.items()}
    found |= {name: _read(name, given) for name, given in arms.items() if given is not None}
    for name in found:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ComparisonError(f"{name!r} cannot name an arm and its folders. Use letters, digits, - and _ alone.")
    found = {name: arm for name, arm in found.items() if arms.get(name, arm) is not None}
    if baseline not in found:
        raise ComparisonError(f"There is no baseline {baseline!r}. {suggest(baseline, found)}")
    return tuple(sorted(found.values(), key=lambda arm: arm.name != baseline))


def _read(name: str, given: Any) -> Arm:
    """Return an arm from what the user wrote: options or weights, told apart by their keys; a strategy; a function."""
    if inspect.isroutine(given) or isinstance(given, partial):
        return Arm(name, by_seed=given)
    if not isinstance(given, Mapping):
        if name in STRATEGIES and name != (kind := getattr(given, "name", given)):
            raise ComparisonError(
                f"The arm {name!r} would have the strategy {kind!r}, and tables would call it {name!r}. Expected "
                f"another name, for example {{{str(kind)!r}: {kind!r}}}; None in place of a strategy leaves an arm out."
            )
        return Arm(name, options={"strategy": given})
    options, others = ([key for key in given if (key in OPTIONS) == wanted] for wanted in (True, False))
    if options and others:
        raise ComparisonError(
            f"The arm {name!r} has an option, {options[0]!r}, beside {others[0]!r}, which is none. Give options alone, "
            f"or a weight for each task alone; if {options[0]!r} is a task, by `fixed={{{name!r}: ...}}`. "
            f"{suggest(others[0], OPTIONS)}"
        )
    if not given:
        raise ComparisonError(f'The arm {name!r} is empty. Give it options, {{"lr": 0.02}}, or a weight for each task.')
    return Arm(name, options=dict(given)) if options else Arm(name, _checked_weights(name, given))


def _checked_weights(name: str, weights: Mapping[str, Any]) -> dict[str, float]:
    for task, weight in weights.items():
        number = as_number(weight)
        if number is None or not 0.0 <= number < math.inf:
            wrong = f"The weight of {task!r} in {name!r} must be a number of at least 0; got {weight!r}."
            hint = "" if number is not None else f" If it is meant as an option: {suggest(task, OPTIONS)}"
            raise ComparisonError(wrong + hint)
    return {task: float(weight) for task, weight in weights.items()}


def tasks_of(module: LightningModule, trainer: Trainer) -> tuple[Task, ...]:
    """Return the tasks of the engine that the user gave to the module, of the callback, or of the module."""
    weighting = attached_weighting(module)
    specs: Any = list(weighting.tasks.values()) if weighting is not None and was_given(module) else None
    for callback in ours_in(trainer):
        specs = specs or callback.tasks
    specs = specs or getattr(module, "tasks", None)
    kind = type(module).__name__
    if specs is None:
        raise ComparisonError(
            f"{kind} has no tasks, so there are no weights to compare. Derive it from UncertaintyMixin, write "
            '`tasks = {"depth": "laplace", ...}` into it and return `self.weigh(losses)` from training_step; or return '
            '`{"losses": {...}}` and add `UncertaintyCallback({"depth": "laplace", ...})` to the Trainer\'s callbacks.'
        )
    tasks = parse_tasks(specs)
    if not any(task.likelihood.learned for task in tasks):
        raise ComparisonError(
            f"All tasks of {kind} have fixed weights ({', '.join(repr(task.name) for task in tasks)}), so there is "
            'nothing to learn and to compare. Name their likelihoods, for example "gaussian".'
        )
    return tasks


def ours_in(trainer: Trainer) -> list[UncertaintyCallback]:
    """Return the UncertaintyCallbacks of a Trainer."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, UncertaintyCallback)]
