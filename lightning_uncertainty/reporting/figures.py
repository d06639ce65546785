"""Pictures of a run. Every plotting function takes an axis, draws on it and returns it.

Few tasks have a line each, in the legend in the order of their ends. Of more, all are thin and grey but for those that
end highest and lowest. Very many are a band, with these on top. The colours keep a contrast of at least 3 on white and
on dark grey, so that a transparent picture serves both.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_uncertainty._arguments import require
from lightning_uncertainty.reporting.diagnosis import shares_at_the_end
from lightning_uncertainty.reporting.history import History, TaskFacts
from lightning_uncertainty.reporting.scores import scores_of
from lightning_uncertainty.reporting.summary import loss_unit, summarize, weight_unit
from lightning_uncertainty.snapshot import BINS, QUANTILES, Score, Snapshot, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["overview", "plot_raw_losses", "plot_reliability", "plot_shares", "plot_sigmas", "plot_weights"]

# Okabe and Ito, "Color universal design", 2008, of medium lightness: without black and yellow, orange and sky darker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#A67600", "#2A8FBD")
LINE_STYLES = ("-", (0, (5, 1.5)))  # in turn, dashes on top, so that of two lines in one place both are seen
GREY = "#808080"
FEW = 8  # tasks: up to so many, each has its name
EXTREMES = 3  # named at the top, and as many at the bottom
MOST_LINES = 300  # tasks: of more, a band instead of a grey line each
LARGEST = 4  # named in a stacked area
SMOOTHED_FROM = 100  # points; below, nothing needs smoothing

Points = History | Iterable[Snapshot]


def plot_weights(axis: Axes, points: Points) -> Axes:
    """Plot the effective weight of every task over the steps, logarithmic.

    Args:
        axis: The axis to draw on.
        points: A history, or snapshots in order of their steps.

    Returns:
        ``axis``.

    Raises:
        ValueError: If there are no points.
    """
    history = _checked(points)
    laplace = any(fact.likelihood == "laplace" for fact in history.facts.values())
    effective = r"effective weight $\sigma^{-2}$" + (" (Laplace: 1/b)" if laplace else "")
    axis.set_ylabel(effective if history.strategy == "uncertainty" else "weight: the factor of the loss")
    return _plot_quantity(axis, history, "precision", weight_unit)


def plot_sigmas(axis: Axes, points: Points) -> Axes:
    """Plot sigma of every learned task over the steps, logarithmic; of few tasks also that on held-out data, dotted.

    Arguments as in :func:`plot_weights`.
    """
    history = _checked(points)
    axis.set_ylabel(r"$\sigma$, in the unit of the target")
    _plot_quantity(axis, history, "sigma", lambda fact: fact.unit)
    lines = {line.get_label(): line for line in axis.get_lines()}
    for name in history.tasks if len(history.tasks) <= FEW else ():
        held_out = history.series("sigma_val", name)
        if name in lines and not all(map(math.isnan, held_out)):
            axis.plot(history.steps, held_out, color=lines[name].get_color(), linestyle=":", linewidth=1.4)
            axis.set_ylabel("$\\sigma$, in the unit of the target\n(dotted: on held-out data)")
    return axis


def plot_raw_losses(axis: Axes, points: Points) -> Axes:
    """Plot the raw loss of every task over the steps, logarithmic: each point faint, a moving median strong.

    Arguments as in :func:`plot_weights`.
    """
    axis.set_ylabel("raw training loss, before weighting")
    return _plot_quantity(axis, _checked(points), "raw_loss", loss_unit)


def plot_shares(axis: Axes, points: Points) -> Axes:
    """Plot each task's part of the weighted loss over the steps, stacked to 1; of many, the largest are named, and of
    very many each is a part by itself.

    Negative parts, of negative losses, are drawn as 0. Arguments as in :func:`plot_weights`.
    """
    history = _checked(points)
    if len(history.tasks) > MOST_LINES:
        axis.set_ylabel("share of the weighted loss")
        return plot_lines(axis, history.steps, history.shares(), units={})
    rows = _stacked(history)
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(rows))]
    if len(history.tasks) > FEW:
        colours[LARGEST:] = [GREY]
    means = shares_at_the_end(history)
    shares = {name: means.get(name, row[-1]) for name, row in rows.items()}  # the mean is the one in the summary
    texts = [f"{shortened(name)} {share:.{0 if share >= 0.1 else 1}%}" for name, share in shares.items()]
    steps = [float(step) for step in history.steps]
    if len(history) == 1:  # one point makes no area
        steps, rows = [steps[0] - 0.5, steps[0] + 0.5], {name: row * 2 for name, row in rows.items()}
    areas = axis.stackplot(steps, *rows.values(), colors=colours, labels=rows, alpha=0.8, lw=0.6, edgecolor="white")
    axis.set_ylim(0.0, 1.0)
    axis.set_ylabel("share of the weighted loss")
    return _dress(axis, steps, areas[::-1], texts[::-1])


def _stacked(history: History) -> dict[str, list[float]]:
    """Return the areas from the bottom up: all tasks in their order, or the largest and the sum of the others."""
    rows = {name: [share if share > 0.0 else 0.0 for share in row] for name, row in history.shares().items()}
    if len(rows) > FEW:
        ordered = sorted(rows, key=lambda name: math.fsum(rows[name][-10:]), reverse=True)
        others = [rows[name] for name in ordered[LARGEST:]]
        rows = {name: rows[name] for name in ordered[:LARGEST]}
        rows[f"{len(others)} others"] = [math.fsum(column) for column in zip(*others, strict=True)]
    if len(history) >= SMOOTHED_FROM:
        rows = {name: _moving_median(row, len(history) // 50) for name, row in rows.items()}
    sums = [math.fsum(column) or 1.0 for column in zip(*rows.values(), strict=True)]
    return {name: [share / total for share, total in zip(row, sums, strict=True)] for name, row in rows.items()}


def plot_reliability(axis: Axes, points: Points) -> Axes:
    """Plot what was observed against what was predicted: on the diagonal, predictions can be relied on.

    For a regression the part of the targets inside each central interval, for a classification the accuracy at each
    confidence. Below the diagonal, a model is surer than it should be.

    Args:
        axis: The axis to draw on.
        points: A history with scores, or snapshots in order of their steps.

    Returns:
        ``axis``.

    Raises:
        ValueError: If no prediction was scored.
    """
    scores = dict(scores_of(_checked(points)))  # of a task with two, that of the test, which is the honest one
    if not scores:
        raise ValueError(
            "There is no score to plot. Expected predictions of a validation; call `self.uncertainty.score(name, mean, "
            "target)` in validation_step."
        )
    axis.plot([0.0, 1.0], [0.0, 1.0], color=GREY, linewidth=0.8)
    for place, (name, score) in enumerate(scores.items()):
        suffix = "" if score.data == "validation" else f" ({score.data})"
        label = shortened(name) + suffix if place < FEW else None
        colour = COLOURS[place % len(COLOURS)] if label else GREY
        x, y = _points(score)
        axis.plot(x, y, color=colour, marker="o", markersize=3, linewidth=1.4, label=label)
    axis.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0), xlabel="predicted: size of the interval, or confidence")
    axis.set_ylabel("observed: targets inside it, or accuracy")
    axis.grid(alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)
    legend = axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return axis


def _points(score: Score) -> tuple[list[float], list[float]]:
    if score.coverage:
        return [place / BINS for place in range(1, BINS + 1)], list(score.coverage)
    known = [(sure, right) for _, sure, right in score.reliability if not math.isnan(sure + right)]
    return [sure for sure, _ in known], [right for _, right in known]


PLOTS: dict[str, Callable[..., Axes]] = {  # by caption
    "How much each task counts: its weight": plot_weights,
    "How uncertain each task is: its sigma": plot_sigmas,
    "How well each task is learned: its raw loss": plot_raw_losses,
    "Share of each task in the weighted loss": plot_shares,
}

_READ: dict[Callable[..., Axes], tuple[str, Callable[[TaskFacts], str]]] = {
    plot_weights: ("precision", weight_unit),
    plot_sigmas: ("sigma", lambda fact: fact.unit),
    plot_raw_losses: ("raw_loss", loss_unit),
    plot_shares: ("share", lambda _: ""),
}


def readings(plot: Callable[..., Axes], axis: Axes, points: Points, most: int = 60) -> list[tuple[int, list[str]]]:
    """Return what can be read off a plot over the steps: lines of text for each of up to ``most`` steps.

    The lines are the values of the tasks that have a name in the plot; none of a plot without steps.
    """
    if plot not in _READ:
        return []
    history, (quantity, unit_of) = _checked(points), _READ[plot]
    drawn = {artist.get_label() for artist in (*axis.lines, *axis.collections)}
    names = [name for name in history.tasks if name in drawn]
    series = {name: history.series(quantity, name) for name in names}
    width = max((len(shortened(name)) for name in names), default=0)
    stride, last = max(1, math.ceil(len(history) / most)), len(history) - 1
    read = []
    for place in [*range(0, last, stride), last]:
        known = {name: series[name][place] for name in names if not math.isnan(series[name][place])}
        texts = {name: f"{x:.1%}" if quantity == "share" else f"{x:.4g}" for name, x in known.items()}
        lines = [f"{shortened(n):{width}} {text} {unit_of(history.facts[n])}".rstrip() for n, text in texts.items()]
        read.append((history.steps[place], lines))
    return read


def plots_of(history: History) -> dict[str, Callable[..., Axes]]:
    """Return the plots of a history, by caption; none of sigma where no task has one."""
    return {caption: plot for caption, plot in PLOTS.items() if history.learned or plot is not plot_sigmas}


def overview(points: Points) -> Figure:
    """Draw one page with all plots and the first findings.

    Args:
        points: A history, or snapshots in order of their steps.

    Raises:
        ValueError: If there are no points.
        MissingExtraError: If matplotlib is not installed.
    """
    require("report", "matplotlib")
    from matplotlib.figure import Figure  # not pyplot, which would choose a window system for everyone

    history = _checked(points)
    summary = summarize(history)
    texts = [textwrap.shorten(text, 175, placeholder=" …") for _, text in summary.findings[:4]]
    figure = Figure(figsize=(13.0, 8.6), dpi=110, layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.0, 0.03 + 0.03 * len(texts))).flat
    plots = plots_of(history).values()
    places = upper.subplots(2, 2).flat
    for axis, plot in zip(places, plots, strict=False):
        plot(axis, history)
    for axis in places[len(plots) :]:
        axis.remove()
    upper.suptitle(f"{summary.heading}: {summary.title}", fontsize="x-large")
    lower.text(0.01, 0.98, "\n".join(texts), va="top", fontsize="medium", wrap=True, parse_math=False)
    return figure


def _checked(points: Points) -> History:
    history = History.of(points)
    if not len(history):
        raise ValueError("There is nothing to plot: pass at least one snapshot, `weighting.snapshot()`.")
    return history


def _plot_quantity(axis: Axes, history: History, quantity: str, unit_of: Callable[[TaskFacts], str]) -> Axes:
    series = {name: history.series(quantity, name) for name in history.tasks}
    units = {name: unit_of(fact) for name, fact in history.facts.items()}
    return plot_lines(axis, history.steps, series, units, smooth=quantity == "raw_loss")


def plot_lines(
    axis: Axes,
    steps: Sequence[int],
    series: Mapping[str, Sequence[float]],
    units: Mapping[str, str],
    *,
    smooth: bool = False,
) -> Axes:
    """Plot the values of each task that are above 0, logarithmic, with a legend in the order of their ends.

    A task may have a unit, and NaN for a value. ``smooth`` draws the moving median of many values.
    """
    axis.set_yscale("log")
    seen = {name: [(x, y) for x, y in zip(steps, row, strict=True) if y > 0.0] for name, row in series.items()}
    ordered = sorted(filter(seen.get, seen), key=lambda name: seen[name][-1][1], reverse=True)
    few = len(ordered) <= FEW
    named = ordered if few else [*ordered[:EXTREMES], *ordered[-EXTREMES:]]
    bands = _plot_bands(axis, steps, [series[name] for name in ordered]) if len(ordered) > MOST_LINES else {}
    for name in ordered[EXTREMES:-EXTREMES] if not (few or bands) else ():
        axis.plot(*zip(*seen[name], strict=True), color=GREY, alpha=0.7, linewidth=0.8, rasterized=True)
    lines = {}
    for place, name in enumerate(series if few else named):
        if name not in named:
            continue
        colour, style = COLOURS[place % len(COLOURS)], place % len(LINE_STYLES)
        x, y = map(list, zip(*seen[name], strict=True))
        if smooth and len(y) >= SMOOTHED_FROM:
            if few:
                axis.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
            y = _moving_median(y, len(y) // 25)
        marker = "o" if len(x) == 1 else ""  # one point makes no line
        (lines[name],) = axis.plot(x, y, color=colour, marker=marker, linewidth=1.8, label=name)
        lines[name].set(linestyle=LINE_STYLES[style], zorder=2.0 + 0.1 * style)
    texts = [shortened(name) + (f" [{units[name]}]" if units.get(name) else "") for name in named]
    return _dress(axis, steps, [*(lines[name] for name in named), *bands.values()], [*texts, *bands])


def _plot_bands(axis: Axes, steps: Sequence[int], rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Plot in which range the values above 0 of all tasks lie at each step; return what is drawn, by its name."""
    columns = [spread(y if y > 0.0 else math.nan for y in column) for column in zip(*rows, strict=True)]
    low, p10, median, p90, high = ([column[key] for column in columns] for key in QUANTILES)
    axis.fill_between(steps, low, high, color=GREY, alpha=0.25, linewidth=0.0)
    middle = axis.fill_between(steps, p10, p90, color=GREY, alpha=0.5, linewidth=0.0)
    (line,) = axis.plot(steps, median, color=GREY, linewidth=1.8, marker="o" if len(steps) == 1 else "")
    return {f"median of {len(rows):,}": line, "80% of the tasks": middle}


def _dress(axis: Axes, steps: Sequence[float], lines: Sequence[Any], texts: Sequence[str]) -> Axes:
    """Give an axis over the steps its label, its grid, its limits and its legend."""
    axis.set_xlabel("optimizer step")
    axis.grid(alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)
    if len(steps) > 1:
        axis.set_xlim(steps[0], steps[-1])
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    legend = axis.legend(lines, texts, **place, frameon=False, fontsize="small", handlelength=1.5)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar is a unit
    return axis


def shortened(name: str) -> str:
    """Return a name in one line, a long one without its middle, so that it leaves room for the plot.

    >>> shortened("surface_normals_in_the_frame_of_the_camera")
    'surface_norm…the_camera'
    """
    name = " ".join(name.split())
    return name if len(name) <= 24 else f"{name[:12]}…{name[-10:]}"


def _moving_median(values: Sequence[float], width: int) -> list[float]:
    """Return the median of the values up to ``width`` before and after each.

    >>> _moving_median([1.0, 9.0, 2.0, 3.0], 1)
    [5.0, 2.0, 3.0, 2.5]
    """
    return [statistics.median(values[max(i - width, 0) : i + width + 1]) for i in range(len(values))]
