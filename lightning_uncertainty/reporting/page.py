"""The page of a run or a comparison: one HTML file that needs no network."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_uncertainty.reporting.figures import PLOTS
from lightning_uncertainty.reporting.files import write_whole
from lightning_uncertainty.reporting.gradients import (
    GradientSnapshot,
    plot_cosine_range,
    plot_cosines,
    plot_gradient_norms,
)
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.run_file import ComparisonFile
from lightning_uncertainty.reporting.summary import COLUMNS, NOTE, Summary, summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["build_page", "is_page", "write_page"]

_INK = "#010203"  # what is drawn in it has the colour of the text, light or dark

_CAPTIONS = {
    "weights": "How much each task counts: its weight",
    "sigmas": "How uncertain each task is: its sigma",
    "raw losses": "How well each task is learned: its raw loss",
    "shares": "Share of each task in the weighted loss",
}
Plot = Callable[[Any, Any], Any]
_SIZE = 5.0, 3.7  # inches: on a phone, text is then as large as it says
_DRAWN = 20_000  # points of all lines of a figure, so that the page stays small
_MARK = '<meta name="generator" content="lightning-uncertainty">'


def build_page(
    history: History | None,
    *,
    title: str = "Uncertainty weighting",
    notes: Sequence[str] = (),
    gradients: Mapping[str, Sequence[GradientSnapshot]] | None = None,
    comparison: ComparisonFile | None = None,
) -> str:
    """Return the page as text: the findings, the table of all tasks, and the plots if matplotlib is there.

    Args:
        history: History of the run; None if there is only a comparison.
        title: Title of the page.
        notes: Sentences that a reader should know besides, for example what could not be read.
        gradients: Snapshots of each GradientView, by the name of its module.
        comparison: The comparison that the run is part of, if any.

    Raises:
        ValueError: If the history has no points, or there is neither history nor comparison.
    """
    if history is None and comparison is None:
        raise ValueError("There is nothing to show: neither a history nor a comparison.")
    body = [f"<h1>{_text(title)}</h1>"]
    if comparison is not None:
        body += _comparison(comparison)
    body += _list("notes", (f"<span>{_prose(note)}</span>" for note in notes))
    body += _run(history) if history is not None else []
    for name, snapshots in (gradients or {}).items():
        body += _gradients(name, snapshots)
    head = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_MARK}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{_style()}</style>\n</head>"
    )
    return "\n".join([head, "<body>", *body, "</body>", "</html>", ""])


def write_page(path: Path, history: History | None, **options: Any) -> Path:
    """Write :func:`build_page` with its ``options`` to ``path``, whose folder exists: all of it or nothing.

    Returns:
        ``path``.

    Raises:
        ValueError: As :func:`build_page` does.
    """
    write_whole(path, build_page(history, **options))
    return path


def is_page(path: Path) -> bool:
    """Return whether a file is a page that was written by :func:`write_page`."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return _MARK in file.read(1000)


def _style() -> str:
    return files(__package__).joinpath("page.css").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------- sections


def _run(history: History) -> Iterator[str]:
    summary = summarize(history)
    yield f"<p>{_text(summary.title)}.</p>"
    yield "<h2>What stands out</h2>"
    yield from _findings(summary)
    yield "<h2>Tasks</h2>"
    yield from _table(summary)
    yield f'<p class="quiet">{_arrows(NOTE)}</p>'
    yield "<h2>Over the steps</h2>"
    yield from _figures(
        (_CAPTIONS[name], f"{name} of the tasks over the steps", PLOTS[name], history) for name in PLOTS
    )


def _findings(summary: Summary) -> Iterator[str]:
    words = {"fault": "Mend it", "look": "Have a look", "fine": "Fine"}
    yield "<ul>"
    for severity, text in summary.findings:
        yield f'<li class="{severity}"><b>{words[severity]}.</b> <span>{_prose(text)}</span></li>'
    yield "</ul>"


def _table(summary: Summary) -> Iterator[str]:
    rows = summary.ordered()
    if rows != summary.rows:
        yield '<p class="quiet">Tasks of which something is found come first.</p>'
    yield '<div class="scroll"><table class="tasks">'
    yield f"<thead><tr>{''.join(f'<th>{_text(column)}</th>' for column in COLUMNS)}</tr></thead><tbody>"
    for row in rows:
        *cells, verdict = map(_arrows, row.cells)
        told = "".join(f'<td data-is="{COLUMNS[i]}">{cell}</td>' for i, cell in enumerate(cells))
        yield f'<tr>{told}<td data-is="{COLUMNS[-1]}" class="{row.severity}">{verdict}</td></tr>'
    yield "</tbody></table></div>"


