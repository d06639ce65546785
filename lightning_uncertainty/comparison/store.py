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

from lightning_uncertainty.comparison.fingerprint import digest, digest_file, own_files
from lightning_uncertainty.reporting.files import write_whole

__all__ = ["FinishedRun", "RunFolder", "from_json", "to_json"]


@dataclass(frozen=True)
class FinishedRun:
    """The result of one training.

    Attributes:
        arm: Name of the way in which the losses were weighed.
        seed: Seed of everything random.
        metrics: Scalar metrics of the evaluation.
        seconds: Time that training and evaluation took.
        start: Fingerprints of the initial weights and of the first batches.
        weights: Effective weights of the losses at the end, by task, as they are logged.
        factors: Factors before the raw losses at the end, by task: a training with these as given weights starts
            where this one ended.
        folder: Folder of the run, with its logs and the history of its weights.
        reused: True if the run was read from its folder, not trained now.
    """

    arm: str
    seed: int
    metrics: Mapping[str, float]
    seconds: float
    start: Mapping[str, str]
    weights: Mapping[str, float]
    factors: Mapping[str, float] = field(default_factory=dict)
    folder: Path = field(default=Path(), compare=False)
    reused: bool = field(default=False, compare=False)


def to_json(run: FinishedRun) -> dict[str, Any]:
    """Return a run as plain data, without its folder. JSON has no NaN, which is None."""
    content = {key: value for key, value in asdict(run).items() if key not in ("folder", "reused")}
    return {**content, "metrics": {name: None if math.isnan(value) else value for name, value in run.metrics.items()}}


def from_json(content: Mapping[str, Any], folder: Path) -> FinishedRun:
    """Return the run whose plain data ``content`` is."""
    metrics = {name: math.nan if value is None else value for name, value in content["metrics"].items()}
    return FinishedRun(**{**content, "metrics": metrics}, folder=folder, reused=True)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run in that of the comparison: its logs, and ``run.json`` once it has finished.

    Its name depends on the ``definition``, the settings that define the run, as plain data.
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
        """Return the finished run; None if there is none, its code has changed, or its file is not whole."""
        try:
            content = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            definition, files, parent = content.pop("definition"), content.pop("files"), self.parent.resolve()
            unchanged = all(digest_file(parent / path) == known for path, known in files.items())
            return from_json(content, self.path) if unchanged and definition == self.definition else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def begin(self) -> Path:
        """Return the folder, empty: what an interrupted run left in it is gone."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        return self.path

    def write(self, run: FinishedRun) -> None:
        """Store a run with its definition and the user's files that were imported for it."""
        script = '"__main__.' in json.dumps(self.definition)
        # By their paths from the comparison's folder, so that both can move together.
        files = {_relative(path, self.parent): content for path, content in own_files(script=script).items()}
        content = {**to_json(run), "definition": self.definition, "files": files}
        write_whole(self.path / "run.json", json.dumps(content, indent=2))


def _relative(path: str, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder.resolve())
    except ValueError:  # on another drive of Windows
        return path
