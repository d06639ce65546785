"""The gradients that the weights balance: their norms and directions, as plain numbers and as pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import torch

from lightning_uncertainty.reporting.figures import COLOURS, LINE_STYLES, MANY, dress
from lightning_uncertainty.reporting.labels import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["GradientSnapshot", "from_state", "plot_cosine_range", "plot_cosines", "plot_gradient_norms", "state_of"]

NAMED = 8  # tasks: up to so many, each has a colour, a key per pair, and its name in the picture
WRITTEN = 12  # tasks: up to so many, the cosines are written into the heat map
LABELLED = 15  # names at the sides of a heat map of more tasks: every second of 30, every twentieth of 300


@dataclass(frozen=True)
class GradientSnapshot:
    """The gradients of all tasks on the shared parameters, for one optimizer step.

    Attributes:
        step: Number of optimizer steps before it.
        norms: Norm of the gradient of each raw loss, by task; NaN for a task that did not take part.
        factors: Factor before each raw loss in the total, by task.
        cosines: Cosine of the angle between the gradients of each pair, in the order of the tasks; -1 where they are
            opposed, NaN where one is zero or missing. Weights do not change it.
    """

    step: int
    norms: Mapping[str, float]
    factors: Mapping[str, float]
    cosines: Mapping[tuple[str, str], float]

    @property
    def weighted_norms(self) -> dict[str, float]:
        """The norm of each task's part of the gradient of the total, by task."""
        return {name: self.factors[name] * norm for name, norm in self.norms.items()}

    @property
    def lowest_and_mean(self) -> tuple[float, float]:
        """The lowest and the mean of the cosines of all pairs; NaN if none is known."""
        known = [cosine for cosine in self.cosines.values() if not math.isnan(cosine)]
        return min(known, default=math.nan), _mean(known)

    def metrics(self, prefix: str = "gradients") -> dict[str, float]:
        """Return flat values for a logger, always with the same keys.

        ``<prefix>/norm/<task>`` (raw), ``<prefix>/weighted/<task>``, ``<prefix>/cosine/lowest`` and
        ``<prefix>/cosine/mean`` over all pairs, and up to 8 tasks ``<prefix>/cosine/<task>,<task>``.
        """
        metrics = {f"{prefix}/norm/{name}": norm for name, norm in self.norms.items()}
        metrics |= {f"{prefix}/weighted/{name}": norm for name, norm in self.weighted_norms.items()}
        metrics[f"{prefix}/cosine/lowest"], metrics[f"{prefix}/cosine/mean"] = self.lowest_and_mean
        if len(self.norms) <= NAMED:
            metrics |= {f"{prefix}/cosine/{one},{other}": cosine for (one, other), cosine in self.cosines.items()}
        return metrics


