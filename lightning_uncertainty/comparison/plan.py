"""What is to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning_uncertainty._arguments import check_choice
from lightning_uncertainty.comparison.arms import Arm
from lightning_uncertainty.comparison.parts import Evaluation
from lightning_uncertainty.comparison.statistics import Direction, check_directions

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """The arguments of :func:`~lightning_uncertainty.compare`; ``arms`` with the baseline first.

    Raises:
        ValueError: if one of them is not valid.
    """

    metrics: Mapping[str, Direction]
    seeds: Sequence[int]
    arms: Sequence[Arm]
    evaluate: Evaluation
    state: Literal["last", "best"]
    folder: Path
    version: str

    def __post_init__(self) -> None:
        check_directions(self.metrics)
        check_choice("evaluate", self.evaluate, ("validate", "test"))
        check_choice("state", self.state, ("last", "best"))
        seeds = list(self.seeds)
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in seeds)
        if not seeds or not whole or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be different whole numbers from 0 to {2**32 - 1}; got {seeds!r}.")
