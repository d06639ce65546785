"""The snapshots of a run in bounded memory: what is diagnosed, plotted, and kept in checkpoints."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lightning_uncertainty.reporting.logged import read_csv_logger, read_tensorboard
from lightning_uncertainty.snapshot import Snapshot, TaskSnapshot

__all__ = ["QUANTITIES", "History", "TaskFacts"]

VERSION = 1
CAPACITY = 1000  # points
MOST_BYTES = 800_000  # of a saved history, so that with 300 tasks it stays under a megabyte

_COLUMNS = ("log_var", "precision", "factor", "raw_loss")  # of each task and point; the rest follows from these
_FACTS = ("likelihood", "unit", "learned", "nonfinite", "absent", "at_bound")

_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)  # whatever was done to it

QUANTITIES = ("log_var", "sigma", "precision", "raw_loss", "share")
"""What :meth:`History.series` gives."""


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task as of the last point. None where what was read does not tell.

    Attributes:
        likelihood: its short name, empty if unknown.
        unit: of its target.
        learned: False for a fixed weight.
        nonfinite: how often its loss was NaN or infinite.
        absent: in how many steps it took no part.
        at_bound: ``"lower"``, ``"upper"``, or ``""`` where no bound holds ``s``.
    """

    likelihood: str
    unit: str
    learned: bool
    nonfinite: int | None
    absent: int | None
    at_bound: str | None


@dataclass(frozen=True)
class _Point:
    step: int
    total: float
    values: array[float]  # the columns, each with one entry per task


