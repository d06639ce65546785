"""What every data set of scenes serves, and every network of scenes reads."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

__all__ = ["IGNORE", "SceneBatch"]

IGNORE = 255
"""The class of pixels without a label."""


class SceneBatch(TypedDict):
    """A batch of scenes with all their labels; a single scene has no first dimension.

    Attributes:
        image: (B, 3, H, W) float32, red, green, blue from 0 to 1.
        classes: (B, H, W) int64, 255 where there is no label.
        instances: (B, H, W) int64, a number per object within an image, 0 where there is none.
        offsets: (B, 2, H, W) float32, the vector (x, y) in pixels from a pixel to the centre of its object; 0 off
            objects.
        inverse_depth: (B, 1, H, W) float32, 0 where it is not known.
        instance_mask: (B, H, W) bool, where ``offsets`` counts.
        depth_mask: (B, H, W) bool, where ``inverse_depth`` counts.
    """

    image: Tensor
    classes: Tensor
    instances: Tensor
    offsets: Tensor
    inverse_depth: Tensor
    instance_mask: Tensor
    depth_mask: Tensor
