"""The page of a run or a comparison: one HTML file that needs no network."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from itertools import chain, compress
from typing import Any

from lightning_uncertainty.reporting import figures, gradients
from lightning_uncertainty.reporting.files import ComparisonFile, ReportContent
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.scores import SCORE_NOTE
from lightning_uncertainty.reporting.summary import COLUMNS, MOST_ON_PAGE, summarize

GENERATOR = '<meta name="generator" content="lightning-uncertainty">'  # by which a page is known
_INK = "#010203"  # what is drawn in it has the colour of the text, light or dark
_WORDS = {"fault": "Mend it", "look": "Have a look", "fine": "Fine"}
_SIZE = 5.0, 3.7  # inches: on a phone, text is then as large as it says


def build_page(content: ReportContent) -> str:
    """Return the page as text: the findings, the table of all tasks, and the plots if matplotlib is there.

    Raises:
        ValueError: If the history has no points.
    """
    title = _text(content.title)
    body = [f"<h1>{title}</h1>"]
    body += _comparison(content.comparison) if content.comparison is not None else []
    if content.notes:
        body += ['<ul class="notes">', *(f"<li><span>{_prose(note)}</span></li>" for note in content.notes), "</ul>"]
    body += _run(content.history) if content.history is not None else []
    for name, snapshots in content.gradients.items():
        body += _gradients(name, snapshots)
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    head = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>"
    )
    return "\n".join([head, "<body>", *body, "</body>", "</html>", ""])


def _run(history: History) -> Iterator[str]:
    summary = summarize(history)
    yield f"<p>{_text(summary.title)}. Strategy: {_text(history.strategy)}.</p>"
    yield "<h2>What stands out</h2><ul>"
    for severity, text in summary.findings:
        yield f'<li class="{severity}"><b>{_WORDS[severity]}.</b> <span>{_prose(text)}</span></li>'
    yield "</ul><h2>Tasks</h2>"
    shown = summary.rows[:MOST_ON_PAGE]
    rows = ([*map(_text, row[:-1]), f'<span class="{worst}">{_text(row[-1])}</span>'] for worst, row in shown)
    used = [any(cells[place] for _, cells in summary.rows) for place in range(len(COLUMNS))]
    every = chain(([*map(_text, row)] for row in summary.spread), rows)
    yield from _table("tasks", [*compress(COLUMNS, used)], (compress(row, used) for row in every))
    if hidden := len(summary.rows) - len(shown):
        yield f"<p>... and {hidden:,} more tasks; the history has all of them.</p>"
    yield f'<p class="quiet">{_text(summary.note)}</p>'
    if (scores := summary.scores) is not None:
        yield "<h2>Predictions on held-out data</h2>"
        yield from _table("scores", scores.header, ([*map(_text, row)] for row in scores.rows))
        yield f'<p class="quiet">{_text(SCORE_NOTE)}</p>'
        yield from _figures({"Can the predictions be relied on?": figures.plot_reliability}, history)
    yield "<h2>Over the steps</h2>"
    yield from _figures(figures.plots_of(history), history)


def _comparison(comparison: ComparisonFile) -> Iterator[str]:
    heading, *rows = comparison.table
    yield "<h2>Does it help?</h2>"
    yield from (f"<p>{_text(sentence)}</p>" for sentence in comparison.sentences)
    yield from _table("compared", heading, ([_text(cell) for cell in row] for row in rows))
    yield from (f'<p class="quiet">{_text(text)}</p>' for text in (comparison.caption, *comparison.notes) if text)


def _gradients(name: str, snapshots: Sequence[gradients.GradientSnapshot]) -> Iterator[str]:
    steps = f"{len(snapshots)} steps" if len(snapshots) > 1 else "1 step"
    yield f"<h2>Gradients of {_text(name)}</h2>"
    yield (
        f"<p>What each task does to the shared part of the network, as GradientView saw it in {steps}. "
        "Weights change the norms, and leave the angles as they are.</p>"
    )
    yield from _figures(gradients.PLOTS, snapshots)


def _table(kind: str, heading: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield a table. Its cells are HTML; each has the name of its column, which a phone shows beside it."""
    names = [_text(name) for name in heading]
    head = "".join(f"<th>{name}</th>" for name in names)
    yield f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>'
    for row in rows:
        cells = "".join(f'<td data-is="{name}">{cell}</td>' for name, cell in zip(names, row, strict=True))
        yield f"<tr>{cells}</tr>"
    yield "</tbody></table></div>"


def _figures(plots: Mapping[str, Callable[..., Any]], data: Any) -> Iterator[str]:
    """Yield a figure for each plot of the data, with its caption."""
    if find_spec("matplotlib") is None:
        yield '<p>The plots need matplotlib: <code>pip install "lightning-uncertainty[report]"</code></p>'
        return
    yield '<div class="figures">'
    for caption, plot in plots.items():
        yield f"<figure><figcaption>{_text(caption)}</figcaption>{_svg(caption, plot, data)}</figure>"
    yield "</div>"


def _svg(label: str, plot: Callable[..., Any], data: Any) -> str:
    """Return a plot as inline SVG, with text and axes in the colour of the page's text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink: Any = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    with mpl.rc_context({**dict.fromkeys(ink, _INK), "svg.hashsalt": label}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        plot(figure.subplots(), data)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None}, dpi=150)
    _, _, svg = buffer.getvalue().partition("<svg")
    return f'<svg role="img" aria-label="{_text(label)}"{svg}'.replace(_INK, "currentColor")


def _text(text: str) -> str:
    return html.escape(text.replace("->", "→"))


def _prose(text: str) -> str:
    """Return the text as HTML, with the words between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))
