"""Names at the ends of lines, moved apart where lines end close to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["label_right", "shortened", "spread"]

HEIGHT = 0.075  # of an axis, for a label
LONGEST = 24  # letters of a name
# To the left edge of the text: towards its middle, it would cross the labels between.
_LEADER: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 2, "shrinkB": 2, "relpos": (0.0, 0.5)}


def shortened(name: str) -> str:
    """Return a long name without its middle, so that it leaves room for the plot.

    >>> shortened("surface_normals_in_the_frame_of_the_camera")
    'surface_norm…the_camera'
    """
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-(LONGEST // 2 - 2) :]}"


def label_right(axis: Axes, ends: Mapping[str, tuple[float, float, Any]], labels: Mapping[str, str]) -> None:
    """Write a label beside the axis for each line, with a thin line to its end.

    Args:
        axis: An axis whose limits are final.
        ends: The end of each line, x and y in data coordinates, and its colour, by task.
        labels: The text of each label, by task.
    """
    to_axes = axis.transData + axis.transAxes.inverted()
    wished = {name: float(to_axes.transform((x, y))[1]) for name, (x, y, _) in ends.items()}
    for name, height in spread(wished, HEIGHT).items():
        x, y, colour = ends[name]
        axis.annotate(
            labels[name],
            xy=(x, y),
            xytext=(1.04, height),
            textcoords="axes fraction",
            color=colour,
            fontsize="small",
            verticalalignment="center",
            annotation_clip=False,
            parse_math=False,  # a dollar is a unit
            arrowprops={**_LEADER, "color": colour},
        )


def spread(wished: Mapping[str, float], gap: float) -> dict[str, float]:
    """Return heights from 0 to 1 in the order of those wished, at least ``gap`` apart, or evenly if that does not fit.

    >>> {name: round(height, 2) for name, height in spread({"a": 0.5, "b": 0.52, "c": 1.0}, 0.1).items()}
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
