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

from lightning_uncertainty.reporting.figures import plot_lines, shortened
from lightning_uncertainty.snapshot import by_key
from lightning_uncertainty.tasks import metric_keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["GradientSnapshot", "from_state", "plot_cosines", "plot_gradient_norms", "state_of"]

PAIRED = 8  # tasks: up to so many, each pair has a key
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

    def metrics(self, prefix: str = "gradients") -> dict[str, float]:
        """Return flat values for a logger, always with the same keys: those of ``GradientView``."""
        known = [cosine for cosine in self.cosines.values() if not math.isnan(cosine)]
        metrics = by_key(f"{prefix}/norm", self.norms, self.norms)
        metrics |= by_key(f"{prefix}/weighted", self.weighted_norms, self.norms)
        metrics[f"{prefix}/cosine/lowest"] = min(known, default=math.nan)
        metrics[f"{prefix}/cosine/mean"] = statistics.fmean(known) if known else math.nan
        if len(self.norms) <= PAIRED:
            keys = metric_keys(self.norms)
            metrics |= {f"{prefix}/cosine/{keys[a]}/{keys[b]}": cosine for (a, b), cosine in self.cosines.items()}
        return metrics


def plot_gradient_norms(axis: Axes, snapshots: Sequence[GradientSnapshot], *, weighted: bool = True) -> Axes:
    """Plot the norm of each task's gradient over the steps, logarithmic.

    Args:
        axis: The axis to draw on.
        snapshots: Snapshots in order of their steps; drawn are those with the tasks of the last one.
        weighted: True plots the parts of the total, False the gradients of the raw losses.

    Returns:
        ``axis``.

    Raises:
        ValueError: If there are no snapshots.
    """
    alike = _alike(snapshots)
    axis.set_ylabel("norm of the " + ("weighted gradient" if weighted else "gradient of the raw loss"))
    norms = [snapshot.weighted_norms if weighted else snapshot.norms for snapshot in alike]
    series = {name: [each[name] for each in norms] for name in norms[-1]}
    return plot_lines(axis, [snapshot.step for snapshot in alike], series, units={})


def plot_cosines(axis: Axes, snapshots: Sequence[GradientSnapshot]) -> Axes:
    """Plot the cosine between the gradients of each pair of tasks, mean over ``snapshots``, as a heat map.

    Blue pairs pull in the same direction, red ones against each other; a pair that never met is left white. Arguments
    as in :func:`plot_gradient_norms`.
    """
    alike = _alike(snapshots)
    names = list(alike[-1].norms)
    matrix = torch.eye(len(names), dtype=torch.float64)
    one, other = torch.triu_indices(len(names), len(names), 1)  # the pairs, in their order
    means = torch.tensor([list(snapshot.cosines.values()) for snapshot in alike], dtype=torch.float64).nanmean(0)
    matrix[one, other] = matrix[other, one] = means
    image = axis.imshow(matrix.numpy(), cmap="RdBu", vmin=-1.0, vmax=1.0)
    every = math.ceil(len(names) / LABELLED)
    places, shown = range(0, len(names), every), [shortened(name) for name in names[::every]]
    axis.set_xticks(places, shown, parse_math=False, fontsize="small", rotation=90)
    axis.set_yticks(places, shown, parse_math=False, fontsize="small")
    for row, column in product(range(len(names)), repeat=2) if len(names) <= WRITTEN else ():
        cosine = float(matrix[row, column])
        written = "" if math.isnan(cosine) else f"{round(cosine, 2) + 0.0:.2f}"  # no -0.00
        colour = "w" if abs(cosine) > 0.6 else "k"
        axis.text(column, row, written, ha="center", va="center", color=colour, fontsize="x-small")
    assert axis.figure is not None
    axis.figure.colorbar(image, ax=axis, shrink=0.8, label="cosine between gradients")
    return axis


PLOTS: dict[str, Callable[..., Axes]] = {  # by caption
    "Weighted: what each task does to the network": plot_gradient_norms,
    "Raw: before weighting": partial(plot_gradient_norms, weighted=False),
    "Angle of each pair, mean over the steps": plot_cosines,
}


def _alike(snapshots: Sequence[GradientSnapshot]) -> list[GradientSnapshot]:
    """Return the snapshots that have the tasks of the last one."""
    if not snapshots:
        raise ValueError("There is nothing to plot: GradientView has seen no optimizer step yet.")
    return [snapshot for snapshot in snapshots if list(snapshot.norms) == list(snapshots[-1].norms)]


def state_of(snapshots: Sequence[GradientSnapshot]) -> dict[str, Any]:
    """Return snapshots as tensors, for a checkpoint; only those that have the tasks of the last one."""
    kept = _alike(snapshots) if snapshots else []
    rows = [[*s.norms.values(), *s.factors.values(), *s.cosines.values()] for s in kept]
    tasks = list(kept[-1].norms) if kept else []
    return {"tasks": tasks, "at": [s.step for s in kept], "values": torch.tensor(rows)}


def from_state(state: Any) -> list[GradientSnapshot]:
    """Return the snapshots that :func:`state_of` saved."""
    names, steps = state["tasks"], state["at"]
    pairs = list(combinations(names, 2))
    sizes = [len(names), len(names), len(pairs)]
    parts = state["values"].reshape(len(steps), sum(sizes)).split(sizes, dim=1)
    norms, factors, cosines = (
        [dict(zip(keys, row, strict=True)) for row in part.tolist()]
        for keys, part in zip((names, names, pairs), parts, strict=True)
    )
    return [GradientSnapshot(*each) for each in zip(steps, norms, factors, cosines, strict=True)]
