"""Noise on the labels of each task, of a size that is known: what homoscedastic uncertainty is about."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.scenes.data.batch import SceneBatch
from experiments.scenes.data.street import KINDS

__all__ = ["EXACT", "LabelNoise"]


@dataclass(frozen=True)
class LabelNoise:
    """The noise of labels; the defaults differ between the tasks. Use it on training labels only.

    Semantics are wrong by object, as annotators are: all its pixels get the class of another object. The noise of the
    two regressions is Gaussian, independent from pixel to pixel and of one size everywhere: homoscedastic.

    Args:
        semantic: Share of the objects that have the label of another class, drawn evenly.
        instance: Standard deviation of each component of an offset, in pixels.
        depth: Standard deviation of inverse depth, in pixels of disparity.

    Raises:
        ValueError: if a share is not within 0 to 1, or a standard deviation is negative.
    """

    semantic: float = 0.1
    instance: float = 4.0
    depth: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 <= self.semantic <= 1.0:
            raise ValueError(f"`semantic` is a share of the objects, from 0 to 1; got {self.semantic}.")
        for name in ("instance", "depth"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"`{name}` is a standard deviation and cannot be negative; got {getattr(self, name)}.")

    def add_to(self, scenes: SceneBatch, *, generator: torch.Generator) -> SceneBatch:
        """Return the same scenes with noisy labels; what is masked stays 0. The scenes given stay as they are."""
        noisy = SceneBatch(**scenes)
        if self.semantic:
            noisy["classes"] = self._relabelled(scenes, generator)
        for task, key, mask in (
            ("instance", "offsets", scenes["instance_mask"]),
            ("depth", "inverse_depth", scenes["depth_mask"]),
        ):
            clean: Tensor = scenes[key]  # type: ignore[literal-required]
            if deviation := getattr(self, task):
                noise = deviation * torch.randn(clean.shape, generator=generator)
                noisy[key] = clean + torch.where(mask[:, None], noise, 0.0)  # type: ignore[literal-required]
        return noisy

    def _relabelled(self, scenes: SceneBatch, generator: torch.Generator) -> Tensor:
        """Return classes in which some objects have that of another: 1 to 5 places on, around the circle of kinds."""
        instances = scenes["instances"]
        slots = (len(instances), int(instances.max()) + 1)
        wrong = torch.rand(slots, generator=generator) < self.semantic
        shift = torch.randint(1, len(KINDS), slots, generator=generator) * wrong
        moved = (scenes["classes"] - 2 + shift.gather(1, instances.flatten(1)).view_as(instances)) % len(KINDS) + 2
        return torch.where(instances > 0, moved, scenes["classes"])


EXACT = LabelNoise(semantic=0.0, instance=0.0, depth=0.0)
"""No noise at all."""
