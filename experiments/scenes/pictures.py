"""Scenes, their labels and predictions as pictures beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from experiments.scenes.batch import SceneBatch
from experiments.scenes.generator import SceneGenerator
from experiments.scenes.label_noise import LabelNoise
from experiments.scenes.street import CLASS_NAMES
from lightning_uncertainty._arguments import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.float64]

__all__ = ["class_picture", "depth_picture", "offset_picture", "save_contact_sheet", "save_predictions"]

# Okabe and Ito; road and sky in grey and light blue, as in a street.
_CLASS_COLOURS = ("#6B6B6B", "#B9DDF1", "#D55E00", "#0072B2", "#F0E442", "#CC79A7", "#E69F00", "#009E73")
_LONGEST_OFFSET = 25.0  # pixels; drawn at full strength


def save_contact_sheet(path: Path, *, scenes: int = 6, noise: LabelNoise | None = None, seed: int = 0) -> Path:
    """Samples of the generator at ``path``: image, exact labels, and the noisy labels of the training.

    Args:
        path: where; the folder exists.
        scenes: how many.
        noise: of the noisy labels.
        seed: of the scenes.

    Returns:
        ``path``.

    Raises:
        MissingExtraError: without matplotlib.
    """
    clean = SceneGenerator().make(scenes, seed=seed)
    noisy = SceneGenerator(noise=LabelNoise() if noise is None else noise).make(scenes, seed=seed)
    columns = {
        "image": [_rgb(image) for image in clean["image"]],
        "classes": [class_picture(classes) for classes in clean["classes"]],
        "instances": [_instance_picture(instances) for instances in clean["instances"]],
        "to the centre": _offset_pictures(clean),
        "inverse depth": _depth_pictures(clean),
        "classes, noisy": [class_picture(classes) for classes in noisy["classes"]],
        "to the centre, noisy": _offset_pictures(noisy),
        "inverse depth, noisy": _depth_pictures(noisy),
    }
    return _save(path, columns)


def save_predictions(path: Path, scenes: SceneBatch, outputs: Mapping[str, Tensor]) -> Path:
    """Images, exact labels and what a network says, at ``path``.

    Offsets are drawn where there are instances, and inverse depth where it is known: only there they are learned.

    Args:
        path: where; the folder exists.
        scenes: with exact labels.
        outputs: of the network for those scenes, by task.

    Returns:
        ``path``.

    Raises:
        MissingExtraError: without matplotlib.
    """
    predicted = SceneBatch(**{**scenes, "offsets": outputs["instance"], "inverse_depth": outputs["depth"]})
    columns = {
        "image": [_rgb(image) for image in scenes["image"]],
        "classes": [class_picture(classes) for classes in scenes["classes"]],
        "predicted classes": [class_picture(logits.argmax(0)) for logits in outputs["semantic"]],
        "to the centre": _offset_pictures(scenes),
        "predicted": _offset_pictures(predicted),
        "inverse depth": _depth_pictures(scenes),
        "predicted ": _depth_pictures(predicted),
    }
    return _save(path, columns)


def class_picture(classes: Tensor) -> Picture:
    """Colours (H, W, 3) of classes (H, W); black where there is no label."""
    from matplotlib.colors import to_rgb

    palette = np.array([*map(to_rgb, _CLASS_COLOURS), (0.0, 0.0, 0.0)])
    picture: Picture = palette[classes.clamp(max=len(_CLASS_COLOURS)).numpy()]
    return picture


def offset_picture(offsets: Tensor, mask: Tensor) -> Picture:
    """Colours (H, W, 3) of offsets (2, H, W): the hue is the direction, the strength the length; white off the mask."""
    from matplotlib.colors import hsv_to_rgb

    x, y = offsets.detach().numpy()
    hue = np.arctan2(y, x) / (2 * np.pi) % 1.0
    strength = np.minimum(np.hypot(x, y) / _LONGEST_OFFSET, 1.0) * mask.numpy()
    picture: Picture = hsv_to_rgb(np.stack([hue, strength, np.ones_like(hue)], -1))
    return picture


def depth_picture(inverse_depth: Tensor, mask: Tensor, *, nearest: float) -> Picture:
    """Colours (H, W, 3) of inverse depth (1, H, W), brightest at ``nearest``; black where it is not known."""
    from matplotlib import colormaps

    values = (inverse_depth[0].detach() / nearest).clamp(0.0, 1.0).numpy()
    picture: Picture = colormaps["viridis"](values)[..., :3] * mask.numpy()[..., None]
    return picture


def _rgb(image: Tensor) -> Picture:
    return image.movedim(0, -1).numpy().astype(np.float64)


def _instance_picture(instances: Tensor) -> Picture:
    from matplotlib import colormaps

    colours: Picture = np.vstack([(1.0, 1.0, 1.0), colormaps["tab20"](np.arange(20))[:, :3]])
    picture: Picture = colours[torch.where(instances > 0, (instances - 1) % 20 + 1, 0).numpy()]
    return picture


def _offset_pictures(scenes: SceneBatch) -> list[Picture]:
    return [offset_picture(*pair) for pair in zip(scenes["offsets"], scenes["instance_mask"], strict=True)]


def _depth_pictures(scenes: SceneBatch) -> list[Picture]:
    nearest = 0.1 * scenes["image"].shape[-2] * 0.66  # of the ground at the lower edge
    pairs = zip(scenes["inverse_depth"], scenes["depth_mask"], strict=True)
    return [depth_picture(depth, mask, nearest=nearest) for depth, mask in pairs]


def _save(path: Path, columns: Mapping[str, Sequence[Picture]]) -> Path:
    require("scenes", "matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    count = len(next(iter(columns.values())))
    figure = Figure(figsize=(2.0 * len(columns), 1.05 * count + 0.6), layout="constrained")
    axes = figure.subplots(count, len(columns), squeeze=False)
    for column, (title, pictures) in enumerate(columns.items()):
        axes[0, column].set_title(title.strip(), fontsize=9)
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture, interpolation="nearest")
            axes[row, column].set_axis_off()
    handles = [Patch(color=colour, label=name) for colour, name in zip(_CLASS_COLOURS, CLASS_NAMES, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    figure.savefig(path, dpi=90)
    return path
