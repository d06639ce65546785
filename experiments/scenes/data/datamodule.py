"""Generated scenes as a LightningDataModule: noisy labels to train on, exact ones to test on."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Dataset

from experiments.scenes.data.batch import SceneBatch, pick
from experiments.scenes.data.generator import SceneGenerator
from experiments.scenes.data.label_noise import LabelNoise

__all__ = ["Scenes", "ScenesDataModule"]

_EXACT_SEEDS = {"test": 2**31, "val": 2**31 + 1}  # beyond those of training sets


class Scenes(Dataset[SceneBatch]):
    """Scenes in memory, fetched a batch at a time.

    Args:
        scenes: The scenes.
    """

    def __init__(self, scenes: SceneBatch) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes["image"])

    def __getitem__(self, index: int) -> SceneBatch:
        return pick(self.scenes, index)

    def __getitems__(self, indices: list[int]) -> SceneBatch:
        """Return a batch, which a DataLoader asks for instead of scene after scene."""
        return pick(self.scenes, indices)


class ScenesDataModule(L.LightningDataModule):
    """Training scenes with noise on their labels, validation and test scenes without: what is measured is the truth.

    The training scenes and their labels are drawn once; those to measure on are the same for every seed.

    Args:
        train: Number of training scenes.
        validation: Number of validation scenes, with exact labels.
        test: Number of test scenes.
        seed: Seed of the training scenes.
        batch_size: Number of scenes in a batch.
        noise: Noise of the training labels.
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.
    """

    def __init__(
        self,
        *,
        train: int = 512,
        validation: int = 64,
        test: int = 256,
        seed: int = 0,
        batch_size: int = 8,
        noise: LabelNoise | None = None,
        height: int = 64,
        width: int = 128,
    ) -> None:
        super().__init__()
        self.counts, self.seed, self.batch_size = {"train": train, "val": validation, "test": test}, seed, batch_size
        self.noise = LabelNoise() if noise is None else noise
        self.height, self.width = height, width

    def setup(self, stage: str) -> None:
        if stage == "fit" and not hasattr(self, "train_scenes"):
            noisy = SceneGenerator(self.height, self.width, noise=self.noise)
            self.train_scenes = Scenes(noisy.make(self.counts["train"], seed=self.seed))
        if stage in ("fit", "validate") and not hasattr(self, "val_scenes"):
            self.val_scenes = self._exact("val")
        if stage == "test" and not hasattr(self, "test_scenes"):
            self.test_scenes = self._exact("test")

    def _exact(self, part: str) -> Scenes:
        return Scenes(SceneGenerator(self.height, self.width).make(self.counts[part], seed=_EXACT_SEEDS[part]))

    def train_dataloader(self) -> DataLoader[SceneBatch]:
        return DataLoader(self.train_scenes, self.batch_size, shuffle=True, drop_last=True, collate_fn=_as_it_is)

    def val_dataloader(self) -> DataLoader[SceneBatch]:
        return DataLoader(self.val_scenes, 32, collate_fn=_as_it_is)

    def test_dataloader(self) -> DataLoader[SceneBatch]:
        return DataLoader(self.test_scenes, 32, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