def _comparison(comparison: ComparisonFile) -> Iterator[str]:
    heading, *rows = comparison.table
    yield "<h2>Does it help?</h2>"
    yield from (f"<p>{_text(sentence)}</p>" for sentence in comparison.sentences)
    yield '<div class="scroll"><table class="compared">'
    yield f"<thead><tr>{''.join(f'<th>{_text(cell)}</th>' for cell in heading)}</tr></thead><tbody>"
    yield from (f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    yield "</tbody></table></div>"
    yield from (f'<p class="quiet">{_text(text)}</p>' for text in (comparison.caption, *comparison.notes) if text)


def _gradients(name: str, snapshots: Sequence[GradientSnapshot]) -> Iterator[str]:
    steps = f"{len(snapshots)} steps" if len(snapshots) > 1 else "1 step"
    yield f"<h2>Gradients of {_text(name)}</h2>"
    yield (
        f"<p>What each task does to the shared part of the network, as GradientView saw it in {steps}. "
        "Weights change the norms, and leave the angles as they are.</p>"
    )
    drawn = _thinned(snapshots)
    figures: dict[str, tuple[str, Plot]] = {
        "Weighted: what each task does to the network": ("norms of the weighted gradients", plot_gradient_norms),
        "Raw: before weighting": ("norms of the raw gradients", _plot_raw_norms),
    }
    if len(snapshots[-1].norms) > 1:
        figures["Angles of all pairs: below 0, tasks pull apart"] = "range of the cosines", plot_cosine_range
        if any(snapshot.cosines for snapshot in snapshots):
            figures["Angle of each pair, mean over the steps"] = "cosines of the pairs", plot_cosines
        else:
            yield '<p class="quiet">Angles of single pairs are not shown: a log of over 8 tasks has none.</p>'
    yield from _figures((caption, label, plot, drawn) for caption, (label, plot) in figures.items())


def _plot_raw_norms(axis: Axes, snapshots: Sequence[GradientSnapshot]) -> Axes:
    return plot_gradient_norms(axis, snapshots, weighted=False)


def _thinned(snapshots: Sequence[GradientSnapshot]) -> Sequence[GradientSnapshot]:
    """Return so many of them that the page stays small: evenly, with the first and the last."""
    most = max(_DRAWN // max(len(snapshots[-1].norms), 1), 2)
    if len(snapshots) <= most:
        return snapshots
    return [snapshots[round(place * (len(snapshots) - 1) / (most - 1))] for place in range(most)]


# ---------------------------------------------------------------------------------------------------- parts


def _figures(figures: Iterable[tuple[str, str, Plot, Any]]) -> Iterator[str]:
    """Yield the figures. Each is given by a caption, a label for those who cannot see it, a plot, and its data."""
    if find_spec("matplotlib") is None:
        yield '<p>The plots need matplotlib: <code>pip install "lightning-uncertainty[report]"</code></p>'
        return
    yield '<div class="figures">'
    for caption, label, plot, of in figures:
        yield f"<figure><figcaption>{_text(caption)}</figcaption>{_svg(label, plot, of)}</figure>"
    yield "</div>"


def _svg(label: str, plot: Plot, of: Any) -> str:
    """Return a plot as inline SVG, with text and axes in the colour of the page's text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink: Any = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    with mpl.rc_context({**dict.fromkeys(ink, _INK), "svg.hashsalt": label}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        plot(figure.subplots(), of)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    labelled = f'<svg role="img" aria-label="{_text(label)}"'
    return svg[svg.index("<svg") :].replace("<svg", labelled, 1).replace(_INK, "currentColor")


def _list(kind: str, items: Iterable[str]) -> Iterator[str]:
    lines = [f"<li>{item}</li>" for item in items]
    return iter([f'<ul class="{kind}">', *lines, "</ul>"] if lines else [])


def _text(text: str) -> str:
    return html.escape(text)


def _arrows(text: str) -> str:
    return _text(text.replace("->", "→"))


def _prose(text: str) -> str:
    """Return the text as HTML, with the words between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))
