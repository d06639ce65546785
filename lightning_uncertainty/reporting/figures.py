"""Pictures of a training: how weights and raw losses went. Every plotting function takes an axis and returns it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_uncertainty.reporting.extras import require
from lightning_uncertainty.snapshot import Snapshot, TaskSnapshot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_raw_losses", "plot_weights", "save_training_figure"]

# Okabe and Ito, "Color universal design", 2008, without the yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")  # one more for each time that the colours are used up
SMOOTHED_FROM = 100  # points; below, nothing needs smoothing
LABEL_HEIGHT = 0.075  # of an axis, for labels at the ends of lines


def plot_weights(axis: Axes, snapshots: Sequence[Snapshot], *, labels: Mapping[str, str] | None = None) -> Axes:
    """The effective weight of every task over the steps, logarithmic.

    Args:
        axis: what to draw on.
        snapshots: in order of their steps.
        labels: what to write at the line of a task, for example with a unit; by default its name.

    Returns:
        ``axis``.

    Raises:
        ValueError: if there are no snapshots.
    """
    _plot_tasks(axis, snapshots, lambda task: task.weight, labels=labels, smooth=False)
    axis.set_ylabel(r"effective weight $\sigma^{-2}$" + (" (Laplace: 1/b)" if _any_laplace(snapshots) else ""))
    return axis


def plot_raw_losses(axis: Axes, snapshots: Sequence[Snapshot], *, labels: Mapping[str, str] | None = None) -> Axes:
    """The raw loss of every task over the steps, logarithmic: each step faint, a moving median strong.

    Args:
        axis: what to draw on.
        snapshots: in order of their steps.
        labels: what to write at the line of a task, for example with a unit; by default its name.

    Returns:
        ``axis``.

    Raises:
        ValueError: if there are no snapshots.
    """
    _plot_tasks(axis, snapshots, lambda task: task.raw_loss, labels=labels, smooth=True)
    axis.set_ylabel("raw training loss, before weighting")
    return axis


def save_training_figure(
    path: Path,
    snapshots: Sequence[Snapshot],
    *,
    title: str,
    weight_labels: Mapping[str, str] | None = None,
    loss_labels: Mapping[str, str] | None = None,
) -> Path:
    """A picture with the weights above and the raw losses below, at ``path``, in the format of its suffix.

    Args:
        path: where; the folder exists.
        snapshots: in order of their steps.
        title: above the picture.
        weight_labels: see :func:`plot_weights`.
        loss_labels: see :func:`plot_raw_losses`.

    Returns:
        ``path``.

    Raises:
        ValueError: if there are no snapshots.
        MissingExtraError: without matplotlib.
    """
    require("report", "matplotlib")
    from matplotlib.figure import Figure  # not pyplot, which would choose a window system for everyone

    figure = Figure(figsize=(9.0, 8.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    plot_weights(upper, snapshots, labels=weight_labels).set_xlabel("")
    plot_raw_losses(lower, snapshots, labels=loss_labels)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    return path


def _plot_tasks(
    axis: Axes,
    snapshots: Sequence[Snapshot],
    quantity: Callable[[TaskSnapshot], float],
    *,
    labels: Mapping[str, str] | None,
    smooth: bool,
) -> None:
    if not snapshots:
        raise ValueError("There is nothing to plot: pass at least one snapshot, `weighting.snapshot()`.")
    steps = [snapshot.step for snapshot in snapshots]
    axis.set_yscale("log", nonpositive="mask")
    axis.set_xlabel("optimizer step")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    ends = {}
    for index, name in enumerate(snapshots[-1].tasks):
        values = [quantity(s.tasks[name]) if name in s.tasks else math.nan for s in snapshots]
        colour = COLOURS[index % len(COLOURS)]
        style = LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]
        if smooth and len(values) >= SMOOTHED_FROM:
            axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
            values = _moving_median(values, len(values) // 25)
        marker = "o" if len(steps) == 1 else ""  # one point makes no line
        axis.plot(steps, values, color=colour, linestyle=style, marker=marker, linewidth=1.8, label=name)
        ends[name] = (values[-1], colour)
    _label_ends(axis, steps[-1], ends, labels or {})


def _label_ends(axis: Axes, step: int, ends: Mapping[str, tuple[float, str]], labels: Mapping[str, str]) -> None:
    """Write each task's label beside the end of its line, moved apart where lines end close to each other."""
    drawn = {name: end for name, end in ends.items() if 0.0 < end[0] < math.inf}
    axis.set_xlim(axis.get_xlim()[0], step + 0.01 * (step - axis.get_xlim()[0]))
    lowest, highest = (math.log(limit) for limit in axis.get_ylim())
    axis.set_ylim(axis.get_ylim())  # the labels' heights hold for these limits
    wished = {name: (math.log(value) - lowest) / (highest - lowest) for name, (value, _) in drawn.items()}
    for name, height in _spread(wished, LABEL_HEIGHT).items():
        value, colour = drawn[name]
        axis.annotate(
            labels.get(name, name),
            xy=(step, value),
            xytext=(1.04, height),
            textcoords="axes fraction",
            color=colour,
            verticalalignment="center",
            annotation_clip=False,
            parse_math=False,  # a dollar is a unit
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 2, "shrinkB": 2},
        )


def _spread(wished: Mapping[str, float], gap: float) -> dict[str, float]:
    """Heights from 0 to 1 in the order of those wished, at least ``gap`` apart (or evenly, if that does not fit).

    >>> {name: round(height, 2) for name, height in _spread({"a": 0.5, "b": 0.52, "c": 1.0}, 0.1).items()}
    {'a': 0.46, 'b': 0.56, 'c': 1.0}
    """
    names = sorted(wished, key=wished.__getitem__)
    gap = min(gap, 1.0 / max(len(names) - 1, 1))
    heights = [wished[name] for name in names]
    for _ in range(200):  # push neighbours apart, half each, until nobody moves
        for low in range(len(heights) - 1):
            missing = gap - (heights[low + 1] - heights[low])
            if missing > 0.0:
                heights[low] -= 0.5 * missing
                heights[low + 1] += 0.5 * missing
        heights = [min(max(height, 0.0), 1.0) for height in heights]
    return dict(zip(names, heights, strict=True))


def _moving_median(values: Sequence[float], width: int) -> list[float]:
    """The median of the values up to ``width`` before and after each, leaving out NaN.

    >>> _moving_median([1.0, 9.0, 2.0, math.nan, 3.0], 1)
    [5.0, 2.0, 5.5, 2.5, 3.0]
    """
    windows = (values[max(i - width, 0) : i + width + 1] for i in range(len(values)))
    known = ([value for value in window if not math.isnan(value)] for window in windows)
    return [statistics.median(values) if values else math.nan for values in known]


def _any_laplace(snapshots: Sequence[Snapshot]) -> bool:
    return any(task.likelihood == "laplace" for task in snapshots[-1].tasks.values())
