"""Street scenes made of random numbers: images with exact labels, and labels with a known noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from experiments.scenes.data.batch import SceneBatch
from experiments.scenes.data.centres import centre_offsets
from experiments.scenes.data.label_noise import EXACT, LabelNoise
from experiments.scenes.data.render import Visible, paint, visible_surfaces
from experiments.scenes.data.street import ROAD, SKY, Objects, throw_objects

__all__ = ["DISPARITY_PER_ROW", "SceneGenerator"]

DISPARITY_PER_ROW = 0.1
"""Disparity of the ground by row below the horizon: the baseline of the stereo pair, in heights of the camera."""

_CHUNK = 32  # scenes rendered at once: their buffers fit into the cache of a core


@dataclass(frozen=True)
class SceneGenerator:
    """A generator of street scenes: a road, sky, and boxes, cylinders and spheres of six classes, that hide each other.

    Inverse depth is in pixels of disparity, as in the article: that of a stereo pair whose baseline is a tenth of
    the camera's height (16 cm). Equal seeds give equal bits: the first of eighty scenes are those of eight.

    Args:
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.
        objects: Number of objects thrown into each scene; some hide others or lie outside.
        noise: Noise of the labels; none by default.

    Raises:
        ValueError: if an argument is not valid.

    Example:
        >>> scenes = SceneGenerator(height=32, width=64).make(5, seed=0)
        >>> scenes["image"].shape, scenes["offsets"].shape
        (torch.Size([5, 3, 32, 64]), torch.Size([5, 2, 32, 64]))
    """

    height: int = 64
    width: int = 128
    objects: int = 9
    noise: LabelNoise = EXACT

    def __post_init__(self) -> None:
        for name, least in (("height", 8), ("width", 8), ("objects", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")

    def make(self, count: int, *, seed: int) -> SceneBatch:
        """Return so many scenes.

        Args:
            count: Number of scenes.
            seed: Seed of all random numbers: objects, colours and noise.

        Raises:
            ValueError: if ``count`` is less than 1.
        """
        if count < 1:
            raise ValueError(f"The number of scenes must be at least 1; got {count!r}.")
        # Two streams: the scenes are the same whatever the noise of their labels is.
        scenery, mistakes = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(~seed)
        chunks = [
            self.noise.add_to(self._render(scenery), generator=mistakes) for _ in range(math.ceil(count / _CHUNK))
        ]
        keys = chunks[0].keys()
        return cast(SceneBatch, {key: torch.cat([chunk[key] for chunk in chunks])[:count] for key in keys})  # type: ignore[literal-required]

    def _render(self, generator: torch.Generator) -> SceneBatch:
        """Return one chunk, always of the same size, so that scene 7 is the same whether 8 or 80 are asked for."""
        view: dict[str, Any] = {"disparity_per_row": DISPARITY_PER_ROW}
        size: dict[str, Any] = {"height": self.height, "width": self.width}
        horizon = self.height * (0.34 + 0.14 * torch.rand(_CHUNK, generator=generator))
        objects = throw_objects(horizon, count=self.objects, generator=generator, **size, **view)
        visible = visible_surfaces(objects, horizon, **size, **view)
        image = paint(objects, visible, horizon, generator=generator, **view)
        return _label(image, objects, visible)


def _label(image: Tensor, objects: Objects, visible: Visible) -> SceneBatch:
    batch, height, width = visible.owner.shape
    instances = visible.owner + 1
    kinds = objects.kind.gather(1, visible.owner.clamp(min=0).view(batch, -1)).view(batch, height, width)
    background = torch.where(visible.sky, SKY, ROAD)
    mask = instances > 0
    return SceneBatch(
        image=image,
        classes=torch.where(mask, kinds + 2, background),
        instances=instances,
        offsets=centre_offsets(instances),
        inverse_depth=visible.disparity[:, None],
        instance_mask=mask,
        depth_mask=~visible.sky,
    )
