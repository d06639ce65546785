"""A summary of a run for the terminal: a table of its tasks and its findings, through rich or as plain text."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from typing import TextIO

from lightning_uncertainty.findings import SEVERITIES, Diagnosis, Finding, Severity
from lightning_uncertainty.reporting.diagnosis import diagnose, shares_at_the_end, verdicts
from lightning_uncertainty.reporting.history import History, TaskFacts
from lightning_uncertainty.reporting.tables import Table

__all__ = ["COLUMNS", "NOTE", "Row", "Summary", "loss_unit", "print_summary", "summarize", "weight_unit"]

COLUMNS = ("task", "likelihood", "raw loss", "sigma", "weight", "share", "missing", "NaN", "verdict")
NOTE = (
    "Raw loss: first -> last. Sigma of a regression has the unit of its target (laplace: b, the mean absolute error); "
    "of a classification sigma^2 is the temperature of the logits. Weight: sigma^-2 (laplace: 1/b). Share: of the "
    "weighted loss, mean over the last 10% of the steps. Missing: steps in which the task took no part. NaN: calls "
    "with a loss that was not finite."
)
MOST_ROWS = 40  # in a terminal
NAMED = 3  # tasks of which a finding is told in full, before the others are only named
WIDTH = 100
_COLOURS: dict[Severity, str] = {"fault": "bold red", "look": "yellow", "fine": "green"}
_MARKS: dict[Severity, str] = {"fault": "!", "look": "?", "fine": "-"}
_ZERO = ("0%", "0")


@dataclass(frozen=True)
class Row:
    """A row of the table: one task.

    Attributes:
        cells: Texts in the order of :data:`COLUMNS`.
        severity: Severity of the worst finding about the task.
    """

    cells: tuple[str, ...]
    severity: Severity


@dataclass(frozen=True)
class Summary:
    """The summary of a run.

    Attributes:
        title: Number of tasks and of steps.
        rows: A row for each task, in their order.
        findings: Severity and text of each finding; the same finding of many tasks is told once.
    """

    title: str
    rows: list[Row]
    findings: list[tuple[Severity, str]]

    def ordered(self) -> list[Row]:
        """Return all rows. If there are very many, those with findings come first."""
        if len(self.rows) <= MOST_ROWS:
            return self.rows
        return sorted(self.rows, key=lambda row: SEVERITIES.index(row.severity))


def summarize(history: History) -> Summary:
    """Summarize a history: its table and its findings.

    Raises:
        ValueError: If it has no points.
    """
    found = diagnose(history)
    words, shares = verdicts(history, found), shares_at_the_end(history)
    severities: dict[str, Severity] = {each.task: each.finding.severity for each in reversed(found) if each.task}
    too_short = any(each.finding is Finding.TOO_SHORT for each in found)  # which is said of each task that is learned
    rows = []
    for name, fact in history.facts.items():
        cells = name, *_cells(history, name, fact, shares.get(name, math.nan)), words[name]
        rows.append(Row(cells, severities.get(name, "look" if too_short and fact.learned else "fine")))
    title = f"{len(rows)} {'task' if len(rows) == 1 else 'tasks'} after {history.steps[-1]:,} steps"
    return Summary(title, rows, list(_digest(found)))


def print_summary(history: History, *, closing: str = "", stream: TextIO | None = None) -> None:
    """Print the summary: in colour where the output is a terminal and rich is there, else as plain text.

    Args:
        history: The history to summarize.
        closing: The last line.
        stream: The stream to print to; by default the standard output.

    Raises:
        ValueError: If the history has no points.
    """
    summary = summarize(history)
    stream = sys.stdout if stream is None else stream
    if stream.isatty() and find_spec("rich") is not None:
        _print_rich(summary, closing, stream)
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(as_text(summary, closing).encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def as_text(summary: Summary, closing: str = "") -> str:
    """Return the summary as plain text."""
    found = [f"{_MARKS[severity]} {text}" for severity, text in summary.findings]
    fill = partial(textwrap.fill, width=WIDTH, break_long_words=False, break_on_hyphens=False)
    parts = [str(_table(summary)), fill(NOTE), *(fill(text, subsequent_indent="  ") for text in found), closing]
    return "\n".join(part for part in parts if part)


def _print_rich(summary: Summary, closing: str, stream: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream)
    table = _table(summary, unsaid=_ZERO if console.width < WIDTH else ())  # where room is scarce
    console.print(table.rich(fixed=[i for i, name in enumerate(table.header) if name != "raw loss"]))
    console.print(Text(NOTE, style="dim"))
    for severity, text in summary.findings:
        console.print(Text.assemble((_MARKS[severity], _COLOURS[severity]), " ", text))
    if closing:
        console.print(Text(closing, style="bold"), soft_wrap=True)


def _table(summary: Summary, *, unsaid: tuple[str, ...] = ()) -> Table:
    """Return the table of the tasks without the columns that have nothing but empty cells or those ``unsaid``."""
    shown = summary.ordered()[:MOST_ROWS]
    hidden = len(summary.rows) - len(shown)
    used = [i for i in range(len(COLUMNS)) if any(row.cells[i] not in ("", *unsaid) for row in shown)]
    last = len(used) - 1  # the verdict, which is never empty
    return Table(
        [COLUMNS[i] for i in used],
        [[row.cells[i] for i in used] for row in shown],
        left=(0, 1, last),
        title=f"\nUncertainty weighting: {summary.title}",
        caption=f"... and {hidden} more tasks; the page has all of them." if hidden else "",
        styles={(index, last): _COLOURS[row.severity] for index, row in enumerate(shown)},
    )


def _cells(history: History, name: str, fact: TaskFacts, share: float) -> Iterator[str]:
    """Yield the cells between the name and the verdict."""
    losses = [loss for loss in history.series("raw_loss", name) if not math.isnan(loss)]
    yield fact.likelihood
    yield f"{losses[0]:.3g} -> {losses[-1]:.3g} {loss_unit(fact)}".rstrip() if losses else "none"
    yield _number(history.series("sigma", name)[-1], fact.unit)
    yield _number(history.series("precision", name)[-1], weight_unit(fact))
    yield "" if math.isnan(share) else f"{share:.1%}"
    yield f"{fact.absent / max(history.steps[-1], 1):.0%}"
    yield f"{fact.nonfinite:,}"


def _number(value: float, unit: str) -> str:
    return "" if math.isnan(value) else f"{value:.4g} {unit}".rstrip()


def loss_unit(fact: TaskFacts) -> str:
    """Return the unit of the raw loss, or "" if it is unknown."""
    if fact.likelihood in ("softmax", "softmax_exact", "bernoulli"):
        return "nats"
    return {"gaussian": f"{fact.unit}²", "laplace": fact.unit}.get(fact.likelihood, "") if fact.unit else ""


def weight_unit(fact: TaskFacts) -> str:
    """Return the unit of the effective weight, or "" if it is unknown or has none."""
    return {"gaussian": f"{fact.unit}⁻²", "laplace": f"{fact.unit}⁻¹"}.get(fact.likelihood, "") if fact.unit else ""


def _digest(found: Sequence[Diagnosis]) -> Iterator[tuple[Severity, str]]:
    """Yield a text for each diagnosis. If many tasks have the same one, some are told and the others named."""
    for finding, group in groupby(found, key=lambda each: each.finding):
        same = list(group)
        told = same if len(same) <= NAMED else same[:1]
        yield from ((finding.severity, str(each)) for each in told)
        if named := [repr(each.task) for each in same[len(told) :]]:
            more = f" and {len(named) - 4 * NAMED} more" if len(named) > 4 * NAMED else ""
            same_verdict = finding.verdict.format(bound="lower or upper")
            yield finding.severity, f"The same ({same_verdict}) of {', '.join(named[: 4 * NAMED])}{more}."
