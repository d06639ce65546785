r"""A scene from the files of a frame: classes, instances, offsets and inverse depth at a smaller size.

What the article says [Kendall, Gal, Cipolla, CVPR 2018, section 5]: Tiny Cityscapes is "sub-sampled to a resolution of
128 x 256", "we also need to scale the disparity labels accordingly", and "we assign zero inverse depth to pixels
labelled as sky". It says not how it sub-samples. Here:

- labels and disparities are those of the pixel in the middle of each block (nearest neighbour), so that no class is
  mixed with another and no measured disparity with a missing one; the image is the mean over each block;
- "inverse depth" is the disparity in pixels *of the small image*, ``d = (p - 1) / 256 * width / full width``, as in the
  article, whose errors are in pixels; the inverse of the distance in metres is ``d / (focal length * baseline)``;
- offsets are computed after sub-sampling, from the pixels that are left, hence in pixels of the small image too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.scenes.cityscapes.classes import INSTANCE_CLASSES, LARGEST_ID, SKY, class_of_ids
from experiments.scenes.cityscapes.files import CityscapesError, Frame, read_frame
from experiments.scenes.data.batch import SceneBatch
from experiments.scenes.data.centres import centre_offsets

__all__ = ["flipped", "read_scene"]

_FIRST_INSTANCE = 1000  # ids below are those of classes: pixels of a group, or of no instance
_NO_ID = 255


def read_scene(frame: Frame, size: tuple[int, int] | None, *, sky_at_infinity: bool = True) -> SceneBatch:
    """Return the scene of a frame, without a batch dimension.

    Args:
        frame: The frame to read.
        size: Height and width; None keeps those of the files.
        sky_at_infinity: True gives sky an inverse depth of 0 that counts, as the article does; else only what stereo
            measured counts.

    Raises:
        CityscapesError: if a file of the frame is not what it should be.
    """
    files = read_frame(frame)
    _check_ids(frame, files["labels"])
    full_height, full_width = files["labels"].shape
    height, width = size or (full_height, full_width)
    if height > full_height or width > full_width:
        raise CityscapesError(
            f"{frame.path('image')} has {full_width} x {full_height} pixels. Expected at least the {width} x {height} "
            f"that are asked for: choose a smaller `size`, (height, width), or None."
        )
    small = {kind: _sub_sampled(files[kind], height, width) for kind in ("labels", "instances", "disparity")}
    classes = torch.from_numpy(class_of_ids(small["labels"]))
    instances = _instances(torch.from_numpy(small["instances"].astype(np.int64)), classes)
    inverse_depth, known = _inverse_depth(small["disparity"], width / full_width)
    if sky_at_infinity:
        sky = classes == SKY
        inverse_depth, known = inverse_depth.masked_fill(sky, 0.0), known | sky
    return SceneBatch(
        image=_mean_over_blocks(files["image"], height, width),
        classes=classes,
        instances=instances,
        offsets=centre_offsets(instances),
        inverse_depth=inverse_depth.unsqueeze(0),
        instance_mask=instances > 0,
        depth_mask=known,
    )


def flipped(scene: SceneBatch) -> SceneBatch:
    """Return the mirror image: left is right. Works on scenes and on batches.

    >>> flipped({"offsets": torch.tensor([[[1.0, 0.0, -1.0]], [[2.0, 3.0, 4.0]]])})["offsets"].tolist()
    [[[1.0, -0.0, -1.0]], [[4.0, 3.0, 2.0]]]
    """
    mirrored: Any = {name: tensor.flip(-1) for name, tensor in scene.items() if isinstance(tensor, Tensor)}
    sign = mirrored["offsets"].new_tensor([-1.0, 1.0])[:, None, None]  # x points the other way
    mirrored["offsets"] = mirrored["offsets"] * sign
    return mirrored  # type: ignore[no-any-return]  # a TypedDict cannot be built by a loop


def _instances(ids: Tensor, classes: Tensor) -> Tensor:
    """Return ``class id * 1000 + number`` on objects of trained classes, else 0: a group of cars has no centre."""
    has_instances = torch.isin(classes, torch.tensor(INSTANCE_CLASSES))
    return torch.where((ids >= _FIRST_INSTANCE) & has_instances, ids, 0)


def _inverse_depth(disparity: NDArray[Any], scale: float) -> tuple[Tensor, Tensor]:
    """Return disparities in pixels of the small image, and where they were measured; ``p = 0``: they were not."""
    raw = torch.from_numpy(disparity.astype(np.float32))
    known = raw > 0.0
    return torch.where(known, (raw - 1.0) / 256.0 * scale, 0.0), known


def _sub_sampled(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Return the pixel in the middle of each block."""
    rows, columns = (
        ((np.arange(few) + 0.5) * many / few).astype(int)
        for few, many in zip((height, width), array.shape, strict=True)
    )
    return array[np.ix_(rows, columns)]


def _mean_over_blocks(image: NDArray[np.uint8], height: int, width: int) -> Tensor:
    """Return the image, (3, height, width) from 0 to 1; where blocks do not divide it, they overlap by a pixel."""
    full = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255.0
    return torch.nn.functional.adaptive_avg_pool2d(full, (height, width))


def _check_ids(frame: Frame, ids: NDArray[np.integer]) -> None:
    strange = np.unique(ids[(ids > LARGEST_ID) & (ids != _NO_ID)])
    if strange.size:
        raise CityscapesError(
            f"{frame.path('labels')} contains the class id {strange[0]}. Expected ids from 0 to {LARGEST_ID}, as in "
            "gtFine_trainvaltest.zip; is it a file of colours or of another data set?"
        )
