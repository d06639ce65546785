"""A summary of a run: a table of its tasks and its findings, through rich, as plain text, or for a notebook."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import groupby

from lightning_uncertainty._arguments import listed
from lightning_uncertainty._warnings import FEW
from lightning_uncertainty.findings import SEVERITIES, Diagnosis, Finding, Severity
from lightning_uncertainty.reporting.diagnosis import diagnose, last_loss, shares_at_the_end
from lightning_uncertainty.reporting.history import History, TaskFacts
from lightning_uncertainty.reporting.markup import for_notebook
from lightning_uncertainty.reporting.scores import SCORE_NOTE, score_table
from lightning_uncertainty.reporting.tables import COLOURS, WIDTH, Table
from lightning_uncertainty.snapshot import QUANTILES, Snapshot, spread

COLUMNS = ("task", "likelihood", "raw loss", "sigma", "sigma_val", "weight", "share", "missing", "NaN", "verdict")
NOTES = {
    "raw loss": "Raw loss: first -> last, a mean over the last 10% of the steps.",
    "sigma": "Sigma of a regression has the unit of its target (laplace: b, the mean absolute error); sigma^2 of a "
    "classification is twice its loss, and no temperature to predict with.",
    "sigma_val": "Sigma_val: sigma on held-out data; x2 of a head (nll): its noise is half of what it should be.",
    "weight": "Weight: sigma^-2 (laplace: 1/b).",
    "share": "Share: of the weighted loss, mean over the last 10% of the steps.",
    "missing": "Missing: steps in which the task took no part.",
    "NaN": "NaN: calls with a loss that was not finite.",
}
NOTES_WITHOUT_SIGMA = {**NOTES, "weight": "Weight: the factor of the loss."}
MOST_ROWS, MOST_ON_PAGE = 40, 1000  # tasks in a terminal and on a page
_MARKS: dict[Severity, str] = {"fault": "!", "look": "?", "fine": "-"}


@dataclass(frozen=True)
class Summary:
    """The summary of a run.

    Attributes:
        heading: What was done, with the strategy if it is not the default one.
        title: Number of tasks and of steps.
        rows: The worst severity of each task, and its texts in the order of :data:`COLUMNS`. The tasks are in their
            order; of more than :data:`MOST_ROWS`, those with the highest and the lowest weight, share or loss come
            first, which the verdict says, then those with findings. None if no loss was weighed.
        findings: Severity and text of each finding; the same finding of many tasks is told once.
        scores: The scores of predictions on held-out data; None if there are none.
        spread: The texts of the quantiles over the tasks, likewise; none of up to :data:`MOST_ROWS` tasks.
        metrics: The metrics of the validations; None if there are none.
        about: Facts about the run, by name.
    """

    heading: str
    title: str
    rows: list[tuple[Severity, list[str]]]
    findings: list[tuple[Severity, str]]
    spread: list[list[str]] = field(default_factory=list)
    scores: Table | None = None
    metrics: Table | None = None
    about: Mapping[str, str] = field(default_factory=dict)


def summarize(history: History) -> Summary:
    """Summarize a history: its table and its findings.

    Raises:
        ValueError: If it has no points.
    """
    found, shares = diagnose(history), shares_at_the_end(history)
    if found[0].finding is Finding.UNWEIGHED:
        return Summary(history.heading, "nothing was weighed", [], [("fault", found[0].sentence)])
    too_short = any(each.finding is Finding.TOO_SHORT for each in found)  # which is said of each task that is learned
    rows: list[tuple[Severity, list[str]]] = []
    by_task = {name: [*same] for name, same in groupby(sorted(found, key=_task), key=_task)}  # faults first
    for name, fact in history.facts.items():
        severity: Severity = "look" if too_short and fact.learned else "fine"
        given = not fact.learned and (history.strategy in ("uncertainty", "fixed") or fact.likelihood == "fixed")
        verdict = "fixed weight" if given else "too short" if too_short and fact.learned else "fine"
        if mine := by_task.get(name):
            severity, verdict = mine[0].finding.severity, ", ".join(each.verdict for each in mine)
        rows.append(
            (severity, [" ".join(name.split()), *_cells(history, name, fact, shares.get(name, math.nan)), verdict])
        )
    title = f"{len(rows)} {'task' if len(rows) == 1 else 'tasks'} after {history.steps[-1]:,} steps"
    summary = Summary(
        history.heading,
        title,
        rows,
        list(_digest(found)),
        scores=score_table(history),
        metrics=_metric_table(history),
        about=history.about,
    )
    if len(rows) <= MOST_ROWS:
        return summary
    ends = {"raw loss": _ends(history, "raw_loss"), "weight": _ends(history, "precision"), "share": shares}
    said = _extremes({column: values for column, values in ends.items() if values})
    ordered = []
    for name, (severity, cells) in zip(history.tasks, rows, strict=True):
        cells[-1] = ", ".join([cells[-1], *said.get(name, ())])
        ordered.append((name not in said, SEVERITIES.index(severity)))
    rows = [row for _, row in sorted(zip(ordered, rows, strict=True), key=lambda pair: pair[0])]
    ends |= {quantity: _ends(history, quantity) for quantity in ("sigma", "sigma_val")}
    return replace(summary, rows=rows, spread=list(_spread(ends)))


def _metric_table(history: History) -> Table | None:
    rows = [[name, *(_number(value, "") or "NaN" for value in values)] for name, values in history.metrics.items()]
    return Table(("validation metric", "first", "lowest", "highest", "last"), rows) if rows else None


def _ends(history: History, quantity: str) -> dict[str, float]:
    """Return the last value of each task that has any."""
    ends = {name: history.series(quantity, name)[-1] for name in history.tasks}
    return {name: value for name, value in ends.items() if not math.isnan(value)}


def _extremes(columns: Mapping[str, Mapping[str, float]]) -> dict[str, list[str]]:
    """Return by task of which column it has the highest or the lowest value."""
    said: dict[str, list[str]] = {}
    for column, values in columns.items():
        for word, which in (("highest", max), ("lowest", min)):
            said.setdefault(which(values, key=values.__getitem__), []).append(f"{word} {column}")
    return said


def _spread(columns: Mapping[str, Mapping[str, float]]) -> Iterator[list[str]]:
    """Yield a row for each quantile over the tasks, the highest first."""
    quantiles = {column: spread(values.values()) for column, values in columns.items()}
    for key in reversed(QUANTILES):
        texts = {column: f"{values[key]:.4g}" for column, values in quantiles.items()}
        texts |= {"task": key, "share": f"{100.0 * quantiles['share'][key]:.3g}%"}
        yield ["" if (text := texts.get(column, "")) in ("nan", "nan%") else text for column in COLUMNS]


def print_summary(history: History, *, closing: str = "") -> None:
    """Print the summary: as a table of its own in a notebook, in colour where rich is there, else as plain text.

    Args:
        history: The history to summarize.
        closing: The last line.

    Raises:
        ValueError: If the history has no points.
    """
    summary, encoding = summarize(history), sys.stdout.encoding or "utf-8"
    if summary.rows and in_notebook():
        from IPython.display import display

        forms = {"text/html": as_html(summary, closing), "text/plain": as_text(summary, closing)}
        display(forms, raw=True)  # type: ignore[no-untyped-call]
        return
    drawn = encoding.lower().startswith("utf") and sys.stdout.isatty()  # any other would stop at the first sign
    if summary.rows and drawn and find_spec("rich") is not None:
        _print_rich(summary, closing)
        return
    # In one call, its end of the line included: what rich puts in place of the standard output while its bar is open
    # calls itself without end in a notebook if it is flushed between the two calls that `print` makes.
    sys.stdout.write(as_text(summary, closing).encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def in_notebook() -> bool:
    """Return True where what is displayed may be HTML: in a kernel of Jupyter."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def as_html(summary: Summary, closing: str = "") -> str:
    """Return the summary for a notebook."""
    title = f"{summary.heading}: {summary.title}"
    if not summary.rows:
        return for_notebook([], title=title, found=summary.findings)
    tables = [task_table(summary)]
    notes = [note_of(tables)]
    if summary.scores is not None:
        tables, notes = [*tables, summary.scores], [*notes, SCORE_NOTE]
    tables += [summary.metrics] if summary.metrics is not None else []
    return for_notebook(tables, title=title, found=summary.findings, notes=notes, about=summary.about, closing=closing)


