"""What the weights balance: norms and directions of the tasks' gradients, as plain numbers and as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from lightning_uncertainty.reporting.figures import COLOURS, LINE_STYLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["GradientSnapshot", "pairs_of", "plot_cosines", "plot_gradient_norms"]

NAMED = 8  # tasks: up to so many, each has a colour, a key per pair, and its name in the picture
WRITTEN = 12  # tasks: up to so many, the cosines are written into the heat map


@dataclass(frozen=True)
class GradientSnapshot:
    """The gradients of all tasks on the shared parameters, for one optimizer step.

    Attributes:
        step: optimizer steps before it.
        norms: of the raw loss's gradient, by task; NaN for a task that did not take part.
        coefficients: the factor before the raw loss in the total, by task.
        cosines: of the angle between the gradients of each pair, in the order of the tasks; -1 where they are opposed,
            NaN where one is zero or missing. Weights do not change it.
    """

    step: int
    norms: Mapping[str, float]
    coefficients: Mapping[str, float]
    cosines: Mapping[tuple[str, str], float]

    @property
    def weighted_norms(self) -> dict[str, float]:
        """Of the task's part of the total, by task."""
        return {name: self.coefficients[name] * norm for name, norm in self.norms.items()}

    def metrics(self, prefix: str = "gradients") -> dict[str, float]:
        """Flat, for a logger, always with the same keys.

        ``<prefix>/norm/<task>`` (raw), ``<prefix>/weighted/<task>``, ``<prefix>/cosine/lowest`` and
        ``<prefix>/cosine/mean`` over all pairs, and up to 8 tasks ``<prefix>/cosine/<task>,<task>``.
        """
        metrics = {f"{prefix}/norm/{name}": norm for name, norm in self.norms.items()}
        metrics |= {f"{prefix}/weighted/{name}": norm for name, norm in self.weighted_norms.items()}
        known = [cosine for cosine in self.cosines.values() if not math.isnan(cosine)]
        metrics[f"{prefix}/cosine/lowest"] = min(known, default=math.nan)
        metrics[f"{prefix}/cosine/mean"] = math.fsum(known) / len(known) if known else math.nan
        if len(self.norms) <= NAMED:
            metrics |= {f"{prefix}/cosine/{one},{other}": cosine for (one, other), cosine in self.cosines.items()}
        return metrics


def plot_gradient_norms(axis: Axes, snapshots: Sequence[GradientSnapshot], *, weighted: bool = True) -> Axes:
    """The norm of each task's gradient over the steps, logarithmic.

    More than 8 tasks are drawn grey, but for the three that end highest and the three that end lowest.

    Args:
        axis: what to draw on.
        snapshots: in order of their steps.
        weighted: as parts of the total; else of the raw losses.

    Returns:
        ``axis``.

    Raises:
        ValueError: if there are no snapshots.
    """
    _check(snapshots)
    steps = [snapshot.step for snapshot in snapshots]
    norms = [snapshot.weighted_norms if weighted else snapshot.norms for snapshot in snapshots]
    series = {name: [step.get(name, math.nan) for step in norms] for name in _names(snapshots)}
    order = sorted(series, key=lambda name: -_last_known(series[name]))
    named = order if len(order) <= NAMED else [*order[:3], *order[-3:]]
    axis.set_yscale("log", nonpositive="mask")
    for name in (name for name in order if name not in named):
        axis.plot(steps, series[name], color="0.6", linewidth=0.6, alpha=0.6)
    for name in named:
        place = list(series).index(name) if len(order) <= NAMED else named.index(name)
        style = LINE_STYLES[place // len(COLOURS) % len(LINE_STYLES)]
        marker = "o" if len(steps) == 1 else ""  # one point makes no line
        axis.plot(steps, series[name], color=COLOURS[place % len(COLOURS)], linestyle=style, marker=marker, label=name)
    legend = axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)  # in the order of the ends
    for text in legend.get_texts():
        text.set_parse_math(False)
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("norm of the " + ("weighted gradient" if weighted else "gradient of the raw loss"))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return axis


def plot_cosines(axis: Axes, snapshots: Sequence[GradientSnapshot]) -> Axes:
    """The cosine between the gradients of each pair of tasks, mean over ``snapshots``, as a heat map.

    Blue pairs pull in the same direction, red ones against each other; a pair that never met is left white.

    Args:
        axis: what to draw on.
        snapshots: those to average over: all, or the last few.

    Returns:
        ``axis``.

    Raises:
        ValueError: if there are no snapshots.
    """
    _check(snapshots)
    names = _names(snapshots)
    matrix = [[1.0 if one == other else _mean_cosine(snapshots, one, other) for other in names] for one in names]
    image = axis.imshow(matrix, cmap="RdBu", vmin=-1.0, vmax=1.0)
    if len(names) <= 4 * WRITTEN:
        slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        turned = slanted if len(names) <= WRITTEN else {"rotation": 90}
        axis.set_xticks(range(len(names)), names, parse_math=False, **turned)
        axis.set_yticks(range(len(names)), names, parse_math=False)
    else:
        axis.set_xlabel(f"{len(names)} tasks")
    if len(names) <= WRITTEN:
        for row, cosines in enumerate(matrix):
            for column, cosine in enumerate(cosines):
                written = "" if math.isnan(cosine) else f"{round(cosine, 2) + 0.0:.2f}"  # no -0.00
                axis.text(column, row, written, ha="center", va="center", color="w" if abs(cosine) > 0.6 else "k")
    assert axis.figure is not None
    axis.figure.colorbar(image, ax=axis, shrink=0.8, label="cosine between gradients")
    return axis


def _check(snapshots: Sequence[GradientSnapshot]) -> None:
    if not snapshots:
        raise ValueError("There is nothing to plot: GradientView has seen no optimizer step yet.")


def _names(snapshots: Sequence[GradientSnapshot]) -> list[str]:
    return list(snapshots[-1].norms)


def _last_known(values: Sequence[float]) -> float:
    return next((value for value in reversed(values) if not math.isnan(value)), 0.0)


def _mean_cosine(snapshots: Sequence[GradientSnapshot], one: str, other: str) -> float:
    pairs = ((one, other), (other, one))
    found = [snapshot.cosines[pair] for snapshot in snapshots for pair in pairs if pair in snapshot.cosines]
    known = [cosine for cosine in found if not math.isnan(cosine)]
    return math.fsum(known) / len(known) if known else math.nan


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each pair once, in the order of the names."""
    return list(combinations(names, 2))
