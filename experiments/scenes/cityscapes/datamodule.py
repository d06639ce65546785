"""Cityscapes, as it is downloaded, in batches for three tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from experiments.scenes.cityscapes.files import CityscapesError, Frame, check_headers, find_frames
from experiments.scenes.cityscapes.scene import flipped, read_scene
from experiments.scenes.data.batch import SceneBatch
from lightning_uncertainty._arguments import require

__all__ = ["TINY", "CityscapesDataModule", "CityscapesDataset", "CityscapesError"]

TINY = (128, 256)
"""Height and width of the article's Tiny Cityscapes."""


class CityscapesDataset(Dataset[SceneBatch]):
    """The scenes of one split, each a :class:`~experiments.scenes.data.batch.SceneBatch` without first dimension.

    Args:
        root: The folder that holds ``leftImg8bit``, ``gtFine`` and ``disparity``.
        split: ``"train"`` or ``"val"``; the labels of the test set are not public.
        size: Height and width, see :class:`CityscapesDataModule`.
        flip: True mirrors each scene with a probability of 1/2.
        sky_at_infinity: Treatment of the sky, see :class:`CityscapesDataModule`.

    Attributes:
        frames: Files of each scene.

    Raises:
        CityscapesError: if a file is missing or not named as it should be.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        size: tuple[int, int] | None = TINY,
        flip: bool = False,
        sky_at_infinity: bool = True,
    ) -> None:
        self.size, self.flip, self.sky_at_infinity = size, flip, sky_at_infinity
        self.frames: Sequence[Frame] = find_frames(Path(root), split)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> SceneBatch:
        scene = read_scene(self.frames[index], self.size, sky_at_infinity=self.sky_at_infinity)
        return flipped(scene) if self.flip and torch.rand(()) < 0.5 else scene


class CityscapesDataModule(L.LightningDataModule):
    """Training scenes of ``train``, validation and test scenes of ``val``, as in the article.

    ``prepare_data`` looks at the head of every file, ``setup`` at all names: whatever is missing, misnamed, of another
    size or no PNG is said before the first batch. What only decoding shows is said by the batch that meets it.

    Departures from the article: scenes are not cropped (its "256 x 256 crops" do not fit into 128 x 256). What it
    leaves open is in :mod:`~experiments.scenes.cityscapes.scene`.

    Args:
        root: The folder in which ``leftImg8bit_trainvaltest.zip``, ``gtFine_trainvaltest.zip`` and
            ``disparity_trainvaltest.zip`` were extracted.
        size: Height and width to sub-sample to; None keeps 1024 x 2048.
        batch_size: Scenes in a batch; 8 in the article.
        num_workers: Number of processes that read.
        flip: True mirrors half of the training scenes, chosen at random, as the article does.
        sky_at_infinity: True gives sky an inverse depth of 0 that counts, as the article does; else sky is unknown.

    Raises:
        MissingExtraError: without Pillow.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        size: tuple[int, int] | None = TINY,
        batch_size: int = 8,
        num_workers: int = 0,
        flip: bool = True,
        sky_at_infinity: bool = True,
    ) -> None:
        require("experiments", "PIL")
        super().__init__()
        self.root, self.size, self.flip, self.sky_at_infinity = Path(root), size, flip, sky_at_infinity
        self.batch_size, self.num_workers = batch_size, num_workers

    def prepare_data(self) -> None:
        """Look at the head of every file.

        Raises:
            CityscapesError: for the first file that is not as it should be.
        """
        for split in ("train", "val"):
            check_headers(find_frames(self.root, split))

    def setup(self, stage: str | None = None) -> None:
        """Find the files of what ``stage`` needs.

        Raises:
            CityscapesError: if one is missing or not named as it should be.
        """
        if stage in (None, "fit"):
            self.train_set = self._dataset("train", flip=self.flip)
        self.val_set = self._dataset("val", flip=False)

    def train_dataloader(self) -> DataLoader[SceneBatch]:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[SceneBatch]:
        return self._loader(self.val_set, shuffle=False)

    def test_dataloader(self) -> DataLoader[SceneBatch]:
        return self._loader(self.val_set, shuffle=False)

    def _dataset(self, split: str, *, flip: bool) -> CityscapesDataset:
        return CityscapesDataset(self.root, split, size=self.size, flip=flip, sky_at_infinity=self.sky_at_infinity)

    def _loader(self, scenes: CityscapesDataset, *, shuffle: bool) -> DataLoader[SceneBatch]:
        return DataLoader(
            scenes,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )
