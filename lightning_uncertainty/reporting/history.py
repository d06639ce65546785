"""The snapshots of a run in bounded memory, to be diagnosed, plotted, and kept in checkpoints and files."""

from __future__ import annotations

import copy
import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from lightning_uncertainty._arguments import check_choice, lookup
from lightning_uncertainty.snapshot import Score, Snapshot, TaskSnapshot

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DAMAGE", "History", "TaskFacts"]

VERSION = 1
MOST_BYTES = 800_000  # of a saved history, so that with 300 tasks it stays under a megabyte; but of very many tasks
FEWEST = 24  # points have room, for a diagnosis to tell from: 4 MB with 10,000 tasks
DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)  # whatever was done to a file

_OLD_COLUMNS = ("log_var", "precision", "factor", "raw_loss")  # of a state that does not name its columns
_COLUMNS = (*_OLD_COLUMNS, "val_log_var")  # of each task and point; the rest follows from these
_UNKNOWN = array("f", [math.nan] * len(_COLUMNS))


@dataclass(frozen=True)
class TaskFacts:
    """The facts about a task as of the last point.

    Attributes:
        likelihood: Short name of its likelihood.
        unit: Unit of its target, or "".
        learned: False for a fixed weight.
        nonfinite: Number of calls in which its loss was NaN or infinite.
        absent: Number of steps in which it took no part.
        at_bound: ``"lower"``, ``"upper"``, or ``""`` where no bound holds ``s``.
        dropped: Number of times that it was weighed and the network did not learn from it.
        dead: Number of steps in which losses came, and none of any task was finite.
        classes: Number of classes; 0 where it is unknown, or there are none.
        held: True if it stays at the factor of the plain sum.
        score: The score of its predictions in the last validation; None where none were given.
        test_score: The same of the last test.
        sat_out: Number of steps that it sat out because the strategy needs positive losses.
    """

    likelihood: str
    unit: str
    learned: bool
    nonfinite: int
    absent: int
    at_bound: str
    dropped: int = 0
    dead: int = 0
    classes: int = 0
    held: bool = False
    sat_out: int = 0
    score: Score | None = None
    test_score: Score | None = None


_FACTS = [each.name for each in fields(TaskFacts)]


class _Point(NamedTuple):
    step: int
    total: float
    values: dict[str, array[float]]  # the columns, by task; single precision


