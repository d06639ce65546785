"""One HTML page with all there is to say of a run, in a single file that needs no network."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_uncertainty.reporting.figures import PLOTS
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.summary import COLUMNS, NOTE, Summary, summarize

__all__ = ["build_page", "write_page"]

_INK = "#010203"  # what is drawn in it has the colour of the text, light or dark

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c1e21; --quiet: #5d6673; --line: #d5d9de;
  --fault: #b3261e; --look: #8a5a00; --fine: #14703c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181d; --ink: #e6e8eb; --quiet: #9aa3ae; --line: #363b44;
  --fault: #ff8a80; --look: #ffc45c; --fine: #6fd896; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.15rem; margin: 1.5rem 0 0.5rem; }
p, figcaption { margin: 0.3rem 0; } .quiet, figcaption { color: var(--quiet); font-size: 0.875rem; }
ul { list-style: none; padding: 0; margin: 0; }
li { border-left: 0.3rem solid; padding: 0.2rem 0.8rem; margin: 0.5rem 0; }
li span { color: var(--ink); } li b { font-weight: 600; }
.fault { color: var(--fault); } .look { color: var(--look); } .fine { color: var(--fine); }
.scroll { overflow: auto; max-height: 36rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--paper); }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2), th:last-child, td:last-child { text-align: left; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; min-width: 0; overflow-x: auto; } svg { width: 100%; height: auto; }
@media print { .scroll { overflow: visible; max-height: none; } }
"""


def build_page(history: History, *, title: str = "Uncertainty weighting", notes: Sequence[str] = ()) -> str:
    """The page as text: what was found, the table of all tasks, and the plots if matplotlib is there.

    Args:
        history: of the run.
        title: of the page.
        notes: what else a reader should know, for example what could not be read.

    Raises:
        ValueError: if the history has no points.
    """
    summary = summarize(history)
    body = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(summary.title)}.</p>",
        *(f'<p class="quiet">{_text(note)}</p>' for note in notes),
        "<h2>What stands out</h2>",
        *_findings(summary),
        "<h2>Tasks</h2>",
        *_table(summary),
        f'<p class="quiet">{_text(NOTE)}</p>',
        "<h2>Over the steps</h2>",
        *_figures(history),
    ]
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>"
    )
    return "\n".join([head, "<body>", *body, "</body>", "</html>", ""])


def write_page(
    path: Path, history: History, *, title: str = "Uncertainty weighting", notes: Sequence[str] = ()
) -> Path:
    """Write :func:`build_page` to ``path``; the folder exists.

    Returns:
        ``path``.

    Raises:
        ValueError: if the history has no points.
    """
    path.write_text(build_page(history, title=title, notes=notes), encoding="utf-8")
    return path


def _findings(summary: Summary) -> Iterator[str]:
    words = {"fault": "Mend it", "look": "Have a look", "fine": "Fine"}
    yield "<ul>"
    for severity, text in summary.findings:
        yield f'<li class="{severity}"><b>{words[severity]}.</b> <span>{_text(text)}</span></li>'
    yield "</ul>"


def _table(summary: Summary) -> Iterator[str]:
    yield '<div class="scroll"><table>'
    yield f"<thead><tr>{''.join(f'<th>{_text(column)}</th>' for column in COLUMNS)}</tr></thead><tbody>"
    for row in summary.rows:
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in row.cells[:-1])
        yield f'<tr>{cells}<td class="{row.severity}">{_text(row.cells[-1])}</td></tr>'
    yield "</tbody></table></div>"


def _figures(history: History) -> Iterator[str]:
    if find_spec("matplotlib") is None:
        yield '<p>The plots need matplotlib: <code>pip install "lightning-uncertainty[report]"</code></p>'
        return
    yield '<div class="figures">'
    for name in PLOTS:
        yield f"<figure>{_svg(history, name)}</figure>"
    yield "</div>"


def _svg(history: History, name: str) -> str:
    """One plot as inline SVG: text and axes in the colour of the page's text, on the page's paper."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink: Any = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    with mpl.rc_context({**dict.fromkeys(ink, _INK), "svg.hashsalt": name}):
        figure = Figure(figsize=(5.8, 4.1), layout="constrained")
        PLOTS[name](figure.subplots(), history)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    label = f'<svg role="img" aria-label="{_text(name)} of the tasks over the steps"'
    return svg[svg.index("<svg") :].replace("<svg", label, 1).replace(_INK, "currentColor")


def _text(text: str) -> str:
    return html.escape(text)
