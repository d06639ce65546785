"""The batches of every data set of scenes: images with the labels of three tasks, and masks of what is known."""

from __future__ import annotations

from typing import TypedDict, cast

from torch import Tensor

__all__ = ["IGNORE", "TASKS", "SceneBatch", "pick"]

IGNORE = 255
"""Class of a pixel without a label."""

TASKS = ("semantic", "instance", "depth")
"""The tasks, in the order of the article."""


class SceneBatch(TypedDict):
    """A batch of B scenes of H by W pixels.

    Attributes:
        image: RGB from 0 to 1, float32, of shape (B, 3, H, W).
        classes: Class of each pixel, int64, of shape (B, H, W); 255 where there is none.
        instances: Number of the instance within its image, int64, of shape (B, H, W); 0 where there is none.
        offsets: Vector (x, y) in pixels from the pixel to the centre of its instance, which is the mean position of
            the instance's visible pixels; float32, of shape (B, 2, H, W), 0 off instances.
        inverse_depth: Inverse depth, float32, of shape (B, 1, H, W), 0 where it is not known.
        instance_mask: True where ``offsets`` is known, bool, of shape (B, H, W).
        depth_mask: True where ``inverse_depth`` is known, bool, of shape (B, H, W).
    """

    image: Tensor
    classes: Tensor
    instances: Tensor
    offsets: Tensor
    inverse_depth: Tensor
    instance_mask: Tensor
    depth_mask: Tensor


def pick(scenes: SceneBatch, index: int | slice | list[int] | Tensor) -> SceneBatch:
    """Return some of the scenes; a single one has no dimension for the batch."""
    # A TypedDict's keys are literals to type checkers, and its values are objects.
    return cast(SceneBatch, {key: cast(Tensor, values)[index] for key, values in scenes.items()})
