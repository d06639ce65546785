"""The objects of a street: their classes, and objects thrown at random onto a ground plane."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CAMERA_HEIGHT", "CLASS_NAMES", "KINDS", "ROAD", "SKY", "Kind", "Objects", "throw_objects"]

CAMERA_HEIGHT = 1.6  # metres


@dataclass(frozen=True)
class Kind:
    """A class of objects.

    Attributes:
        name: Name of the class.
        shape: Shape, ``"box"``, ``"cylinder"`` or ``"sphere"``.
        width: Least and greatest, in metres.
        height: Least and greatest, in metres; a sphere is as high as it is wide.
        nearest: Lowest place of its foot, as a part of the way from the horizon to the lower edge of the image.
        colour: Mean RGB.
        stripes: Number of stripes along x and y per half of the object's width and height; (0, 0) is plain.
        roughness: Standard deviation of the brightness from pixel to pixel.
        frequency: Frequency with which it is thrown, relative to the others.
    """

    name: str
    shape: str
    width: tuple[float, float]
    height: tuple[float, float]
    nearest: float
    colour: tuple[float, float, float]
    stripes: tuple[float, float] = (0.0, 0.0)
    roughness: float = 0.02
    frequency: float = 1.0


KINDS = (
    Kind("house", "box", (4.0, 8.0), (3.5, 6.0), 0.35, (0.60, 0.48, 0.40), (2.5, 2.0), 0.03, 1.0),
    Kind("van", "box", (1.7, 2.6), (1.5, 2.2), 0.85, (0.52, 0.42, 0.45), (0.0, 0.8), 0.02, 1.6),
    Kind("pillar", "cylinder", (0.35, 0.7), (2.5, 4.0), 0.80, (0.50, 0.50, 0.48), (0.0, 0.0), 0.02, 1.2),
    Kind("barrel", "cylinder", (0.7, 1.2), (0.9, 1.4), 0.95, (0.55, 0.45, 0.38), (0.0, 2.0), 0.02, 1.2),
    Kind("ball", "sphere", (0.7, 1.6), (0.7, 1.6), 0.95, (0.55, 0.45, 0.48), (1.5, 0.0), 0.02, 1.2),
    Kind("bush", "sphere", (1.2, 2.6), (1.2, 2.6), 0.80, (0.38, 0.50, 0.34), (0.0, 0.0), 0.10, 1.2),
)

ROAD, SKY = 0, 1
CLASS_NAMES = ("road", "sky", *(kind.name for kind in KINDS))
"""By class number."""


@dataclass(frozen=True)
class Objects:
    """K objects in each of B scenes; tensors of shape (B, K), lengths in pixels, unless said otherwise.

    Attributes:
        kind: Index into :data:`KINDS`.
        left_right: Column of the centre.
        foot: Row where the object stands on the ground.
        half_width: Half of the width.
        half_height: Half of the height.
        disparity: Inverse depth of the plane through the object's axis.
        relief: Distance by which its nearest point is nearer, as a part of its depth; 0 for a box.
        colour: RGB, of shape (B, K, 3).
        phase: Place where its stripes begin.
    """

    kind: Tensor
    left_right: Tensor
    foot: Tensor
    half_width: Tensor
    half_height: Tensor
    disparity: Tensor
    relief: Tensor
    colour: Tensor
    phase: Tensor


def throw_objects(
    horizon: Tensor, *, count: int, height: int, width: int, disparity_per_row: float, generator: torch.Generator
) -> Objects:
    """Return objects on the ground plane, of random kind, place, size and colour.

    Args:
        horizon: Row of the horizon in each scene, of shape (B,).
        count: Number of objects, K.
        height: Height of the image.
        width: Width of the image.
        disparity_per_row: Disparity of the ground by row below the horizon.
        generator: Generator of the random numbers.
    """
    shape = (len(horizon), count)

    def uniform(low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    frequencies = torch.tensor([kind.frequency for kind in KINDS])
    kind = torch.multinomial(frequencies, count * len(horizon), replacement=True, generator=generator).view(shape)
    rows = height - horizon[:, None]  # of ground
    nearest = torch.tensor([kind.nearest for kind in KINDS])[kind]
    below_horizon = rows * uniform(0.10, nearest)
    pixels_per_metre = below_horizon / CAMERA_HEIGHT
    half_width = 0.5 * pixels_per_metre * uniform(*_range("width", kind))
    half_height = 0.5 * pixels_per_metre * uniform(*_range("height", kind))
    round_ = torch.tensor([kind.shape != "box" for kind in KINDS])[kind]
    sphere = torch.tensor([kind.shape == "sphere" for kind in KINDS])[kind]
    mean_colour = torch.tensor([kind.colour for kind in KINDS])[kind]
    spread = 0.16 * torch.randn((*shape, 3), generator=generator)
    return Objects(
        kind=kind,
        left_right=uniform(-0.02 * width, 1.02 * width),
        foot=horizon[:, None] + below_horizon,
        half_width=half_width,
        half_height=torch.where(sphere, half_width, half_height),
        disparity=disparity_per_row * below_horizon,
        relief=torch.where(round_, half_width / focal_length(width), 0.0),
        colour=(mean_colour + spread).clamp_(0.05, 0.95),
        phase=uniform(),
    )


def focal_length(width: int) -> float:
    """Return the focal length in pixels: the field of view is 60 degrees."""
    return 0.866 * width


def _range(quantity: str, kind: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.tensor([getattr(kind, quantity) for kind in KINDS]).unbind(1)
    return low[kind], high[kind]
