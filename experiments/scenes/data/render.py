"""Pixels from objects: which object each pixel shows, how near it is, and what colour it has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.scenes.data.street import CAMERA_HEIGHT, KINDS, Objects, focal_length

__all__ = ["Visible", "paint", "visible_surfaces"]

_SPHERE = [float(kind.shape == "sphere") for kind in KINDS]
_ROUND = [float(kind.shape != "box") for kind in KINDS]
_RIM = 0.2  # by how much of its half height a cylinder's rim is bent


@dataclass(frozen=True)
class Visible:
    """The surface that each pixel shows; tensors of shape (B, H, W).

    Attributes:
        owner: Index of the object, -1 for road or sky.
        disparity: Disparity in pixels; 0 in the sky.
        sky: True where nothing else is.
    """

    owner: Tensor
    disparity: Tensor
    sky: Tensor


def visible_surfaces(
    objects: Objects, horizon: Tensor, *, height: int, width: int, disparity_per_row: float
) -> Visible:
    """Return the nearest surface in each pixel, by a buffer of disparities."""
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    ground = (disparity_per_row * (rows - horizon[:, None])).clamp_(min=0.0)
    disparity = ground[:, :, None].repeat(1, 1, width)
    owner = torch.full(disparity.shape, -1)
    sphere, round_ = torch.tensor(_SPHERE)[objects.kind], torch.tensor(_ROUND)[objects.kind]
    for k in range(objects.kind.shape[1]):
        middle = objects.foot[:, k] - objects.half_height[:, k]
        u = (columns - objects.left_right[:, k, None]) / objects.half_width[:, k, None]
        v = (rows - middle[:, None]) / objects.half_height[:, k, None]
        arc = (1.0 - u * u).clamp_(min=0.0)
        tall = torch.lerp(1.0 - _RIM * round_[:, k, None] * (1.0 - arc.sqrt()), arc.sqrt(), sphere[:, k, None])
        tall = torch.where(u.abs() <= 1.0, tall, -1.0)
        inside = v.abs()[:, :, None] <= tall[:, None, :]
        # How far the surface bulges towards the camera, 0 to 1.
        bulge = (arc * round_[:, k, None])[:, None, :] - (v * v * sphere[:, k, None])[:, :, None]
        bulge = bulge.clamp_(min=0.0).sqrt_()
        near = (bulge * objects.relief[:, k, None, None]).add_(1.0).mul_(objects.disparity[:, k, None, None])
        nearer = inside.logical_and_(near > disparity)
        disparity = torch.where(nearer, near, disparity)
        owner.masked_fill_(nearer, k)
    return Visible(owner, disparity, disparity == 0.0)


def paint(
    objects: Objects, visible: Visible, horizon: Tensor, *, disparity_per_row: float, generator: torch.Generator
) -> Tensor:
    """Return RGB images from 0 to 1, (B, 3, H, W) float32: textures, one light, haze and noise of the sensor."""
    batch, height, width = visible.owner.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((batch, *shape, 1, 1), generator=generator)

    noise = torch.randn((batch, height, width), generator=generator)
    sky_colour = torch.tensor([0.62, 0.74, 0.90]).view(3, 1, 1) * uniform(0.75, 1.05, 1)
    road = _road(visible, horizon, noise, uniform(0.30, 0.45))
    surface = _surfaces(objects, visible, noise, light=(uniform(-0.8, 0.8), uniform(-0.9, -0.3)))
    on_object = (visible.owner >= 0)[:, None]
    colour = torch.where(on_object, surface, road[:, None])
    haze = torch.exp(visible.disparity * (-0.3 / disparity_per_row))[:, None] * 0.8
    image = torch.lerp(colour, sky_colour, haze)
    rows = torch.linspace(1.15, 0.85, height).view(1, 1, height, 1)
    image = torch.where(visible.sky[:, None], sky_colour * rows, image)
    grain = torch.randn(image.shape, generator=generator)
    return image.mul_(uniform(0.75, 1.2, 1)).add_(grain, alpha=0.03).clamp_(0.0, 1.0)


def _road(visible: Visible, horizon: Tensor, noise: Tensor, grey: Tensor) -> Tensor:
    """Return the brightness of asphalt with dashed lanes, of shape (B, H, W)."""
    _, height, width = visible.owner.shape
    below = (torch.arange(height) + 0.5 - horizon[:, None]).clamp_(min=0.5)[:, :, None]
    metres_per_pixel = CAMERA_HEIGHT / below
    sideways = (torch.arange(width) + 0.5 - 0.5 * width) * metres_per_pixel
    ahead = focal_length(width) * metres_per_pixel
    dash = (ahead % 6.0 < 3.5) & (below > 3.0)
    lane = ((sideways + 1.75) % 3.5 - 1.75).abs() < 0.12
    return torch.where(lane & dash, 0.85, grey + 0.03 * noise)


def _surfaces(objects: Objects, visible: Visible, noise: Tensor, *, light: tuple[Tensor, Tensor]) -> Tensor:
    """Return the colours of the objects as if every pixel showed one, of shape (B, 3, H, W)."""
    batch, height, width = visible.owner.shape
    index = visible.owner.clamp(min=0).view(batch, -1)

    def of_owner(values: Tensor) -> Tensor:
        return values.gather(1, index).view(batch, height, width)

    def of_kind(values: list[float]) -> Tensor:
        return of_owner(torch.tensor(values)[objects.kind])

    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    u = (columns - of_owner(objects.left_right)) / of_owner(objects.half_width)
    v = (rows - of_owner(objects.foot - objects.half_height)) / of_owner(objects.half_height)
    along_x, along_y = (of_kind([kind.stripes[axis] for kind in KINDS]) for axis in (0, 1))
    phase = of_owner(objects.phase)
    stripe = _alternating(u * along_x + phase) * _alternating(v * along_y + phase)
    normal = u * of_kind(_ROUND) * light[0] + v * of_kind(_SPHERE) * light[1]
    brightness = (0.35 * normal + 0.9) * (1.0 - 0.35 * stripe) + of_kind([k.roughness for k in KINDS]) * noise
    colours = torch.stack([of_owner(channel) for channel in objects.colour.unbind(-1)], 1)
    return colours * brightness[:, None]


def _alternating(position: Tensor) -> Tensor:
    """Return 1 on every other stripe and 0 between; for an object without stripes the same all over."""
    return ((position % 1.0) < 0.5).to(torch.float32)
