"""Instances as vectors: from every pixel of an object to the object's centre."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["centre_offsets", "pixel_positions"]


def centre_offsets(instances: Tensor) -> Tensor:
    r"""Return the vector from each pixel to the centre of its instance.

    .. math:: x_n = i_n - c_n

    - ``c_n``: the position (column, row) of the pixel,
    - ``i_n``: the centroid of its instance: the mean position of the pixels that it has in this picture.

    [Kendall, Gal, Cipolla, CVPR 2018, section 4; the article says "centroid" and no more. What is hidden behind other
    things takes no part in the mean, for nobody knows it.]

    Args:
        instances: Numbers of the instances, (H, W) or (B, H, W) integers; 0 where there is none.

    Returns:
        (2, H, W) or (B, 2, H, W) float32, x before y, in pixels; 0 where there is no instance.

    >>> centre_offsets(torch.tensor([[5, 5, 5, 0]]))[0]
    tensor([[ 1.,  0., -1.,  0.]])
    """
    height, width = instances.shape[-2:]
    numbers = instances.reshape(-1, height * width)
    index = numbers + torch.arange(len(numbers))[:, None] * (numbers.max() + 1)  # no two pictures share a number
    positions = pixel_positions(height, width).flatten(1)
    # Sums of columns over a large picture need more digits than float32 has.
    sums = [index.flatten().bincount(axis.repeat(len(numbers))) for axis in positions.double()]
    centres = (torch.stack(sums) / index.flatten().bincount()).float()
    offsets = torch.where(numbers > 0, centres[:, index] - positions[:, None], 0.0)
    return offsets.movedim(0, 1).reshape(*instances.shape[:-2], 2, height, width)


def pixel_positions(height: int, width: int) -> Tensor:
    """Return the column and the row of each pixel, (2, H, W) float32.

    >>> pixel_positions(1, 3)[0]
    tensor([[0., 1., 2.]])
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows]).float()
