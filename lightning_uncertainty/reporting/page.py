"""One HTML page with all there is to say of a run, in a single file that needs no network."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_uncertainty.reporting.comparison_files import ComparisonTable
from lightning_uncertainty.reporting.figures import PLOTS
from lightning_uncertainty.reporting.files import write_whole
from lightning_uncertainty.reporting.gradients import (
    GradientSnapshot,
    plot_cosine_range,
    plot_cosines,
    plot_gradient_norms,
)
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.summary import COLUMNS, NOTE, Summary, summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["build_page", "is_page", "write_page"]

_INK = "#010203"  # what is drawn in it has the colour of the text, light or dark

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c1e21; --quiet: #5d6673; --line: #d5d9de;
  --shade: #eef0f2;
  --fault: #b3261e; --look: #8a5a00; --fine: #14703c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181d; --ink: #e6e8eb; --quiet: #9aa3ae; --line: #363b44;
  --shade: #262a32;
  --fault: #ff8a80; --look: #ffc45c; --fine: #6fd896; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
p { margin: 0.3rem 0; max-width: 60rem; } .quiet { color: var(--quiet); font-size: 0.875rem; }
figcaption { font-weight: 600; font-size: 0.9rem; margin: 0.5rem 0 0.2rem; }
code { font-size: 0.9em; background: var(--shade); padding: 0.05em 0.25em; border-radius: 0.2em; }
ul { list-style: none; padding: 0; margin: 0; max-width: 60rem; }
li { border-left: 0.3rem solid; padding: 0.2rem 0.8rem; margin: 0.5rem 0; }
li span { color: var(--ink); } li b { font-weight: 600; }
.fault { color: var(--fault); } .look { color: var(--look); } .fine { color: var(--fine); }
.notes li { border-color: var(--line); color: var(--quiet); font-size: 0.875rem; margin: 0.3rem 0; }
.scroll { overflow: auto; max-height: 36rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--paper); }
th:first-child, td:first-child, .tasks th:nth-child(2), .tasks td:nth-child(2), .tasks th:last-child,
  .tasks td:last-child { text-align: left; }
.tasks td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 1rem 2rem; }
figure { margin: 0; min-width: 0; } svg { display: block; width: 100%; max-width: 42rem; height: auto; }
@media (max-width: 48rem) {
  .tasks { display: block; } .tasks thead { display: none; }
  .tasks tbody { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 0 2rem; }
  .tasks tr { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 1.5rem; padding: 0.5rem 0;
    border-bottom: 1px solid var(--line); }
  .tasks td { display: flex; justify-content: space-between; gap: 0.5rem; padding: 0.05rem 0; border: 0; order: 3;
    white-space: normal; overflow-wrap: anywhere; }
  .tasks td::before { content: attr(data-is); color: var(--quiet); }
  .tasks td:first-child::before, .tasks td:last-child::before { content: none; }
  .tasks td:first-child { order: 0; font-weight: 600; }
  .tasks td:last-child { order: 1; justify-content: end; text-align: right; }
  .tasks td:nth-child(2), .tasks td:nth-child(8) { order: 2; }
  .tasks td:nth-child(3) { grid-column: 1 / -1; }
  .compared th, .compared td { white-space: normal; overflow-wrap: anywhere; padding: 0.3rem; }
  .scroll { max-height: 80vh; }
}
@media print { .scroll { overflow: visible; max-height: none; } figure { break-inside: avoid; } }
"""

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
    comparison: ComparisonTable | None = None,
) -> str:
    """The page as text: what was found, the table of all tasks, and the plots if matplotlib is there.

    Args:
        history: of the run; None if there is only a comparison.
        title: of the page.
        notes: what else a reader should know, for example what could not be read.
        gradients: what gradient views have seen, by what follows the word in the heading: "of encoder".
        comparison: that the run is part of.

    Raises:
        ValueError: if the history has no points, or there is neither history nor comparison.
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
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>"
    )
    return "\n".join([head, "<body>", *body, "</body>", "</html>", ""])


def write_page(path: Path, history: History | None, **options: Any) -> Path:
    """Write :func:`build_page` with its ``options`` to ``path``, all of it or nothing; the folder exists.

    Returns:
        ``path``.

    Raises:
        ValueError: as :func:`build_page` does.
    """
    write_whole(path, build_page(history, **options))
    return path


def is_page(path: Path) -> bool:
    """Whether a file is a page that was written here."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return _MARK in file.read(1000)


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


def _comparison(comparison: ComparisonTable) -> Iterator[str]:
    heading, *rows = comparison.rows
    yield "<h2>Does it help?</h2>"
    yield from (f"<p>{_text(sentence)}</p>" for sentence in comparison.sentences)
    yield '<div class="scroll"><table class="compared">'
    yield f"<thead><tr>{''.join(f'<th>{_text(cell)}</th>' for cell in heading)}</tr></thead><tbody>"
    yield from (f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    yield "</tbody></table></div>"
    yield from (f'<p class="quiet">{_text(text)}</p>' for text in (comparison.caption, *comparison.notes) if text)


def _gradients(name: str, snapshots: Sequence[GradientSnapshot]) -> Iterator[str]:
    steps = f"{len(snapshots)} steps" if len(snapshots) > 1 else "1 step"
    yield f"<h2>Gradients {_text(name)}</h2>"
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
    """Evenly, the first and the last among them."""
    most = max(_DRAWN // max(len(snapshots[-1].norms), 1), 2)
    if len(snapshots) <= most:
        return snapshots
    return [snapshots[round(place * (len(snapshots) - 1) / (most - 1))] for place in range(most)]


# ---------------------------------------------------------------------------------------------------- parts


def _figures(figures: Iterable[tuple[str, str, Plot, Any]]) -> Iterator[str]:
    """Of a caption, a label for who cannot see it, what draws it, and of what."""
    if find_spec("matplotlib") is None:
        yield '<p>The plots need matplotlib: <code>pip install "lightning-uncertainty[report]"</code></p>'
        return
    yield '<div class="figures">'
    for caption, label, plot, of in figures:
        yield f"<figure><figcaption>{_text(caption)}</figcaption>{_svg(label, plot, of)}</figure>"
    yield "</div>"


def _svg(label: str, plot: Plot, of: Any) -> str:
    """One plot as inline SVG: text and axes in the colour of the page's text, on the page's paper."""
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
    """With what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))
