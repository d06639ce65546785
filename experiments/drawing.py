"""The look of all figures of the experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_uncertainty._arguments import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["empty_figure", "save", "tidy"]


def empty_figure(width: float, height: float) -> Figure:
    """Return a figure without axes; sizes in inches."""
    require("experiments", "matplotlib")
    from matplotlib.figure import Figure  # not pyplot, which would choose a window system for everyone

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axis: Axes, *, title: str, x: str) -> None:
    """Write the title and the label below, and take away what no reader needs."""
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(x)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> Path:
    """Write ``figure`` and return where it is."""
    figure.savefig(path, dpi=100)
    return path