class History:
    """The snapshots of a run, thinned evenly once there are too many; the first and the last are always kept.

    When more than ``capacity`` are kept (fewer for very many tasks, so that the saved form stays under a megabyte, but
    at least 12),
    every second one goes, and from then on only every second that comes is kept. Values are those of single precision,
    so that a history that went through a checkpoint equals one that did not.

    Attributes:
        strategy: Name of the strategy.
        capacity: Number of points from which on they are thinned.
        facts: The facts about each task, by name.
        newest: Step of the newest snapshot that was added, -1 before the first.
        metrics: First, lowest, highest and last value of each metric of the validations, by name.
        about: Facts about the run for a reader, by name: when it began, on which device... Not part of the state.

    >>> history = History()
    >>> for step in range(1, 4):
    ...     history.add(Snapshot(step, {"a": TaskSnapshot("gaussian", 0.0, 1.0, 1.0, 0.5, 2.0, 0, None, True)}))
    >>> history.steps, history.series("raw_loss", "a")
    ([1, 2, 3], [2.0, 2.0, 2.0])
    """

    capacity = 1000

    def __init__(self) -> None:
        self.strategy = "uncertainty"
        self.facts: dict[str, TaskFacts] = {}
        self.newest = -1
        self.metrics: dict[str, list[float]] = {}
        self.about: dict[str, str] = {}
        self._points: list[_Point] = []
        self._kept = 0  # points that stay; a last one beside them goes when the next comes
        self._seen, self._stride = 0, 1  # how many were added, every how many-th of them is kept

    @classmethod
    def of(cls, snapshots: Self | Iterable[Snapshot]) -> Self:
        """Return a history of snapshots that are in order of their steps; a history is given back as it is."""
        if isinstance(snapshots, cls):
            return snapshots
        history = cls()
        for snapshot in cast("Iterable[Snapshot]", snapshots):
            history.add(snapshot)
        return history

    def add(self, snapshot: Snapshot) -> None:
        """Record a snapshot. One of a step that is already recorded changes nothing."""
        if snapshot.step <= self.newest:
            return
        point, points = self._take(snapshot), self._points[: self._kept]
        if self._seen % self._stride == 0:
            points.append(point)
        bytes_per_point = 4 * len(_COLUMNS) * max(len(self.facts), 1)
        room = min(self.capacity, max(MOST_BYTES // bytes_per_point, FEWEST)) - 1  # one more is the last
        while len(points) > room:
            points = points[::2]
            self._stride *= 2
        self._seen += 1
        self._kept, self.newest = len(points), snapshot.step
        self._points = points if points[-1] is point else [*points, point]

    def add_metrics(self, values: Mapping[str, float]) -> None:
        """Record what a validation has measured."""
        for name, value in values.items():
            first, low, high, _ = self.metrics.get(name, [value] * 4)
            low = min(low, value, key=lambda x: math.inf if math.isnan(x) else x)
            high = max(high, value, key=lambda x: -math.inf if math.isnan(x) else x)
            self.metrics = {**self.metrics, name: [first, low, high, value]}

    def ended(self, snapshot: Snapshot) -> Self:
        """Return a copy with ``snapshot`` as its last point until the next one comes. This history stays as it is."""
        twin = copy.copy(self)  # what it holds is replaced, never changed in place
        point, points = twin._take(snapshot), self._points[: self._kept]
        twin._points = [*(each for each in points if each.step < point.step), point]  # a validation may have ended
        return twin

    def tested(self, scores: Mapping[str, Score]) -> Self:
        """Return a copy with the scores of a test. This history stays as it is."""
        twin = copy.copy(self)
        twin.facts = {n: replace(fact, test_score=scores.get(n, fact.test_score)) for n, fact in self.facts.items()}
        return twin

    def _take(self, snapshot: Snapshot) -> _Point:
        self.strategy = snapshot.strategy
        self.facts = {name: _facts(task) for name, task in snapshot.tasks.items()}
        return _Point(snapshot.step, snapshot.total, {name: _cells(task) for name, task in snapshot.tasks.items()})

    def __len__(self) -> int:
        return len(self._points)

    @property
    def heading(self) -> str:
        """The heading of a table, a picture or a page of the history."""
        return "Uncertainty weighting" if self.strategy == "uncertainty" else f"Loss weighting by {self.strategy!r}"

    @property
    def learned(self) -> bool:
        """True if any task has a sigma."""
        return any(fact.learned for fact in self.facts.values())

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(self.facts)

    @property
    def steps(self) -> list[int]:
        """The optimizer step of each point."""
        return [point.step for point in self._points]

    @property
    def totals(self) -> list[float]:
        """The weighted sum with regularisers at each point."""
        return [point.total for point in self._points]

    def series(self, quantity: str, task: str) -> list[float]:
        """Return ``log_var``, ``sigma``, ``sigma_val``, ``precision``, ``factor``, ``raw_loss`` or ``share`` of a task.

        There is a value for each point, NaN where there is none.

        Raises:
            ValueError: If the task or the quantity is unknown.
        """
        lookup("task", task, self.facts)
        if quantity == "sigma":
            learned = self.facts[task].learned
            return [math.exp(0.5 * s) if learned else math.nan for s in self.series("log_var", task)]
        if quantity == "sigma_val":
            return [math.exp(0.5 * s) for s in self.series("val_log_var", task)]
        if quantity == "share":
            return self.shares()[task]
        check_choice("quantity", quantity, (*_COLUMNS, "sigma", "sigma_val", "share"))
        column = _COLUMNS.index(quantity)
        return [point.values.get(task, _UNKNOWN)[column] for point in self._points]

    def shares(self) -> dict[str, list[float]]:
        """Return each task's part of the weighted sum of losses at each point; NaN for a task not seen yet."""
        columns = {name: (self.series("factor", name), self.series("raw_loss", name)) for name in self.facts}
        terms = {name: [x * y for x, y in zip(*pair, strict=True)] for name, pair in columns.items()}
        totals = [math.fsum(filter(math.isfinite, point)) for point in zip(*terms.values(), strict=True)]
        return {
            name: [term / total if total else math.nan for term, total in zip(row, totals, strict=True)]
            for name, row in terms.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, which load with ``weights_only=True``; under a megabyte."""
        values = torch.tensor(
            [[list(point.values.get(name, _UNKNOWN)) for name in self.facts] for point in self._points]
        )
        return {
            "version": VERSION,
            "strategy": self.strategy,
            "tasks": list(self.facts),
            "facts": {name: [_plain(getattr(fact, name)) for fact in self.facts.values()] for name in _FACTS},
            "stride": self._stride,
            "seen": self._seen,
            "newest": self.newest,
            "kept": self._kept,
            "columns": list(_COLUMNS),
            "metrics": list(self.metrics),
            "metric_values": torch.tensor(list(self.metrics.values()), dtype=torch.float64),
            "steps": torch.tensor(self.steps, dtype=torch.long),
            "totals": torch.tensor(self.totals, dtype=torch.float64),
            "values": values.reshape(len(self), len(self.facts), len(_COLUMNS)).transpose(1, 2).contiguous(),
        }

    @classmethod
    def from_state_dict(cls, state: Any) -> Self:
        """Return the history that :meth:`state_dict` saved.

        Raises:
            ValueError: If ``state`` is not usable.
        """
        history = cls()
        try:
            if state["version"] != VERSION:
                raise ValueError(f"version {state['version']!r}, and this package reads {VERSION}")
            history.strategy = str(state.get("strategy", history.strategy))
            names, steps, stride = state["tasks"], state["steps"].tolist(), int(state["stride"])
            if stride < 1 or steps != sorted(set(steps)):
                raise ValueError("its steps are out of order")
            saved = {
                **dict.fromkeys(("dropped", "dead", "classes", "held", "sat_out"), [0] * len(names)),
                **state["facts"],
            }
            for key in ("score", "test_score"):
                saved[key] = map(Score.read, saved.get(key, [None] * len(names)))
            facts = zip(*(saved[name] for name in _FACTS), strict=True)
            history.facts = {name: TaskFacts(*fact) for name, fact in zip(names, facts, strict=True)}
            columns = state.get("columns", _OLD_COLUMNS)
            values = state["values"].reshape(len(steps), len(columns), len(names))
            known = {column: values[:, place] for place, column in enumerate(columns)}
            blank = torch.full((len(steps), len(names)), math.nan)
            rows = torch.stack([known.get(column, blank) for column in _COLUMNS], dim=-1).tolist()
            tables = ({name: array("f", cells) for name, cells in zip(names, row, strict=True)} for row in rows)
            history._points = [_Point(*point) for point in zip(steps, state["totals"].tolist(), tables, strict=True)]
            history._seen, history._stride, history.newest = int(state["seen"]), stride, int(state["newest"])
            history._kept = int(state["kept"])
            if names := state.get("metrics", []):
                values = state["metric_values"].reshape(len(names), 4).tolist()
                history.metrics = dict(zip(names, values, strict=True))
        except DAMAGE as error:
            raise ValueError(f"This is no usable history ({type(error).__name__}: {error}).") from None
        return history


def _facts(task: TaskSnapshot) -> TaskFacts:
    bound = task.at_bound if task.started else None
    counts = task.nonfinite, task.absent, bound or "", task.dropped, task.dead, task.classes, task.held, task.sat_out
    return TaskFacts(task.likelihood, task.unit, task.sigma is not None, *counts, task.score, task.test_score)


def _plain(fact: Any) -> Any:
    return fact.plain() if isinstance(fact, Score) else fact


def _cells(task: TaskSnapshot) -> array[float]:
    values = [math.nan if (value := getattr(task, column)) is None else value for column in _COLUMNS]
    if not task.started:
        values[:2] = _UNKNOWN[:2]  # what stands there is a placeholder
    # Beyond the range of single precision, infinity: ``array`` would refuse.
    return array("f", (x if abs(x) < 3.4e38 or math.isnan(x) else math.copysign(math.inf, x) for x in values))
