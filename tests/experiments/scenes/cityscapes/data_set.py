"""A miniature Cityscapes in the layout of the real one, drawn by hand."""

import numpy as np
from PIL import Image

from experiments.scenes.cityscapes.files import KINDS, Frame

HEIGHT, WIDTH = 64, 128
ROAD, SKY, PERSON, CAR, TRAILER = 7, 23, 24, 26, 30
OBJECTS = {  # id: rows and columns; a group has the id of its class, a trailer is of a class that is not trained
    26000: (slice(30, 50), slice(10, 40)),
    26001: (slice(34, 46), slice(60, 80)),
    24000: (slice(28, 52), slice(90, 98)),
    CAR: (slice(40, 48), slice(102, 112)),
    30000: (slice(40, 48), slice(116, 126)),
}


def arrays(seed=0):
    """What the four files of a frame hold."""
    generator = np.random.default_rng(seed)
    instances = np.full((HEIGHT, WIDTH), ROAD, np.uint16)
    instances[:20] = SKY
    instances[:, :4] = 3  # out of the rectified picture
    for number, place in OBJECTS.items():
        instances[place] = number
    labels = np.where(instances >= 1000, instances // 1000, instances).astype(np.uint8)
    disparity = generator.integers(1, 1 << 15, (HEIGHT, WIDTH)).astype(np.uint16)
    disparity[:20] = 0
    disparity[25:60, ::3] = 0
    image = generator.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return {"image": image, "labels": labels, "instances": instances, "disparity": disparity}


def write_frame(frame, content):
    for kind, array in content.items():
        frame.path(kind).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(frame.path(kind))


def write_set(root, *, train=3, val=2):
    """Frames of two cities in each split; returns those of ``train``."""
    frames = {
        split: [
            Frame(root, split, city, f"{city}_{number:06}_000019")
            for number, city in zip(range(count), ("ulm", "jena", "ulm"), strict=False)
        ]
        for split, count in (("train", train), ("val", val))
    }
    for split in frames.values():
        for seed, frame in enumerate(split):
            write_frame(frame, arrays(seed))
    return frames["train"]


__all__ = ["HEIGHT", "KINDS", "OBJECTS", "WIDTH", "arrays", "write_frame", "write_set"]