class History:
    """Snapshots of a run, thinned evenly once there are too many; the first and the last are always kept.

    When more than ``capacity`` are kept, every second one goes, and from then on only every second that comes is kept.
    Values are those of single precision, so that a history that went through a checkpoint equals one that did not.

    Args:
        capacity: how many points are kept; fewer for very many tasks, so that the saved form stays under a megabyte.

    Attributes:
        facts: by task.
        newest: the step of the newest snapshot that was added, -1 before the first.
        relative: whether ``factor`` is known up to a factor only, as in what is read from a logger.

    Raises:
        ValueError: if ``capacity`` is less than 2.

    >>> history = History(capacity=4)
    >>> for step in range(1, 12):
    ...     history.add(Snapshot(step, {"a": TaskSnapshot("gaussian", 0.0, 1.0, 1.0, 0.5, 2.0, 0, None, True)}))
    >>> history.steps
    [1, 5, 9, 11]
    >>> history.series("raw_loss", "a")
    [2.0, 2.0, 2.0, 2.0]
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 2:
            raise ValueError(f"A history needs room for at least 2 points; got capacity={capacity}.")
        self.capacity = capacity
        self.facts: dict[str, TaskFacts] = {}
        self.relative = False
        self._kept: list[_Point] = []
        self._latest: _Point | None = None
        self.newest = -1
        self._seen, self._stride = 0, 1  # how many were added, every how many-th of them is kept

    @classmethod
    def of(cls, snapshots: History | Iterable[Snapshot]) -> History:
        """A history of these snapshots, in order of their steps; a history is given back as it is."""
        if isinstance(snapshots, History):
            return snapshots
        history = cls()
        for snapshot in snapshots:
            history.add(snapshot)
        return history

    @classmethod
    def from_csv_logger(cls, folder: Path | str, prefix: str = "uncertainty") -> History:
        """What a CSVLogger wrote; steps are the logger's, which count from 0.

        Args:
            folder: the logger's ``log_dir``.
            prefix: the ``log_prefix`` of the callback.

        Raises:
            FileNotFoundError: if there is no ``metrics.csv``.
            ValueError: if nothing in it has that prefix.
        """
        return cls.of_logged(read_csv_logger(folder, prefix))

    @classmethod
    def from_tensorboard(cls, folder: Path | str, prefix: str = "uncertainty") -> History:
        """What a TensorBoardLogger wrote; otherwise as :meth:`from_csv_logger`.

        Raises:
            FileNotFoundError: if there are no event files.
            ValueError: if nothing in them has that prefix.
            MissingExtraError: without tensorboard.
        """
        return cls.of_logged(read_tensorboard(folder, prefix))

    @classmethod
    def of_logged(cls, rows: Mapping[int, Mapping[str, float]]) -> History:
        """Of what was logged, by step, without the prefix.

        Likelihoods are told from sigma and weight where they tell; counts and bounds are not.
        """
        names = list(dict.fromkeys(name for row in rows.values() for name in map(_weighed_task, row) if name))
        history = cls()
        for step, row in rows.items():
            history.add(Snapshot(step, {name: _logged_task(name, row) for name in names}))
        history._forget_totals(since=-math.inf)
        for name, fact in history.facts.items():
            kind = _likelihood_from(list(rows.values()), name)
            history.facts[name] = TaskFacts(kind, fact.unit, kind != "fixed", None, None, None)
        return history

    # ------------------------------------------------------------------------------------------------ growing

    def add(self, snapshot: Snapshot) -> None:
        """Record a snapshot; one of a step that is already recorded changes nothing."""
        if snapshot.step <= self.newest:
            return
        point = self._take(snapshot)
        if self._seen % self._stride == 0:
            self._kept.append(point)
            self._thin()
        self._seen += 1
        self._latest, self.newest = point, snapshot.step

    def end(self, snapshot: Snapshot) -> None:
        """Make ``snapshot`` the last point, until the next one comes: it does not change which others are kept."""
        self._latest = self._take(snapshot)

    def follow(self, rows: Mapping[int, Mapping[str, float]]) -> bool:
        """Go on with what a logger wrote after the last point, if it wrote it in the same run.

        The logger's steps count from 0. Counts and bounds stay as they were at the last point.

        Args:
            rows: what was logged, by step, without the prefix.

        Returns:
            Whether nothing speaks against its being the same run.
        """
        if self.agreement(rows) < 0:
            return False
        end, facts = self.steps[-1], self.facts
        for step, row in rows.items():
            if step + 1 > end:
                self.add(Snapshot(step + 1, {name: _logged_task(name, row) for name in facts}))
        self.facts = facts
        if self.steps[-1] > end:
            self._forget_totals(since=end)
        return True

    def agreement(self, rows: Mapping[int, Mapping[str, float]]) -> int:
        """In how many steps a log has the same weights; -1 if one has others, or it has other tasks."""
        if {name for row in rows.values() for name in map(_weighed_task, row) if name} != set(self.facts):
            return -1
        weights = {name: self.series("precision", name) for name in self.facts}
        both = [(rows[step - 1], index) for index, step in enumerate(self.steps) if step - 1 in rows]
        equal = (
            math.isclose(row.get(f"weight/{name}", math.nan), series[index], rel_tol=1e-5)
            for row, index in both
            for name, series in weights.items()
            if not math.isnan(series[index])
        )
        return len(both) if all(equal) else -1

    def _forget_totals(self, *, since: float) -> None:
        """What was logged has no regularisers, and factors only up to a common one."""
        self.relative = True
        self._kept = [replace(point, total=math.nan) if point.step > since else point for point in self._kept]
        if self._latest and self._latest.step > since:
            self._latest = replace(self._latest, total=math.nan)

    def _take(self, snapshot: Snapshot) -> _Point:
        facts = {name: _facts(task) for name, task in snapshot.tasks.items()}
        if list(facts) != list(self.facts):
            self._realign(facts)
        self.facts = facts
        tasks = snapshot.tasks.values()
        values = array("f", (_cell(task, column) for column in _COLUMNS for task in tasks))
        return _Point(snapshot.step, snapshot.total, values)

    def _realign(self, facts: Mapping[str, TaskFacts]) -> None:
        """Tasks may change when a run goes on: columns of new ones begin with NaN, vanished ones are dropped."""
        old = {name: index for index, name in enumerate(self.facts)}
        size = len(old)

        def moved(point: _Point) -> _Point:
            cells = (
                point.values[column * size + old[name]] if name in old else math.nan
                for column in range(len(_COLUMNS))
                for name in facts
            )
            return replace(point, values=array("f", cells))

        self._kept = [moved(point) for point in self._kept]
        self._latest = moved(self._latest) if self._latest else None

    def _thin(self) -> None:
        while len(self._kept) > self._room:
            self._kept = self._kept[::2]
            self._stride *= 2

    @property
    def _room(self) -> int:
        bytes_per_point = 4 * len(_COLUMNS) * max(len(self.facts), 1)
        return max(min(self.capacity, MOST_BYTES // bytes_per_point) - 1, 1)  # one more is the last

    # ------------------------------------------------------------------------------------------------ reading

    @property
    def _points(self) -> list[_Point]:
        if self._latest is None or (self._kept and self._kept[-1].step >= self._latest.step):
            return self._kept
        return [*self._kept, self._latest]

    def __len__(self) -> int:
        return len(self._points)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.facts)

    @property
    def steps(self) -> list[int]:
        """Of the points."""
        return [point.step for point in self._points]

    @property
    def totals(self) -> list[float]:
        """The weighted sum with regularisers at each point, NaN where unknown."""
        return [point.total for point in self._points]

    def series(self, quantity: str, task: str) -> list[float]:
        """One of :data:`QUANTITIES` (or ``"factor"``) of a task at all points; NaN where there is none.

        Raises:
            ValueError: if the task or the quantity is unknown.
        """
        if task not in self.facts:
            raise ValueError(f"There is no task {task!r} in this history. Known: {', '.join(map(repr, self.facts))}.")
        if quantity == "sigma":
            learned = self.facts[task].learned
            return [math.exp(0.5 * s) if learned else math.nan for s in self._column("log_var", task)]
        if quantity == "share":
            return self.shares()[task]
        if quantity not in _COLUMNS:
            raise ValueError(f"Unknown quantity {quantity!r}. Known: {', '.join(map(repr, QUANTITIES))}.")
        return list(self._column(quantity, task))

    def _column(self, column: str, task: str) -> Iterator[float]:
        place = _COLUMNS.index(column) * len(self.facts) + self.tasks.index(task)
        return (point.values[place] for point in self._points)

    def shares(self) -> dict[str, list[float]]:
        """Each task's part of the weighted sum of losses at each point; NaN for a task not seen yet."""
        size = len(self.facts)
        rows = []
        for point in self._points:
            pairs = zip(point.values[2 * size : 3 * size], point.values[3 * size :], strict=True)
            terms = [factor * loss for factor, loss in pairs]
            total = math.fsum(term for term in terms if math.isfinite(term))
            rows.append([term / total if total else math.nan for term in terms])
        return {name: [row[index] for row in rows] for index, name in enumerate(self.facts)}

    # ------------------------------------------------------------------------------------------------ saving

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, which load with ``weights_only=True``; under a megabyte."""
        points = self._points
        flat = array("f", (value for point in points for value in point.values))
        values = torch.frombuffer(flat, dtype=torch.float32).clone() if flat else torch.empty(0)
        return {
            "version": VERSION,
            "tasks": list(self.facts),
            "facts": {key: [getattr(fact, key) for fact in self.facts.values()] for key in _FACTS},
            "relative": self.relative,
            "stride": self._stride,
            "seen": self._seen,
            "newest": self.newest,
            "kept": len(self._kept),
            "steps": torch.tensor([point.step for point in points], dtype=torch.long),
            "totals": torch.tensor([point.total for point in points], dtype=torch.float64),
            "values": values.reshape(len(points), len(_COLUMNS), len(self.facts)),
        }

    @classmethod
    def from_state_dict(cls, state: Any, *, capacity: int = CAPACITY) -> History:
        """The history that :meth:`state_dict` saved.

        Raises:
            ValueError: if ``state`` is not usable.
        """
        try:
            return cls(capacity)._filled(state)
        except _DAMAGE as error:
            raise ValueError(f"This is no usable history ({type(error).__name__}: {error}).") from None

    def _filled(self, state: Any) -> History:
        if state["version"] != VERSION:
            raise ValueError(f"version {state['version']!r}, and this package reads {VERSION}")
        names, facts = list(state["tasks"]), state["facts"]
        rows = zip(*(facts[key] for key in _FACTS), strict=True)
        self.facts = {name: TaskFacts(*row) for name, row in zip(names, rows, strict=True)}
        steps, totals = state["steps"].tolist(), state["totals"].tolist()
        values = state["values"].reshape(len(steps), len(_COLUMNS) * len(names)).tolist()
        points = [_Point(*row[:2], array("f", row[2])) for row in zip(steps, totals, values, strict=True)]
        self.relative, self._stride, self._seen = bool(state["relative"]), int(state["stride"]), int(state["seen"])
        self.newest, self._kept = int(state["newest"]), points[: int(state["kept"])]
        self._latest = points[-1] if points else None
        if self._stride < 1 or steps != sorted(set(steps)):
            raise ValueError("its steps are out of order")
        return self

    def to_json(self) -> dict[str, Any]:
        """The same as plain lists, for a file; what is not finite is None."""
        state = self.state_dict()
        tensors = {key: value.tolist() for key, value in state.items() if isinstance(value, torch.Tensor)}
        short = _rounded(tensors["values"])
        return {key: _plain(value) for key, value in {**state, **tensors, "values": short}.items()}

    @classmethod
    def from_json(cls, content: Any) -> History:
        """The history that :meth:`to_json` wrote.

        Raises:
            ValueError: if it is not usable.
        """
        kinds = {"steps": torch.long, "totals": torch.float64, "values": torch.float32}
        try:
            tensors = {key: torch.tensor(_numbers(content[key]), dtype=kind) for key, kind in kinds.items()}
        except _DAMAGE as error:
            raise ValueError(f"This is no usable history ({type(error).__name__}: {error}).") from None
        return cls.from_state_dict({**content, **tensors})


def _facts(task: TaskSnapshot) -> TaskFacts:
    learned = task.sigma is not None
    bound = task.at_bound if task.started else None
    return TaskFacts(task.likelihood, task.unit, learned, task.nonfinite, task.absent, bound or "")


def _weighed_task(key: str) -> str:
    """The task of a logged weight; empty for what else was logged."""
    return key.removeprefix("weight/") if key.startswith("weight/") else ""


def _logged_task(name: str, row: Mapping[str, float]) -> TaskSnapshot:
    sigma, weight, loss, share = (row.get(f"{key}/{name}", math.nan) for key in ("sigma", "weight", "loss", "share"))
    log_var = 2.0 * math.log(sigma) if sigma > 0.0 else math.nan
    relative = share / loss if loss else 0.0  # the factors follow from the shares, up to a common one
    return TaskSnapshot("", log_var, sigma, weight, relative, loss, 0, None, True)


def _likelihood_from(rows: Sequence[Mapping[str, float]], name: str) -> str:
    """``"fixed"`` without a sigma, ``"laplace"`` where the weight is ``1 / sigma``, else empty: not to be told."""
    pairs = [(row[f"sigma/{name}"], row.get(f"weight/{name}", math.nan)) for row in rows if f"sigma/{name}" in row]
    if not pairs:
        return "fixed"
    told = [(sigma, weight) for sigma, weight in pairs if abs(sigma - 1.0) > 0.01]
    return "laplace" if told and all(abs(sigma * weight - 1.0) < 1e-3 for sigma, weight in told) else ""


def _cell(task: TaskSnapshot, column: str) -> float:
    if not task.started and column in ("log_var", "precision"):
        return math.nan  # what stands there is a placeholder
    value: float = getattr(task, column)
    # Beyond the range of single precision, infinity: ``array`` would refuse.
    return value if abs(value) < 3.4e38 or math.isnan(value) else math.copysign(math.inf, value)


def _rounded(value: Any) -> Any:
    """To nine digits, which tell all numbers of single precision apart."""
    return [_rounded(each) for each in value] if isinstance(value, list) else float(f"{value:.9g}")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_numbers(each) for each in value]
    return math.nan if value is None else value
