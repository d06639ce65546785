"""The page of a run or a comparison: one HTML file that needs no network."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lightning_uncertainty.reporting import figures, gradients
from lightning_uncertainty.reporting.files import ReportContent
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.markup import render
from lightning_uncertainty.reporting.scores import SCORE_NOTE
from lightning_uncertainty.reporting.summary import MOST_ROWS, note_of, summarize, task_table
from lightning_uncertainty.reporting.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GENERATOR = '<meta name="generator" content="lightning-uncertainty">'  # by which a page is known
_INK = "#010203"  # what is drawn in it has the colour of the text, light or dark
_SIZE = 5.0, 3.7  # inches: on a phone, text is then as large as it says
_DOTS = 72.0  # of an SVG, per inch


def build_page(content: ReportContent) -> str:
    """Return the page as text: the findings, the table of all tasks, and the plots if matplotlib is there.

    Raises:
        ValueError: If the history has no points.
    """
    return render(
        "page.html",
        content=content,
        compared=_compared(content),
        generator=GENERATOR,
        gradients=[(name, len(seen), _figures(gradients.PLOTS, seen)) for name, seen in content.gradients.items()],
        most=MOST_ROWS,
        run=None if content.history is None else _run(content.history),
        score_note=SCORE_NOTE,
    )


def _compared(content: ReportContent) -> Table | None:
    if content.comparison is None:
        return None
    heading, *rows = content.comparison.table
    return Table(heading, rows, caption=content.comparison.caption)


def _run(history: History) -> dict[str, Any]:
    summary = summarize(history)
    reliability = {"Can the predictions be relied on?": figures.plot_reliability} if summary.scores else {}
    tasks = task_table(summary, page=True)
    return {
        "summary": summary,
        "tasks": tasks,
        "note": note_of([tasks]),
        "reliability": _figures(reliability, history),
        "figures": _figures(figures.plots_of(history), history),
    }


def _figures(plots: Mapping[str, Callable[..., Any]], data: Any) -> dict[str, str] | None:
    """Return a figure as inline SVG for each plot of the data, by caption; None without matplotlib."""
    if find_spec("matplotlib") is None:
        return None
    return {caption: _svg(caption, plot, data) for caption, plot in plots.items()}


def _svg(label: str, plot: Callable[..., Any], data: Any) -> str:
    """Return a plot as inline SVG, with text and axes in the colour of the page's text, and values to point at."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink: Any = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    with mpl.rc_context({**dict.fromkeys(ink, _INK), "svg.hashsalt": label}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axis = figure.subplots()
        plot(axis, data)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None}, dpi=150)
    _, _, svg = buffer.getvalue().partition("<svg")
    values = render("readings.html", **_readings(axis, figures.readings(plot, axis, data)))
    svg = svg.replace("</svg>", f"{values}</svg>")
    return f'<svg role="img" aria-label="{html.escape(label)}"{svg}'.replace(_INK, "currentColor")


def _readings(axis: Axes, read: list[tuple[int, list[str]]]) -> dict[str, Any]:
    """Return where in a picture each step lies, and where there is room for its values, in points from the top left."""
    (left, low), (right, high) = axis.get_position().get_points() * [_SIZE[0] * _DOTS, _SIZE[1] * _DOTS]
    first, last = axis.get_xlim()
    at = [left + (right - left) * (step - first) / (last - first) for step, _ in read]
    ends = [left, *((a + b) / 2.0 for a, b in pairwise(at)), right]
    bands = [
        {"step": f"{step:,}", "lines": lines, "at": x, "from": begin, "to": end}
        for (step, lines), x, begin, end in zip(read, at, ends, ends[1:], strict=False)
    ]
    return {"bands": bands, "left": left, "right": right, "top": _SIZE[1] * _DOTS - high, "height": high - low}
