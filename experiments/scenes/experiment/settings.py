"""How large the experiment is: one set of numbers for every row of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from experiments.scenes.data.label_noise import LabelNoise

__all__ = ["FULL", "QUICK", "Settings"]


@dataclass(frozen=True)
class Settings:
    """Network, budget, schedule and data, the same in every run.

    Attributes:
        seeds: how many, from 0.
        steps: of the optimizer in each run of the table.
        start_steps: of each run that shows where weights go from other initial values.
        train: number of training scenes.
        test: number of test scenes.
        batch_size: in scenes.
        width: channels of the encoder.
        lr: highest learning rate of AdamW.
        grid_factor: between neighbouring weights of the grid.
        noise: of the training labels.
        height: of the images, in pixels.
        image_width: of the images, in pixels.
    """

    seeds: int = 3
    steps: int = 600
    start_steps: int = 1200
    train: int = 256
    test: int = 256
    batch_size: int = 4
    width: int = 32
    lr: float = 4e-3
    grid_factor: float = 4.0
    noise: LabelNoise = field(default_factory=LabelNoise)
    height: int = 64
    image_width: int = 128

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """Back from :meth:`to_json`."""
        return cls(**{**values, "noise": LabelNoise(**values["noise"])})


FULL = Settings()
"""What the committed results were made with."""

QUICK = Settings(seeds=1, steps=150, start_steps=300, train=128, test=128)
"""A few minutes on two cores: whether all works, not who is best."""
