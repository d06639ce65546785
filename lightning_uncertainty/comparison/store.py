"""Finished runs on disk: what was done is not done again, and what was changed is."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_uncertainty.comparison.fingerprint import digest

__all__ = ["FinishedRun", "RunFolder"]


@dataclass(frozen=True)
class FinishedRun:
    """What came out of one training.

    Attributes:
        arm: how the losses were weighed.
        seed: of everything random.
        metrics: all scalar metrics of the evaluation.
        seconds: that training and evaluation took.
        start: fingerprints of the initial weights and of the first batches.
        weights: the effective weights of the losses at the end, by task.
        reused: whether it was read, not run.
    """

    arm: str
    seed: int
    metrics: Mapping[str, float]
    seconds: float
    start: Mapping[str, str]
    weights: Mapping[str, float]
    reused: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: its logs, and ``run.json`` once it has finished.

    Attributes:
        parent: that of the comparison.
        arm: how the losses are weighed.
        seed: of everything random.
        definition: all that defines the run; a change gives it another folder.
    """

    parent: Path
    arm: str
    seed: int
    definition: Any

    @property
    def path(self) -> Path:
        """``<arm>-seed<seed>-<digest of the definition>``."""
        return self.parent / f"{self.arm}-seed{self.seed}-{digest(self.definition)}"

    def read(self) -> FinishedRun | None:
        """The finished run; None if there is none, or a file that is not whole."""
        try:
            content = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            if content.pop("definition") != self.definition:
                return None
            metrics = {name: math.nan if value is None else value for name, value in content.pop("metrics").items()}
            return FinishedRun(**content, metrics=metrics, reused=True)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def begin(self) -> Path:
        """The empty folder; what an interrupted run left in it is gone."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        return self.path

    def write(self, run: FinishedRun) -> None:
        """Write it in one piece: whoever is killed meanwhile leaves no half of it."""
        content = {key: value for key, value in asdict(run).items() if key != "reused"}
        # JSON has no NaN; infinity is kept as the word that Python reads back.
        content["metrics"] = {name: None if math.isnan(value) else value for name, value in run.metrics.items()}
        temporary = self.path / "run.json.part"
        temporary.write_text(json.dumps({**content, "definition": self.definition}, indent=2), encoding="utf-8")
        os.replace(temporary, self.path / "run.json")