def plot_gradient_norms(axis: Axes, snapshots: Sequence[GradientSnapshot], *, weighted: bool = True) -> Axes:
    """Plot the norm of each task's gradient over the steps, logarithmic.

    More than 8 tasks are drawn grey, but for the three that end highest and the three that end lowest.

    Args:
        axis: The axis to draw on.
        snapshots: Snapshots in order of their steps.
        weighted: True plots the parts of the total, False the gradients of the raw losses.

    Returns:
        ``axis``.

    Raises:
        ValueError: If there are no snapshots.
    """
    names = _names(snapshots)
    steps = [snapshot.step for snapshot in snapshots]
    norms = [snapshot.weighted_norms if weighted else snapshot.norms for snapshot in snapshots]
    series = {name: _known(steps, [step.get(name, math.nan) for step in norms]) for name in names}
    order = sorted(names, key=lambda name: -series[name][1][-1] if series[name][1] else 0.0)
    named = order if len(order) <= NAMED else [*order[:3], *order[-3:]]
    axis.set_yscale("log", nonpositive="mask")
    for name in order:
        if name not in named:
            axis.plot(*series[name], color="0.6", linewidth=0.6, alpha=0.6 if len(order) <= MANY else 0.3)
    for name in named:
        place = names.index(name) if len(order) <= NAMED else named.index(name)
        style = LINE_STYLES[place // len(COLOURS) % len(LINE_STYLES)]
        marker = "o" if len(series[name][0]) == 1 else ""  # one point makes no line
        label, colour = shortened(name), COLOURS[place % len(COLOURS)]
        axis.plot(*series[name], color=colour, linestyle=style, marker=marker, label=label)
    axis.set_ylabel("norm of the " + ("weighted gradient" if weighted else "gradient of the raw loss"))
    return _with_legend(axis)


def plot_cosine_range(axis: Axes, snapshots: Sequence[GradientSnapshot]) -> Axes:
    """Plot the lowest and the mean cosine of all pairs over the steps. Below 0, tasks pull against each other.

    Arguments as in :func:`plot_gradient_norms`.
    """
    _names(snapshots)
    steps = [snapshot.step for snapshot in snapshots]
    lowest, mean = zip(*(snapshot.lowest_and_mean for snapshot in snapshots), strict=True)
    marker = "o" if len(steps) == 1 else ""
    for values, label, colour, style in ((mean, "mean", COLOURS[0], "-"), (lowest, "lowest", COLOURS[1], "--")):
        axis.plot(steps, values, color=colour, linestyle=style, marker=marker, label=label)
    axis.axhline(0.0, color="0.5", linewidth=0.8)
    axis.set_ylim(-1.05, 1.05)
    axis.set_ylabel("cosine between gradients, all pairs")
    return _with_legend(axis)


def plot_cosines(axis: Axes, snapshots: Sequence[GradientSnapshot]) -> Axes:
    """Plot the cosine between the gradients of each pair of tasks, mean over ``snapshots``, as a heat map.

    Blue pairs pull in the same direction, red ones against each other; a pair that never met is left white. Arguments
    as in :func:`plot_gradient_norms`.
    """
    names = _names(snapshots)
    matrix = [[1.0 if one == other else _mean_cosine(snapshots, one, other) for other in names] for one in names]
    image = axis.imshow(matrix, cmap="RdBu", vmin=-1.0, vmax=1.0)
    few = len(names) <= WRITTEN
    every = 1 if few else math.ceil(len(names) / LABELLED)
    places, shown = range(0, len(names), every), [shortened(name) for name in names[::every]]
    size = None if few else "small"
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
    axis.set_xticks(places, shown, parse_math=False, fontsize=size, **turned)
    axis.set_yticks(places, shown, parse_math=False, fontsize=size)
    for row, column in product(range(len(names)), repeat=2) if few else ():
        cosine = matrix[row][column]
        written = "" if math.isnan(cosine) else f"{round(cosine, 2) + 0.0:.2f}"  # no -0.00
        axis.text(column, row, written, ha="center", va="center", color="w" if abs(cosine) > 0.6 else "k")
    assert axis.figure is not None
    axis.figure.colorbar(image, ax=axis, shrink=0.8, label="cosine between gradients")
    return axis


PLOTS: dict[str, tuple[str, Callable[..., Axes]]] = {  # by caption: a label for who cannot see it, and the function
    "Weighted: what each task does to the network": ("norms of the weighted gradients", plot_gradient_norms),
    "Raw: before weighting": ("norms of the raw gradients", partial(plot_gradient_norms, weighted=False)),
    "Angles of all pairs: below 0, tasks pull apart": ("range of the cosines", plot_cosine_range),
    "Angle of each pair, mean over the steps": ("cosines of the pairs", plot_cosines),
}


def _names(snapshots: Sequence[GradientSnapshot]) -> list[str]:
    if not snapshots:
        raise ValueError("There is nothing to plot: GradientView has seen no optimizer step yet.")
    return list(snapshots[-1].norms)


def _known(steps: Sequence[int], values: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return the points of a task without gaps, so that a line goes through them."""
    places = [place for place, value in enumerate(values) if not math.isnan(value)]
    return [steps[place] for place in places], [values[place] for place in places]


def _mean_cosine(snapshots: Sequence[GradientSnapshot], one: str, other: str) -> float:
    pairs = ((one, other), (other, one))
    found = [snapshot.cosines[pair] for snapshot in snapshots for pair in pairs if pair in snapshot.cosines]
    return _mean([cosine for cosine in found if not math.isnan(cosine)])


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _with_legend(axis: Axes) -> Axes:
    legend = axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)  # in the order of the ends
    for text in legend.get_texts():
        text.set_parse_math(False)
    dress(axis, [])
    return axis


def state_of(snapshots: Sequence[GradientSnapshot]) -> dict[str, Any]:
    """Return snapshots as tensors, for a checkpoint; only those that have the tasks of the last one."""
    names = list(snapshots[-1].norms) if snapshots else []
    kept = [snapshot for snapshot in snapshots if list(snapshot.norms) == names]
    rows = [[*s.norms.values(), *s.factors.values(), *s.cosines.values()] for s in kept]
    return {"tasks": names, "at": [s.step for s in kept], "values": torch.tensor(rows)}


def from_state(state: Any) -> list[GradientSnapshot]:
    """Return the snapshots that :func:`state_of` saved."""
    names = state["tasks"]
    pairs, size = list(combinations(names, 2)), len(names)
    rows = state["values"].reshape(len(state["at"]), 2 * size + len(pairs)).tolist()
    return [
        GradientSnapshot(
            step,
            dict(zip(names, row[:size], strict=True)),
            dict(zip(names, row[size : 2 * size], strict=True)),
            dict(zip(pairs, row[2 * size :], strict=True)),
        )
        for step, row in zip(state["at"], rows, strict=True)
    ]
