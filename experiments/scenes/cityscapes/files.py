"""The files of Cityscapes: where they stand, whether all are there, and what is in them.

Nothing is skipped in silence: whatever is missing, misnamed or damaged is said with the name of the file, what was
expected there, and the archive that it comes from.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["KINDS", "CityscapesError", "Frame", "check_headers", "find_frames", "read_frame"]


class CityscapesError(ValueError):
    """A file or folder of the data set is not what it should be."""


@dataclass(frozen=True)
class Kind:
    """One of the four files of a frame.

    Attributes:
        folder: The first folder below the root.
        suffix: End of its names.
        modes: The pixel formats, as Pillow calls them.
        content: Description for people.
    """

    folder: str
    suffix: str
    modes: tuple[str, ...]
    content: str

    @property
    def archive(self) -> str:
        """The archive that it is downloaded in."""
        return f"{self.folder}_trainvaltest.zip"


_SIXTEEN_BITS = ("I;16", "I;16B", "I")  # one format, as different versions of Pillow name it

KINDS = {
    "image": Kind("leftImg8bit", "_leftImg8bit.png", ("RGB",), "a colour picture of 3 x 8 bits"),
    "labels": Kind("gtFine", "_gtFine_labelIds.png", ("L",), "class ids of 8 bits"),
    "instances": Kind("gtFine", "_gtFine_instanceIds.png", _SIXTEEN_BITS, "instance ids of 16 bits"),
    "disparity": Kind("disparity", "_disparity.png", _SIXTEEN_BITS, "disparities of 16 bits"),
}
"""By the name that this package gives them."""


@dataclass(frozen=True)
class Frame:
    """One picture with its labels.

    Attributes:
        root: The folder of the data set.
        split: Name of the split, ``"train"`` or ``"val"``.
        city: City where it was taken.
        name: Name of the frame, ``<city>_<sequence>_<frame>``.
    """

    root: Path
    split: str
    city: str
    name: str

    def path(self, kind: str) -> Path:
        """Return the path of one of its files.

        >>> Frame(Path("root"), "train", "ulm", "ulm_000000_000019").path("disparity").as_posix()
        'root/disparity/train/ulm/ulm_000000_000019_disparity.png'
        """
        return self.root / KINDS[kind].folder / self.split / self.city / (self.name + KINDS[kind].suffix)


def find_frames(root: Path, split: str) -> list[Frame]:
    """Return all frames of a split, sorted, each with all its files.

    Raises:
        CityscapesError: if a folder or a file is missing, or a PNG file is not named as it should be.
    """
    for kind in KINDS.values():
        if not (root / kind.folder / split).is_dir():
            raise CityscapesError(_no_folder(root, root / kind.folder / split, kind))
    found = {name: _frames_of(root, split, name) for name in KINDS}
    frames = sorted(set().union(*found.values()), key=lambda frame: frame.name)
    missing = [(frame.path(name), name) for frame in frames for name in KINDS if frame not in found[name]]
    if missing:
        raise CityscapesError(_no_file(root, missing))
    if not frames:
        kind = KINDS["image"]
        raise CityscapesError(
            f"{root / kind.folder / split} holds no pictures. Expected <city>/<city>_<sequence>_<frame>{kind.suffix}: "
            f"extract {kind.archive} in {root}."
        )
    return frames


def check_headers(frames: Iterable[Frame]) -> None:
    """Look at the first bytes of every file: a PNG, of the right format, and the four of a frame of one size.

    Raises:
        CityscapesError: for the first file where that does not hold.
    """
    for frame in frames:
        sizes = {}
        for kind in KINDS:
            with open_png(frame, kind) as image:
                sizes[kind] = image.size
        check_sizes(frame, sizes)


def check_sizes(frame: Frame, sizes: dict[str, tuple[int, int]]) -> None:
    """Raise a CityscapesError if a file of ``frame`` has another size, (width, height), than its image."""
    for kind, size in sizes.items():
        if size != sizes["image"]:
            raise CityscapesError(
                f"{frame.path(kind)} has {size[0]} x {size[1]} pixels. Expected the size of its picture "
                f"{frame.path('image').name}, {sizes['image'][0]} x {sizes['image'][1]}: extract "
                f"{KINDS[kind].archive} and {KINDS['image'].archive} again, or resize all files of the frame alike."
            )


def read_frame(frame: Frame) -> dict[str, NDArray[Any]]:
    """Return the pixels of its four files by kind, all (height, width), the image (height, width, 3).

    Raises:
        CityscapesError: if one cannot be decoded, or their formats or sizes are not what they should be.
    """
    arrays = {kind: _pixels(frame, kind) for kind in KINDS}
    check_sizes(frame, {kind: (array.shape[1], array.shape[0]) for kind, array in arrays.items()})
    return arrays


def open_png(frame: Frame, kind: str) -> Image:
    """Return the file, its pixels not read yet.

    Raises:
        CityscapesError: if it is no PNG, or has another pixel format.
    """
    from PIL import Image

    path, expected = frame.path(kind), KINDS[kind]
    try:
        image = Image.open(path, formats=("PNG",))
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path, expected, error) from error
    if image.mode not in expected.modes:
        image.close()
        raise CityscapesError(
            f"{path} has pixels of mode {image.mode!r}. Expected {expected.content} "
            f"(mode {expected.modes[0]!r}): take the file from {expected.archive}, not a converted one."
        )
    return image


def _pixels(frame: Frame, kind: str) -> NDArray[Any]:
    try:
        # Pillow decodes pixels without looking at their checksums: damage would be read as labels.
        with open_png(frame, kind) as image:
            image.verify()
        with open_png(frame, kind) as image:
            image.load()
            return np.asarray(image)
    except CityscapesError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
        raise _unreadable(frame.path(kind), KINDS[kind], error) from error


def _frames_of(root: Path, split: str, kind: str) -> set[Frame]:
    """Return the frames that have a file of that kind."""
    suffix = KINDS[kind].suffix
    files = (root / KINDS[kind].folder / split).glob(f"*/*{suffix if kind != 'image' else '.png'}")
    frames = set()
    for file in files:
        city, frame = file.parent.name, file.name.removesuffix(suffix)
        if not (file.name.endswith(suffix) and re.fullmatch(re.escape(city) + r"_\d{6}_\d{6}", frame)):
            raise CityscapesError(
                f"{file} is not named as a file of this folder. Expected {city}_<sequence>_<frame>{suffix}, with two "
                f"numbers of six digits, for example {city}_000000_000019{suffix}: rename it or move it away."
            )
        frames.add(Frame(root, split, city, frame))
    return frames


def _no_folder(root: Path, folder: Path, kind: Kind) -> str:
    if not root.is_dir():
        return (
            f"{root} is not a folder. Expected the root of Cityscapes, which holds "
            f"{', '.join(sorted({kind.folder for kind in KINDS.values()}))}: download them from "
            "cityscapes-dataset.com and extract all in one folder."
        )
    there = ", which is there but not extracted," if (root / kind.archive).is_file() else ""
    return f"{folder} is missing. Expected a folder per city in it: extract {kind.archive}{there} in {root}."


def _no_file(root: Path, missing: list[tuple[Path, str]]) -> str:
    path, name = missing[0]
    others = len(missing) - 1
    are_missing = "is missing" if not others else f"and {others} more file{'s' * (others > 1)} are missing"
    return (
        f"{path} {are_missing}. Expected four files of every frame "
        f"({', '.join(kind.suffix for kind in KINDS.values())}): extract {KINDS[name].archive} in {root} again."
    )


def _unreadable(path: Path, kind: Kind, error: Exception) -> CityscapesError:
    return CityscapesError(
        f"{path} cannot be read ({error}). Expected a PNG with {kind.content}: extract it again from {kind.archive}."
    )
