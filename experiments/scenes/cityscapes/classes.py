"""The classes of Cityscapes that are trained and judged, with the ids that its files use.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016; the table is the standard
one of cityscapesScripts (``helpers/labels.py``). 15 of the 34 ids of the files are for no training: rare things
(caravan, tunnel...) and what is no thing at all (out of the rectified picture, the own car's bonnet...).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.scenes.data.batch import IGNORE

__all__ = ["CLASSES", "CLASS_NAMES", "COLOURS", "INSTANCE_CLASSES", "LARGEST_ID", "SKY", "class_of_ids"]


@dataclass(frozen=True)
class CityscapesClass:
    """A class; its place in :data:`CLASSES` is the number that networks are trained on (the "train id").

    Attributes:
        id: The number in the files.
        name: Name for people.
        colour: Red, green, blue from 0 to 255, in pictures.
        has_instances: True if its single objects are told apart.
    """

    id: int
    name: str
    colour: tuple[int, int, int]
    has_instances: bool = False


CLASSES = (
    CityscapesClass(7, "road", (128, 64, 128)),
    CityscapesClass(8, "sidewalk", (244, 35, 232)),
    CityscapesClass(11, "building", (70, 70, 70)),
    CityscapesClass(12, "wall", (102, 102, 156)),
    CityscapesClass(13, "fence", (190, 153, 153)),
    CityscapesClass(17, "pole", (153, 153, 153)),
    CityscapesClass(19, "traffic light", (250, 170, 30)),
    CityscapesClass(20, "traffic sign", (220, 220, 0)),
    CityscapesClass(21, "vegetation", (107, 142, 35)),
    CityscapesClass(22, "terrain", (152, 251, 152)),
    CityscapesClass(23, "sky", (70, 130, 180)),
    CityscapesClass(24, "person", (220, 20, 60), has_instances=True),
    CityscapesClass(25, "rider", (255, 0, 0), has_instances=True),
    CityscapesClass(26, "car", (0, 0, 142), has_instances=True),
    CityscapesClass(27, "truck", (0, 0, 70), has_instances=True),
    CityscapesClass(28, "bus", (0, 60, 100), has_instances=True),
    CityscapesClass(31, "train", (0, 80, 100), has_instances=True),
    CityscapesClass(32, "motorcycle", (0, 0, 230), has_instances=True),
    CityscapesClass(33, "bicycle", (119, 11, 32), has_instances=True),
)
"""In the order of their train ids, 0 to 18."""

CLASS_NAMES = tuple(each.name for each in CLASSES)
COLOURS = tuple(each.colour for each in CLASSES)
INSTANCE_CLASSES = tuple(number for number, each in enumerate(CLASSES) if each.has_instances)
SKY = CLASS_NAMES.index("sky")
LARGEST_ID = 33

_CLASS_OF_ID: NDArray[np.int64] = np.full(256, IGNORE, np.int64)
_CLASS_OF_ID[[each.id for each in CLASSES]] = np.arange(len(CLASSES))


def class_of_ids(ids: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the class of each id of a file, 0 to 18, or 255 for an id that is not trained; ids are from 0 to 255.

    >>> class_of_ids(np.array([7, 33, 0, 29])).tolist()
    [0, 18, 255, 255]
    """
    classes: NDArray[np.int64] = _CLASS_OF_ID[ids]
    return classes