def weights_html(snapshot: Snapshot) -> str:
    """Return the weights of one moment for a notebook."""
    history = History.of([snapshot])
    header = ("task", "likelihood", "raw loss", "sigma", "sigma_val", "weight", "share")
    rows = [
        [
            " ".join(name.split()),
            fact.likelihood,
            _number(history.series("raw_loss", name)[-1], loss_unit(fact)),
            _number(history.series("sigma", name)[-1], fact.unit),
            _held_out(history, name),
            _number(history.series("precision", name)[-1], weight_unit(fact)),
            _percent(snapshot.shares[name]),
        ]
        for name, fact in history.facts.items()
    ]
    table = Table(header, rows[:MOST_ROWS], left=(0, 1)).only(
        [i for i in range(len(header)) if any(r[i] for r in rows)]
    )
    more = [f"... and {len(rows) - MOST_ROWS:,} more tasks."] if len(rows) > MOST_ROWS else []
    return for_notebook([table], title=f"{history.heading} after {snapshot.step:,} steps", notes=more)


def as_text(summary: Summary, closing: str = "") -> str:
    """Return the summary as plain text."""
    if not summary.rows:
        return summary.findings[0][1]
    found = [f"{_MARKS[severity]} {text}" for severity, text in summary.findings]
    wrapper = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    tables = _fitting(summary, WIDTH)
    notes = [*map(wrapper.fill, [note_of(tables), *found, about_line(summary.about)]), closing]
    if summary.metrics is not None:
        notes[1:1] = [f"\n{_in_parts(summary.metrics.folded())}\n"]
    if summary.scores is not None:
        notes[1:1] = [f"\n{_in_parts(summary.scores.folded())}", wrapper.fill(SCORE_NOTE)]
    return "\n".join([f"\n{summary.heading}: {summary.title}", _in_parts(tables), *filter(None, notes)])


