"""A picture of what a network sees in scenes: a row per scene, truth beside prediction for each of the three tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from experiments.scenes.batch import IGNORE, SceneBatch
from experiments.scenes.centres import pixel_positions
from experiments.scenes.instances import Instances, group_instances
from lightning_uncertainty._arguments import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Palette", "prediction_figure"]

_COLUMNS = (
    "image",
    "classes",
    "predicted",
    "instances",
    "votes for centres",
    "predicted",
    "inverse depth",
    "predicted",
)
_NOTHING = (0.16, 0.16, 0.18)  # neither an object nor a depth
_VOTES = 1500  # drawn per picture


@dataclass(frozen=True)
class Palette:
    """What classes are called, how they are drawn, and which of them are told apart into objects.

    Attributes:
        names: of the classes.
        colours: red, green, blue from 0 to 255, of the classes.
        instance_classes: their numbers.
    """

    names: Sequence[str]
    colours: Sequence[tuple[int, int, int]]
    instance_classes: Collection[int]


def prediction_figure(
    batch: SceneBatch, outputs: Mapping[str, Tensor], palette: Palette, *, rows: int = 4, **grouping: Any
) -> Figure:
    """A figure with a row per scene: image, true and predicted classes, instances and inverse depth.

    Predicted instances are those of :func:`~experiments.scenes.instances.group_instances`; the votes that it
    clusters are drawn in the colours of the clusters, and the true centres as white crosses. True and predicted inverse
    depth of a scene share their scale; dark is what is not labelled.

    Args:
        batch: the scenes.
        outputs: of the network for that batch: ``"semantic"``, logits (B, classes, H, W), ``"instance"``, vectors
            (x, y) to centres in pixels (B, 2, H, W), and ``"depth"``, inverse depth (B, 1, H, W).
        palette: names and colours of the classes.
        rows: how many scenes of the batch are drawn at most.
        grouping: options of ``group_instances``.

    Raises:
        MissingExtraError: without matplotlib or scikit-learn.
    """
    require("scenes", "matplotlib", "sklearn")
    from matplotlib.figure import Figure  # not pyplot, which would choose a window system for everyone

    scenes: Any = {name: tensor[:rows].detach().cpu() for name, tensor in batch.items() if isinstance(tensor, Tensor)}
    count, _, height, width = scenes["image"].shape
    semantic, offsets, depth = (
        outputs[task][:rows].detach().cpu().float() for task in ("semantic", "instance", "depth")
    )
    probability, classes = semantic.softmax(1).max(1)

    side = 2.1  # inches wide is a picture
    figure = Figure(figsize=(len(_COLUMNS) * side, count * side * height / width + 0.9), layout="constrained")
    axes = figure.subplots(count, len(_COLUMNS), squeeze=False)
    for index, row in enumerate(axes):
        scene = {name: tensor[index] for name, tensor in scenes.items()}
        found = group_instances(
            classes[index], offsets[index], palette.instance_classes, confidence=probability[index], **grouping
        )
        _draw_row(row, scene, classes[index], offsets[index], found, depth[index, 0], palette)
    for axis, title in zip(axes[0], _COLUMNS, strict=True):
        axis.set_title(title, fontsize=10)
    _add_legend(figure, torch.cat([classes.flatten(), scenes["classes"].flatten()]), palette)
    return figure


def _draw_row(
    row: Sequence[Axes],
    scene: dict[str, Tensor],
    classes: Tensor,
    offsets: Tensor,
    found: Instances,
    depth: Tensor,
    palette: Palette,
) -> None:
    true_depth = scene["inverse_depth"][0]
    known = scene["depth_mask"]
    limits = {"vmin": 0.0, "vmax": float(true_depth[known].max()) if known.any() else None, "cmap": "magma"}
    pictures: Iterator[tuple[Any, dict[str, Any]]] = iter(
        (
            (scene["image"].permute(1, 2, 0).clamp(0.0, 1.0), {}),
            (_painted_classes(scene["classes"], palette), {}),
            (_painted_classes(classes, palette), {}),
            (_painted_numbers(scene["instances"]), {}),
            (0.35 * scene["image"].permute(1, 2, 0).clamp(0.0, 1.0), {}),
            (_painted_numbers(found.map), {}),
            (true_depth.masked_fill(~known, torch.nan), limits),
            (depth, limits),
        )
    )
    for axis, (picture, options) in zip(row, pictures, strict=True):
        axis.imshow(picture.numpy(), interpolation="nearest", **options)
        axis.set_facecolor(_NOTHING)
        axis.set_xticks([])
        axis.set_yticks([])
    _draw_votes(row[4], scene, offsets, found)


def _draw_votes(axis: Axes, scene: dict[str, Tensor], offsets: Tensor, found: Instances) -> None:
    """The predicted centre of every pixel of an object found, and the centres that are true."""
    height, width = found.map.shape
    votes = pixel_positions(height, width) + offsets
    x, y = votes[:, found.map > 0]
    every = -(-len(x) // _VOTES) or 1
    colours = _painted_numbers(found.map)[found.map > 0]
    axis.scatter(x[::every], y[::every], s=3.0, c=colours[::every].numpy(), alpha=0.5, linewidths=0.0)
    true_centres = pixel_positions(height, width) + scene["offsets"]
    for number in _numbers(scene["instances"]):
        x, y = true_centres[:, scene["instances"] == number][:, 0]
        axis.scatter(x, y, s=22.0, c="white", marker="+", linewidths=1.0)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)


def _numbers(instances: Tensor) -> list[int]:
    return [int(number) for number in torch.unique(instances) if number != 0]


def _painted_classes(classes: Tensor, palette: Palette) -> Tensor:
    """(H, W, 3) from 0 to 1; black where there is no label."""
    colours = torch.zeros(IGNORE + 1, 3)
    colours[: len(palette.colours)] = torch.tensor(palette.colours) / 255.0
    return colours[classes]


def _painted_numbers(numbers: Tensor) -> Tensor:
    """(H, W, 3): a colour of its own for each object of the picture, from left to right."""
    from matplotlib import colormaps

    colours = torch.tensor(colormaps["tab20"](range(20)))[:, :3].float()[list(range(0, 20, 2)) + list(range(1, 20, 2))]
    painted = torch.tensor(_NOTHING).expand(*numbers.shape, 3).clone()
    ordered = sorted(_numbers(numbers), key=lambda number: float((numbers == number).nonzero()[:, 1].float().mean()))
    for place, number in enumerate(ordered):
        painted[numbers == number] = colours[place % len(colours)]
    return painted


def _add_legend(figure: Figure, classes: Tensor, palette: Palette) -> None:
    from matplotlib.colors import to_hex
    from matplotlib.patches import Patch

    present = [int(number) for number in torch.unique(classes) if number < len(palette.names)]
    colours = _painted_classes(torch.arange(len(palette.names)), palette).numpy()
    patches = [Patch(facecolor=to_hex(colours[number]), label=palette.names[number]) for number in present]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 10), frameon=False, fontsize=9)
