"""Scenes as pictures beside each other: exact and noisy labels, and what a network sees."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.scenes.data.batch import IGNORE, SceneBatch, pick
from experiments.scenes.data.centres import pixel_positions
from experiments.scenes.data.generator import SceneGenerator
from experiments.scenes.data.label_noise import LabelNoise
from experiments.scenes.data.street import CLASS_NAMES
from experiments.scenes.model.instances import Instances, group_instances
from lightning_uncertainty._arguments import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["STREET", "Palette", "contact_sheet", "prediction_figure"]

_SHEET = (
    *("image", "classes", "instances", "to the centre", "inverse depth"),
    *("classes, noisy", "to the centre, noisy", "inverse depth, noisy"),
)
_PREDICTION = (
    *("image", "classes", "predicted"),
    *("instances", "votes for centres", "predicted"),
    *("inverse depth", "predicted"),
)
_NOTHING = (0.16, 0.16, 0.18)  # neither an object nor a depth
_VOTES = 1500  # drawn per picture
_LONGEST_OFFSET = 25.0  # pixels; drawn at full strength


@dataclass(frozen=True)
class Palette:
    """The names and colours of the classes.

    Attributes:
        names: Names of the classes.
        colours: Red, green, blue from 0 to 255 of each class.
        instance_classes: Numbers of the classes that are told apart into objects.
    """

    names: Sequence[str]
    colours: Sequence[tuple[int, int, int]]
    instance_classes: Collection[int]


STREET = Palette(
    CLASS_NAMES,
    (  # Okabe and Ito; road and sky in grey and light blue
        *((107, 107, 107), (185, 221, 241), (213, 94, 0), (0, 114, 178)),
        *((240, 228, 66), (204, 121, 167), (230, 159, 0), (0, 158, 115)),
    ),
    range(2, len(CLASS_NAMES)),
)
"""The palette of the generated scenes."""


def contact_sheet(*, scenes: int = 6, noise: LabelNoise | None = None, seed: int = 0) -> Figure:
    """Draw samples of the generator: image, exact labels, and the noisy labels of the training.

    Args:
        scenes: Number of scenes.
        noise: Noise of the noisy labels.
        seed: Seed of the scenes.

    Raises:
        MissingExtraError: without matplotlib.
    """
    clean = SceneGenerator().make(scenes, seed=seed)
    noisy = SceneGenerator(noise=LabelNoise() if noise is None else noise).make(scenes, seed=seed)
    figure, axes = _grid(_SHEET, clean["image"])
    for index, row in enumerate(axes):
        exact, other = pick(clean, index), pick(noisy, index)
        _draw(row[0], _rgb(exact))
        _draw(row[2], _painted_numbers(exact["instances"]))
        limits = _limits(exact)
        for scene, columns in ((exact, (1, 3, 4)), (other, (5, 6, 7))):
            _draw(row[columns[0]], _painted_classes(scene["classes"], STREET))
            _draw(row[columns[1]], _painted_offsets(scene["offsets"], scene["instance_mask"]))
            _draw(row[columns[2]], _known_depth(scene), **limits)
    _add_legend(figure, clean["classes"], STREET)
    return figure


def prediction_figure(
    batch: SceneBatch, outputs: Mapping[str, Tensor], palette: Palette = STREET, *, rows: int = 4, **grouping: Any
) -> Figure:
    """Draw a row per scene: image, true and predicted classes, instances and inverse depth.

    Predicted instances are those of :func:`~experiments.scenes.model.instances.group_instances`; the votes that it
    clusters are drawn in the colours of the clusters, and the true centres as white crosses. True and predicted inverse
    depth of a scene share their scale; dark is what is not labelled.

    Args:
        batch: The scenes.
        outputs: Outputs of the network for that batch: ``"semantic"``, logits (B, classes, H, W), ``"instance"``,
            vectors (x, y) to centres in pixels (B, 2, H, W), and ``"depth"``, inverse depth (B, 1, H, W).
        palette: Names and colours of the classes.
        rows: Largest number of scenes that are drawn.
        grouping: Options of ``group_instances``.

    Raises:
        MissingExtraError: without matplotlib or scikit-learn.
    """
    require("experiments", "sklearn")
    scenes: Any = {name: tensor[:rows].detach().cpu() for name, tensor in batch.items() if isinstance(tensor, Tensor)}
    semantic, offsets, depth = (
        outputs[task][:rows].detach().cpu().float() for task in ("semantic", "instance", "depth")
    )
    probability, classes = semantic.softmax(1).max(1)
    figure, axes = _grid(_PREDICTION, scenes["image"])
    for index, row in enumerate(axes):
        scene = pick(scenes, index)
        found = group_instances(
            classes[index], offsets[index], palette.instance_classes, confidence=probability[index], **grouping
        )
        _draw(row[0], _rgb(scene))
        _draw(row[1], _painted_classes(scene["classes"], palette))
        _draw(row[2], _painted_classes(classes[index], palette))
        _draw(row[3], _painted_numbers(scene["instances"]))
        _draw(row[4], 0.35 * _rgb(scene))
        _draw_votes(row[4], scene, offsets[index], found)
        _draw(row[5], _painted_numbers(found.map))
        _draw(row[6], _known_depth(scene), **_limits(scene))
        _draw(row[7], depth[index, 0], **_limits(scene))
    _add_legend(figure, torch.cat([classes.flatten(), scenes["classes"].flatten()]), palette)
    return figure


def _grid(columns: Sequence[str], images: Tensor) -> tuple[Figure, Any]:
    """Return a figure with a row of axes per image."""
    require("experiments", "matplotlib")
    from matplotlib.figure import Figure  # not pyplot, which would choose a window system for everyone

    count, _, height, width = images.shape
    side = 2.1  # inches wide is a picture
    figure = Figure(figsize=(len(columns) * side, count * side * height / width + 0.9), layout="constrained")
    axes = figure.subplots(count, len(columns), squeeze=False)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=10)
    return figure, axes


def _draw(axis: Axes, picture: Tensor, **options: Any) -> None:
    axis.imshow(picture.numpy(), interpolation="nearest", **options)
    axis.set_facecolor(_NOTHING)
    axis.set_xticks([])
    axis.set_yticks([])


def _draw_votes(axis: Axes, scene: SceneBatch, offsets: Tensor, found: Instances) -> None:
    """Draw the predicted centre of every pixel of an object found, and the true centres."""
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


def _rgb(scene: SceneBatch) -> Tensor:
    return scene["image"].permute(1, 2, 0).clamp(0.0, 1.0)


def _known_depth(scene: SceneBatch) -> Tensor:
    return scene["inverse_depth"][0].masked_fill(~scene["depth_mask"], torch.nan)


def _limits(scene: SceneBatch) -> dict[str, Any]:
    """Return the scale of all depths of a scene."""
    known = scene["inverse_depth"][0][scene["depth_mask"]]
    return {"vmin": 0.0, "vmax": float(known.max()) if len(known) else None, "cmap": "magma"}


def _numbers(instances: Tensor) -> list[int]:
    return [int(number) for number in torch.unique(instances) if number != 0]


def _painted_classes(classes: Tensor, palette: Palette) -> Tensor:
    """Return colours (H, W, 3) from 0 to 1; black where there is no label."""
    colours = torch.zeros(IGNORE + 1, 3)
    colours[: len(palette.colours)] = torch.tensor(palette.colours) / 255.0
    return colours[classes]


def _painted_numbers(numbers: Tensor) -> Tensor:
    """Return colours (H, W, 3), another for each object of the picture, from left to right."""
    from matplotlib import colormaps

    colours = torch.tensor(colormaps["tab20"](range(20)))[:, :3].float()[list(range(0, 20, 2)) + list(range(1, 20, 2))]
    painted = torch.tensor(_NOTHING).expand(*numbers.shape, 3).clone()
    ordered = sorted(_numbers(numbers), key=lambda number: float((numbers == number).nonzero()[:, 1].float().mean()))
    for place, number in enumerate(ordered):
        painted[numbers == number] = colours[place % len(colours)]
    return painted


def _painted_offsets(offsets: Tensor, mask: Tensor) -> Tensor:
    """Return colours (H, W, 3): the hue is the direction, the strength the length; white off the mask."""
    from matplotlib.colors import hsv_to_rgb

    x, y = offsets.numpy()
    hue = np.arctan2(y, x) / (2 * np.pi) % 1.0
    strength = np.minimum(np.hypot(x, y) / _LONGEST_OFFSET, 1.0) * mask.numpy()
    return torch.from_numpy(hsv_to_rgb(np.stack([hue, strength, np.ones_like(hue)], -1)))


def _add_legend(figure: Figure, classes: Tensor, palette: Palette) -> None:
    from matplotlib.colors import to_hex
    from matplotlib.patches import Patch

    present = [int(number) for number in torch.unique(classes) if number < len(palette.names)]
    colours = _painted_classes(torch.arange(len(palette.names)), palette).numpy()
    patches = [Patch(facecolor=to_hex(colours[number]), label=palette.names[number]) for number in present]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 10), frameon=False, fontsize=9)