def note_of(tables: Sequence[Table]) -> str:
    """Return what the columns of those tables mean."""
    columns = {column for table in tables for column in table.header}
    notes = NOTES if "sigma" in columns else NOTES_WITHOUT_SIGMA
    return " ".join(text for column, text in notes.items() if column in columns)


def _in_parts(tables: Sequence[Table]) -> str:
    return "\n\n".join(map(str, tables))


def about_line(about: Mapping[str, str]) -> str:
    """Return the facts about a run in one line."""
    return ". ".join(f"{name}: {value}" for name, value in about.items()) + ("." if about else "")


def _print_rich(summary: Summary, closing: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(Text(f"\n{summary.heading}: {summary.title}", style="italic"))
    tables = _fitting(summary, console.width)
    for table in tables:
        console.print(table.rich(fixed=[i for i in range(len(table.header)) if i not in table.left]))
    console.print(Text(note_of(tables), style="dim"))
    if summary.scores is not None:
        console.print(summary.scores.rich())
        console.print(Text(SCORE_NOTE, style="dim"))
    if summary.metrics is not None:
        console.print(summary.metrics.rich(fixed=range(1, 5)))
    for severity, text in summary.findings:
        console.print(Text.assemble((_MARKS[severity], COLOURS[severity]), " ", text))
    if summary.about:
        console.print(Text(about_line(summary.about), style="dim"))
    if closing:
        console.print(Text(closing, style="bold"), soft_wrap=True)


def _fitting(summary: Summary, width: int) -> list[Table]:
    """Return the table of the tasks, or what of it has room.

    Columns of zeros go first. Then verdicts take several lines, and the likelihood goes, which the reader has written.
    If nothing helps, the table comes in parts.
    """
    whole, dense = task_table(summary), task_table(summary, ("", "0%", "0"))
    short = dense.only([place for place, title in enumerate(dense.header) if title != "likelihood"])
    for table in whole, dense, _with_short_verdicts(dense, width), short, _with_short_verdicts(short, width):
        if table.width <= width:
            return [table]
    return dense.wrapped(0, width // 3).wrapped(-1, width // 3).folded(width)


def _with_short_verdicts(table: Table, width: int) -> Table:
    room = width - table.width + table.widths[-1]
    return table.wrapped(-1, max(room, 12))


def task_table(summary: Summary, unsaid: tuple[str, ...] = ("",), *, page: bool = False) -> Table:
    """Return the table of the tasks without the columns that have nothing but ``unsaid`` cells.

    On a page it has more of the tasks, and the quantiles come first.
    """
    shown = summary.rows[: MOST_ON_PAGE if page else MOST_ROWS]
    rows, spread = [cells for _, cells in shown], summary.spread
    hidden, first = len(summary.rows) - len(shown), len(spread) if page else 0
    all_of_them = "the page" if len(summary.rows) <= MOST_ON_PAGE else "the history" if page else "callback.history"
    verdict = len(COLUMNS) - 1
    table = Table(
        COLUMNS,
        [*spread, *rows] if page else [*rows, *spread],
        left=(0, 1, verdict),
        sums=(len(shown),) if spread and not page else (),
        caption=f"... and {hidden:,} more tasks; {all_of_them} has all of them." if hidden else "",
        styles={(first + index, verdict): severity for index, (severity, _) in enumerate(shown)},
    )
    return table.only([i for i in range(len(COLUMNS)) if any(cells[i] not in unsaid for cells in rows)])


def _cells(history: History, name: str, fact: TaskFacts, share: float) -> Iterator[str]:
    """Yield the cells between the name and the verdict."""
    first = next((loss for loss in history.series("raw_loss", name) if not math.isnan(loss)), None)
    yield fact.likelihood
    last = last_loss(history, name)
    yield "none" if first is None else f"{first:.3g} -> {last:.3g} {loss_unit(fact)}".rstrip()
    yield _number(history.series("sigma", name)[-1], fact.unit)
    yield _held_out(history, name)
    yield _number(history.series("precision", name)[-1], weight_unit(fact))
    yield _percent(share)
    yield f"{fact.absent / max(history.steps[-1], 1):.0%}"
    yield f"{fact.nonfinite:,}"


def _held_out(history: History, name: str) -> str:
    """Return the noise on held-out data; of a head, which has its own, the factor of it."""
    fact, value = history.facts[name], history.series("sigma_val", name)[-1]
    return f"x{value:.3g}" if fact.likelihood == "nll" and not math.isnan(value) else _number(value, fact.unit)


def _number(value: float, unit: str) -> str:
    return "" if math.isnan(value) else f"{value:.4g} {unit}".rstrip()


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.1%}"


def loss_unit(fact: TaskFacts) -> str:
    """Return the unit of the raw loss, or "" if it is unknown."""
    if fact.likelihood in ("softmax", "softmax_exact", "bernoulli", "nll"):
        return "nats"
    unit = {"gaussian": _power(fact.unit, "²"), "laplace": fact.unit}.get(fact.likelihood)
    return unit or ""


def weight_unit(fact: TaskFacts) -> str:
    """Return the unit of the effective weight, or "" if it is unknown or has none."""
    return _power(fact.unit, {"gaussian": "⁻²", "laplace": "⁻¹"}.get(fact.likelihood, ""))


def _power(unit: str | None, exponent: str) -> str:
    """Return a power of a unit, in brackets if the unit is not one word or sign: ``(m/s)²`` beside ``m²``."""
    if not unit or not exponent:
        return ""
    return f"{unit}{exponent}" if len(unit) == 1 or unit.lstrip("°$€").isalpha() else f"({unit}){exponent}"


def _task(diagnosis: Diagnosis) -> str:
    return diagnosis.task or ""


def _digest(found: Sequence[Diagnosis]) -> Iterator[tuple[Severity, str]]:
    """Yield a text for each diagnosis. If many tasks have the same one, some are told and the others named."""
    for finding, group in groupby(found, key=lambda each: each.finding):
        same = list(group)
        told = same if len(same) <= FEW else same[:1]
        yield from ((finding.severity, str(each)) for each in told)
        if named := [each.task for each in same[len(told) :]]:
            same_verdict = finding.verdict.format(bound="lower or upper")
            yield finding.severity, f"The same ({same_verdict}) of {listed(named)}."
