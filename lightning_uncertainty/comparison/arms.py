"""The arms of a comparison: the same module with its weights learned, equal, or given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_uncertainty._arguments import suggest
from lightning_uncertainty.comparison.errors import ComparisonError
from lightning_uncertainty.tasks import Task, parse_tasks
from lightning_uncertainty.trainer.attachment import attach_weighting, attached_weighting, was_given
from lightning_uncertainty.trainer.callback import UncertaintyCallback
from lightning_uncertainty.trainer.packages import callbacks_of
from lightning_uncertainty.weighting import UncertaintyWeighting

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["EQUAL", "LEARNED", "Arm", "name_arms", "ours_in", "tasks_of"]

EQUAL, LEARNED = "equal", "learned"


@dataclass(frozen=True)
class Arm:
    """One way to weigh the losses.

    Attributes:
        name: ``"learned"``, ``"equal"``, or that of given weights.
        weights: by task, where they are given.
    """

    name: str
    weights: Mapping[str, float] | None = None

    def apply(self, module: LightningModule, trainer: Trainer) -> None:
        """Make ``trainer`` weigh the losses of ``module`` like this. No code of the network changes.

        Raises:
            ComparisonError: if nobody says which tasks there are, or the given weights are not those of its tasks.
        """
        callbacks, ours = callbacks_of(trainer), ours_in(trainer)
        tasks = tasks_of(module, trainer)
        if self.name == LEARNED:
            if not ours:
                callbacks.insert(0, UncertaintyCallback(summary=False))  # before those that save
            for callback in ours:
                callback.summary = False  # the comparison has a table of its own
            return
        fixed = self.fixed_weights(tasks)
        prefix = ours[0].log_prefix if ours else "uncertainty"
        given = was_given(module)
        if given:  # the engine's options count then, not those of a callback
            attach_weighting(module, UncertaintyWeighting(fixed), given=True)
        else:  # also for a module that has trained: its sigma is not to be taken over
            attach_weighting(module, None)
        place = callbacks.index(ours[0]) if ours else 0
        callbacks[:] = [callback for callback in callbacks if callback not in ours]
        callbacks.insert(place, UncertaintyCallback(None if given else fixed, log_prefix=prefix, summary=False))

    def fixed_weights(self, tasks: Iterable[Task]) -> dict[str, float]:
        """A fixed weight per task; those that are fixed in the module keep theirs where no other is given.

        Raises:
            ComparisonError: if the given weights are not those of the tasks.
        """
        own = {task.name: None if task.likelihood.learned else task.likelihood.precision_coefficient for task in tasks}
        if self.weights is None:
            return {name: 1.0 if weight is None else float(weight) for name, weight in own.items()}
        for name in self.weights:
            if name not in own:
                raise ComparisonError(f"The weights {self.name!r} name a task {name!r}. {suggest(name, own)}")
        weights = {**own, **self.weights}
        if missing := [repr(name) for name, weight in weights.items() if weight is None]:
            raise ComparisonError(
                f"The weights {self.name!r} say nothing of {', '.join(missing)}. Give each task a number."
            )
        return {name: float(weight) for name, weight in weights.items() if weight is not None}


def name_arms(fixed: Mapping[str, Mapping[str, float]], baseline: str) -> tuple[Arm, ...]:
    """The baseline first, then the learned weights, then the others.

    Raises:
        ComparisonError: if given weights have a name that is taken, or are no numbers of at least 0; or if there is
            no such baseline.
    """
    arms = [Arm(LEARNED), Arm(EQUAL)]
    for name, weights in fixed.items():
        if name in (EQUAL, LEARNED) or not name.replace("-", "").replace("_", "").isalnum():
            raise ComparisonError(
                f"{name!r} cannot name fixed weights: use letters, digits, '-' and '_', and neither {EQUAL!r} nor "
                f"{LEARNED!r}, which are there anyway."
            )
        for task, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0.0 <= weight < math.inf:
                raise ComparisonError(
                    f"The weight of {task!r} in {name!r} must be a number of at least 0; got {weight!r}."
                )
        arms.append(Arm(name, dict(weights)))
    names = [arm.name for arm in arms]
    if baseline not in names:
        raise ComparisonError(f"There is no baseline {baseline!r}. {suggest(baseline, names)}")
    return tuple(sorted(arms, key=lambda arm: arm.name != baseline))


def tasks_of(module: LightningModule, trainer: Trainer) -> tuple[Task, ...]:
    """The tasks of the engine that the user gave to the module, of the callback, or of the module.

    Raises:
        ComparisonError: if there are none, or none that learns.
    """
    specs: Any = None
    weighting = attached_weighting(module)
    if weighting is not None and was_given(module):
        specs = list(weighting.tasks.values())
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
    """The UncertaintyCallbacks of a Trainer."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, UncertaintyCallback)]
