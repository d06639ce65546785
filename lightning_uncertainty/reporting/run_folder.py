"""What a run has left in its folder, read back from the best source that is there, with what is missing said."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lightning_uncertainty._arguments import file_stem
from lightning_uncertainty.reporting.comparison_files import ComparisonTable, is_comparison, read_comparison, run_of
from lightning_uncertainty.reporting.gradients import GradientSnapshot, of_logged
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.logged import Rows, under
from lightning_uncertainty.reporting.run_files import (
    HISTORY_FILE,
    RunFiles,
    UnusableFileError,
    find_runs,
    prefixes_in,
    read_checkpoint,
    read_history,
    read_log,
)

__all__ = ["NothingToReportError", "RunContent", "read_run_folder"]

DEFAULT = "uncertainty"
LISTED = 5  # other runs
SEARCHED = 20  # folders, for the checkpoint of a run
LEARNED = "learned"  # the arm of a comparison


class NothingToReportError(ValueError):
    """A folder has nothing that could be shown; the message says what it has."""


@dataclass
class RunContent:
    """What there is to show of a folder.

    Attributes:
        title: of the page.
        history: of the run that was taken; None for a comparison whose runs have left none.
        notes: which run and source were taken, and what is missing, as sentences.
        gradients: of each GradientView, by what it looked at ("of encoder"), or by the prefix of its log.
        comparison: of a folder of ``compare``.
    """

    title: str
    history: History | None = None
    notes: list[str] = field(default_factory=list)
    gradients: dict[str, list[GradientSnapshot]] = field(default_factory=dict)
    comparison: ComparisonTable | None = None


def read_run_folder(folder: Path, prefix: str = DEFAULT) -> RunContent:
    """Everything that can be shown of a run, or of the newest one below the folder.

    Of one run, the best source is taken: the history that a fit leaves at its end, or that in the newest checkpoint,
    whichever goes further, continued by what a logger wrote after it; else what a CSVLogger or a TensorBoardLogger
    wrote. Files that are damaged are passed over.

    Args:
        folder: of a run, of several (``lightning_logs``), or of a comparison.
        prefix: the ``log_prefix`` of the callback.

    Raises:
        OSError: if there is no such folder.
        NothingToReportError: if it has nothing of this package under that prefix.
    """
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file. Pass the folder of a run, for example lightning_logs/version_0.")
    reader = _Reader(folder, prefix)
    comparison = read_comparison(folder) if is_comparison(folder) else None
    content = reader.best(find_runs(folder), learned_first=comparison is not None)
    if content is None and comparison is None:
        raise NothingToReportError(reader.nothing())
    content = content or RunContent(_title(folder), notes=[f"No run has left a history yet. {reader.nothing()}"])
    content.comparison = comparison
    return content


T = TypeVar("T")


@dataclass(frozen=True)
class _Saved:
    """The histories that were saved of a run, each with its file."""

    ended: tuple[Path, History] | None = None
    checkpoint: tuple[Path, History] | None = None
    views: dict[str, list[GradientSnapshot]] = field(default_factory=dict)

    @property
    def best(self) -> tuple[Path, History] | None:
        """The one that goes further."""
        found = [saved for saved in (self.ended, self.checkpoint) if saved is not None]
        return max(found, key=lambda saved: saved[1].steps[-1], default=None)


class _Reader:
    """Reads run after run until one has something, and remembers what it met."""

    def __init__(self, root: Path, prefix: str) -> None:
        self.root, self.prefix = root, prefix
        self.met: list[Path] = []  # files that could have had something
        self.damaged: dict[Path, str] = {}
        self.prefixes: dict[str, None] = {}

    def name(self, path: Path) -> str:
        """As it is called on the page, which may go to another machine."""
        return str(path.relative_to(self.root)) if path != self.root else self.root.resolve().name

    # ------------------------------------------------------------------------------------------------ which run

    def best(self, runs: list[RunFiles], *, learned_first: bool) -> RunContent | None:
        """Of the folder itself if a logger has written there, else of the newest run that has something."""
        own = [run for run in runs if run.folder == self.root and (run.histories or run.logs)]
        order = own + [run for run in runs if run not in own]
        if learned_first:
            order.sort(key=lambda run: not self._is_learned(run))
        for place, run in enumerate(order):
            content = self._read(run, others=order[place + 1 :])
            if content is not None:
                content.notes[:0] = [] if run in own else self._choice(run, order, passed=order[:place])
                content.title = self._heading(run)
                return content
        return None

    def _is_learned(self, run: RunFiles) -> bool:
        return (self._arm(run) or ("", 0))[0] == LEARNED

    def _arm(self, run: RunFiles) -> tuple[str, int] | None:
        parts = run.folder.relative_to(self.root).parts
        return run_of(Path(parts[0])) if parts else None

    def _heading(self, run: RunFiles) -> str:
        arm = self._arm(run)
        return f"{_title(self.root)}, {arm[0]}, seed {arm[1]}" if arm else _title(run.folder)

    def _choice(self, run: RunFiles, order: list[RunFiles], passed: list[RunFiles]) -> Iterator[str]:
        arm = self._arm(run)
        rest = [other for other in order if other is not run and other not in passed]
        rest = [other for other in rest if arm is None or (self._arm(other) or arm)[0] == arm[0]]
        if rest or passed:
            kind = f"newest run of the arm {arm[0]!r}" if arm else "newest run"
            text = f"Shown is the {kind} with something to show, {self.name(run.folder)}."
            if rest:
                text += f" For another one, pass its own folder: {self._listed(rest)}."
            yield text
        if passed and not arm:
            yield f"Tried before it, without anything to be read under {self.prefix!r}: {self._listed(passed)}."

    def _listed(self, runs: list[RunFiles]) -> str:
        more = f" and {len(runs) - LISTED} more" if len(runs) > LISTED else ""
        folders = [run.folder.parent if self._arm(run) and run.folder.name == "logs" else run.folder for run in runs]
        return ", ".join(map(self.name, folders[:LISTED])) + more

    def nothing(self) -> str:
        """Why there is nothing to show."""
        known = [name for name in self.prefixes if name != self.prefix]
        if known:
            found = ", ".join(map(repr, known))
            return (
                f"{self.root} has nothing under the prefix {self.prefix!r}. Found: {found}. Pass --prefix {known[0]}."
            )
        if self.damaged:
            reasons = "; ".join(f"{self.name(path)}: {reason}" for path, reason in self.damaged.items())
            return f"Nothing in {self.root} can be read. {reasons}."
        if self.met:
            names = ", ".join(map(self.name, self.met[:LISTED])) + (", ..." if len(self.met) > LISTED else "")
            return f"{self.root} has nothing of lightning-uncertainty in what it has: {names}."
        return (
            f"{self.root} has no run in it: no *{HISTORY_FILE}, no checkpoint (*.ckpt), no metrics.csv of a CSVLogger "
            "and no event files of a TensorBoardLogger, there or below."
        )

    # ------------------------------------------------------------------------------------------------ one run

    def _read(self, run: RunFiles, others: list[RunFiles]) -> RunContent | None:
        logs = {path: rows for path in run.logs if (rows := self._tried(read_log, path))}
        known = dict.fromkeys(name for rows in logs.values() for name in prefixes_in(rows, "weight", "share"))
        self.prefixes.update(known)
        log = _longest({path: _complete(under(rows, self.prefix)) for path, rows in logs.items()})
        saved = self._saved(run, known)
        if saved.best is None and log is not None:  # checkpoints may lie elsewhere
            saved = self._same_run(others, log[1]) or saved
        if saved.best is None and log is None:
            return None
        content = self._of_saved(saved, log) if saved.best else self._of_log(*log)  # type: ignore[misc]  # one is there
        content.notes += [f"{self.name(path)} was passed over: {reason}." for path, reason in self.damaged.items()]
        content.gradients = _with_logged({f"of {module}": seen for module, seen in saved.views.items()}, logs)
        return content

    def _saved(self, run: RunFiles, known: Iterable[str]) -> _Saved:
        """The history of the end of the fit, that of the newest checkpoint that has one, and its gradient views."""
        ended, known, stem = None, set(known), file_stem(self.prefix)
        for path in run.histories:
            own = path.name.removesuffix(HISTORY_FILE)
            history = self._tried(read_history, path, named=own == stem)
            if history is not None and own == stem:
                ended = path, history
                known.add(self.prefix)
            elif history is not None and own not in map(file_stem, known):
                self.prefixes[own] = None
                known.add(own)
        for path in run.checkpoints:
            histories, views = self._tried(read_checkpoint, path) or ({}, {})
            name = self._named(histories, known)
            if name is not None:
                return _Saved(ended, (path, histories[name]), views)
        return _Saved(ended)

    def _named(self, histories: Mapping[str, History], known: Collection[str]) -> str | None:
        """Which callback of a checkpoint logs under the prefix: checkpoints have its name, and not the prefix."""
        if not known:
            self.prefixes.update(dict.fromkeys(histories))
        elif self.prefix not in known:
            return None
        elif len(histories) == 1:
            return next(iter(histories))
        return self.prefix if self.prefix in histories else None

    def _same_run(self, others: list[RunFiles], rows: Rows) -> _Saved | None:
        """What is saved of the run that logged ``rows``: it has the same weights at the same steps."""
        damaged = dict(self.damaged)
        for run in [other for other in others if other.checkpoints or other.histories][:SEARCHED]:
            saved = self._saved(run, [self.prefix])
            if saved.best is not None and saved.best[1].agreement(rows) > 0:
                return saved
            self.damaged = dict(damaged)  # what is damaged there does not matter here
        return None

    def _tried(self, read: Callable[[Path], T], path: Path, *, named: bool = True) -> T | None:
        """What a file has; of one that is damaged, the reason is kept if its name says that it is ours."""
        self.met.append(path)
        try:
            return read(path)
        except UnusableFileError as error:
            if named:
                self.damaged[path] = str(error)
        return None

    # ------------------------------------------------------------------------------------------------ in words

    def _of_saved(self, saved: _Saved, log: tuple[Path, Rows] | None) -> RunContent:
        assert saved.best is not None
        path, history = saved.best
        end, kind = history.steps[-1], "the checkpoint " if saved.best is saved.checkpoint else ""
        source = f"Read from {kind}{self.name(path)}"
        followed = log is not None and history.follow(log[1]) and history.steps[-1] > end
        if log is not None and followed:
            source += f" up to step {end:,}, and from there on from {self.name(log[0])}"
        notes = [f"{source}."]
        if saved.ended is None:
            known = "" if followed else f" Of what came after step {end:,}, nothing is known."
            alone = "" if log is not None else " or no logger"
            notes.append(f"There is no {file_stem(self.prefix)}{HISTORY_FILE}: the run {_NOT_ENDED}{alone}.{known}")
        elif followed or saved.best is not saved.ended:
            notes.append(f"{self.name(saved.ended[0])} is older: the run was resumed after it, and {_NOT_ENDED}.")
        if followed:
            notes.append(f"Counts (missing, NaN) and bounds are those of step {end:,}: a log has none.")
        return RunContent("", history, notes)

    def _of_log(self, path: Path, rows: Rows) -> RunContent:
        logger = "TensorBoardLogger" if path.is_dir() else "CSVLogger"
        ended = f"{file_stem(self.prefix)}{HISTORY_FILE}"
        notes = [
            f"Read from what a {logger} wrote: {self.name(path)}.",
            f"There is neither {ended} nor a checkpoint with a history: the run {_NOT_ENDED}.",
            "A log has no counts, bounds, units and totals: how often a task was missing or NaN is not known, a "
            "likelihood only where the numbers tell, and what needs them is not found. Its steps count from 0.",
        ]
        return RunContent("", History.of_logged(rows), notes)


_NOT_ENDED = "was killed, has failed, still goes on, or had `report=False`"


def _title(folder: Path) -> str:
    return f"Uncertainty weighting: {folder.resolve().name}"


def _complete(rows: Rows) -> Rows:
    """Without steps that lack the weight of a task, as half-written files have them."""
    weights = {key for row in rows.values() for key in row if key.startswith("weight/")}
    return {step: row for step, row in rows.items() if weights <= row.keys()} if weights else {}


def _longest(logs: Mapping[Path, Rows]) -> tuple[Path, Rows] | None:
    """The log that goes furthest; of several, the first."""
    found = [(path, rows) for path, rows in logs.items() if rows]
    return max(found, key=lambda log: max(log[1]), default=None)


def _with_logged(
    saved: dict[str, list[GradientSnapshot]], logs: Mapping[Path, Rows]
) -> dict[str, list[GradientSnapshot]]:
    """The gradient views of a checkpoint, a single one with what else is logged of it; else those of the logs."""
    logged: dict[str, list[GradientSnapshot]] = {}
    for rows in logs.values():
        for prefix in prefixes_in(rows, "norm", "weighted"):
            seen = of_logged(under(rows, prefix))
            name = f"logged under {prefix}"
            if name not in logged or seen[-1].step > logged[name][-1].step:
                logged[name] = seen
    if not saved:
        return logged
    if len(saved) == len(logged) == 1:
        ((name, ours),), (theirs,) = saved.items(), logged.values()
        if ours[-1].norms.keys() == theirs[-1].norms.keys():
            at = {snapshot.step: snapshot for snapshot in [*theirs, *ours]}  # a log of many tasks has no pairs
            return {name: [at[step] for step in sorted(at)]}
    return saved
