"""The tasks: named losses, each with its likelihood."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any, Literal
from zlib import crc32

from lightning_uncertainty._arguments import (
    Setting,
    check_bounds,
    check_choice,
    check_init,
    check_number,
    listed,
    lookup,
    suggest,
)
from lightning_uncertainty.likelihoods import Likelihood, get_likelihood

__all__ = ["Likelihoods", "Task", "TaskSpecs", "metric_keys", "parse_tasks"]

_SAFE = re.compile(r"\w([\w.\- ]*[\w.\-])?")  # which every logger takes


@dataclass(frozen=True, init=False)
class Task(Setting):
    """One named loss and the likelihood behind it.

    Args:
        name: The name as it stands in your table, for example ``"mu (D)"``. Losses, weights and checkpoints have it
            as it is, and loggers as ``lightning_uncertainty.tasks.metric_keys`` has it.
        likelihood: The likelihood: ``"gaussian"`` (mean squared error), ``"laplace"`` (mean absolute error),
            ``"softmax"`` (cross entropy), ``"softmax_exact"`` (:class:`~lightning_uncertainty.CrossEntropy`),
            ``"bernoulli"`` (binary cross entropy), ``"nll"`` (a negative log-likelihood, such as
            :func:`~lightning_uncertainty.predictive.gaussian_nll`), a
            :class:`~lightning_uncertainty.likelihoods.Likelihood`, or a number for a fixed weight.
        init: The initial ``s = log sigma^2``; ``"auto"`` takes the closed-form optimum of the first losses; None leaves
            it to the engine.
        bounds: The lowest and the highest ``s``; None leaves them to the engine.
        unit: The unit of the target, for tables and pictures: ``"m"``, ``"$"``.
        classes: The number of classes, to tell whether a loss is better than a guess; not needed with ``CrossEntropy``.
        importance: The factor ``a`` of the whole term, ``a (c e^{-r s} L + R(s))``: as if the task had ``a`` times the
            samples. The optimum of ``s`` does not move, so ``s`` cannot absorb it as it does a factor before a loss. At
            its optimum ``"laplace"`` pulls twice as hard as the others, ``1/L`` against ``1/(2L)``: 0.5 evens it.
        head: What a head with a noise of its own predicts, of a task that is ``"nll"`` or has a fixed weight:
            ``"gaussian"`` (the default of ``"nll"``), ``"laplace"``, or ``"softmax"`` for the logits of
            :func:`~lightning_uncertainty.predictive.noisy_cross_entropy`.

    Raises:
        ValueError: if one of them is not valid, or ``name`` is blank.
        TypeError: if ``name`` is not a string.

    >>> Task("kind", "softmax", classes=10).likelihood, Task("wind", "nll", head="laplace").head
    (Likelihood('softmax'), 'laplace')
    """

    name: str
    likelihood: Likelihood
    init: float | Literal["auto"] | None
    bounds: tuple[float, float] | None
    unit: str
    classes: int | None
    importance: float
    head: str | None

    def __init__(
        self,
        name: str,
        likelihood: str | float | Likelihood = "gaussian",
        init: float | Literal["auto"] | None = None,
        bounds: tuple[float, float] | None = None,
        unit: str = "",
        classes: int | None = None,
        importance: float = 1.0,
        head: Literal["gaussian", "laplace", "softmax"] | None = None,
    ) -> None:
        set_field = partial(object.__setattr__, self)  # the way around frozen, once, at construction
        set_field("name", check_name(name))
        set_field("likelihood", get_likelihood(likelihood))
        set_field("init", None if init is None else check_init(init))
        set_field("bounds", None if bounds is None else check_bounds(bounds))
        set_field("unit", str(unit))
        set_field("classes", None if classes is None else int(check_number("classes", classes, above=2.0)))
        set_field("importance", check_number("importance", importance, above=0.0))
        if head is not None:
            check_choice("head", head, ("gaussian", "laplace", "softmax"))
            if self.likelihood.learned:
                raise ValueError(
                    f"Task {name!r} got head={head!r} and the likelihood {self.likelihood.name!r}. Expected a head for "
                    f'a loss that is in nats already; write `Task({name!r}, "nll", head={head!r})`.'
                )
        set_field("head", head)


TaskSpecs = Mapping[str, Any] | Sequence[Task | str]
"""What users may write: ``{"depth": "laplace", "aux": 0.1}``, ``{"depth": {"likelihood": "laplace", "init": 0.0}}``,
or a list of :class:`Task` and of names."""

Likelihoods = str | float | Likelihood | Mapping[str, str | float | Likelihood]
"""The likelihood of tasks that are named only: one for all, or by name for some, the others being Gaussian."""


def parse_tasks(specs: TaskSpecs, likelihood: Likelihoods = "gaussian") -> tuple[Task, ...]:
    """Return the tasks in the order given, from any of the forms of :data:`TaskSpecs`.

    Args:
        specs: The tasks.
        likelihood: The likelihood of those that are named only.

    Raises:
        ValueError: if there are none, two of one name, or one that is not valid; or if ``likelihood`` has no effect.
        TypeError: if ``specs`` has none of the forms.

    >>> [task.name for task in parse_tasks({"depth": "laplace", "aux": 0.1})]
    ['depth', 'aux']
    >>> [task.likelihood.name for task in parse_tasks(["gap", "homo", "lumo"], {"lumo": "laplace"})]
    ['gaussian', 'gaussian', 'laplace']
    """
    if isinstance(specs, Mapping):
        if likelihood != "gaussian":
            raise ValueError(
                f"likelihood={likelihood!r} would have no effect: each of the tasks has one. Leave it out, or name the "
                f"tasks only: tasks={list(specs)!r}."
            )
        tasks = tuple(_parse_task(name, spec) for name, spec in specs.items())
    elif isinstance(specs, Iterable) and not isinstance(specs, (str, set, frozenset)):  # sets have no order
        kinds = likelihood if isinstance(likelihood, Mapping) else {}
        default = "gaussian" if isinstance(likelihood, Mapping) else likelihood
        tasks = tuple(Task(each, kinds.get(each, default)) if isinstance(each, str) else each for each in specs)
        names = {task.name: task for task in tasks if isinstance(task, Task)}
        for name in kinds:
            lookup("task", name, names)
    else:
        raise TypeError(_expected(specs))
    if not tasks:
        raise ValueError('There are no tasks. Name at least one, for example tasks={"depth": "laplace"}.')
    for task in tasks:
        if not isinstance(task, Task):
            raise TypeError(_expected(task))
    if twice := sorted(name for name, count in Counter(task.name for task in tasks).items() if count > 1):
        raise ValueError(f"Task names must differ; given more than once: {listed(twice)}.")
    return tasks


def _parse_task(name: str, spec: Any) -> Task:
    if isinstance(spec, Task):
        return spec if spec.name == name else replace(spec, name=name)
    if not isinstance(spec, Mapping):
        return Task(name, spec)
    options = [field.name for field in fields(Task)]
    for option in spec:
        if option not in options[1:]:
            raise ValueError(f"Task {name!r} has no option {option!r}. {suggest(option, options[1:])}")
    return Task(name, **spec)


def _expected(found: object) -> str:
    return (
        f'Expected tasks as {{"depth": "laplace", ...}}, [Task("depth", "laplace"), ...] or ["depth", ...]; '
        f"found {found!r} of type {type(found).__name__}."
    )


def check_name(name: object) -> str:
    """Return ``name`` as a plain string, or raise unless there is something to read in it."""
    if not isinstance(name, str):
        raise TypeError(f"A task's name must be a string; got {name!r} of type {type(name).__name__}.")
    if not name.strip():
        raise ValueError(f"{name!r} cannot name a task. Expected a name that can be read, for example 'depth'.")
    return str.__str__(name)  # a checkpoint takes no str of numpy or of an enum


def metric_keys(names: Iterable[str]) -> dict[str, str]:
    """Return the key of each task for loggers and metrics, by name.

    A name of letters, digits, ``_``, ``-``, ``.`` and inner spaces is its own key. In others, ``_`` stands for what is
    between those. If two tasks come to one key, 8 digits that follow from the name tell them apart; a name that is its
    own key keeps it. The order of the tasks changes nothing.

    >>> metric_keys(["depth", "mu (D)", "U/atom", "U atom", "U_atom"])
    {'depth': 'depth', 'mu (D)': 'mu_D', 'U/atom': 'U_atom_af14ba55', 'U atom': 'U atom', 'U_atom': 'U_atom'}
    """
    return _metric_keys(tuple(names))


@lru_cache(maxsize=32)  # asked at each logging step
def _metric_keys(names: tuple[str, ...]) -> dict[str, str]:
    keys = {name: name if _SAFE.fullmatch(name) else re.sub(r"[^\w.\-]+", "_", name).strip("_-.") for name in names}
    count = Counter(keys.values())
    return {
        name: key if key and (key == name or count[key] == 1) else f"{key or 'task'}_{crc32(name.encode()):08x}"
        for name, key in keys.items()
    }
