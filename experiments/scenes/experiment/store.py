"""The folder of an experiment: a file per finished cell, so that nothing is run twice."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.scenes.experiment.cells import Cell
from experiments.scenes.experiment.settings import Settings
from experiments.scenes.experiment.train import Outcome

__all__ = ["Store"]


@dataclass(frozen=True)
class Store:
    """Finished cells in a folder.

    Attributes:
        path: the folder.
        settings: of all of its cells.
    """

    path: Path
    settings: Settings

    @classmethod
    def open(cls, path: Path, settings: Settings) -> Store:
        """The folder, made if there is none.

        Raises:
            ValueError: if its cells were run with other settings.
            OSError: if it cannot be made.
        """
        (path / "cells").mkdir(parents=True, exist_ok=True)
        file = path / "settings.json"
        if file.exists() and _read(file) != settings.to_json():
            raise ValueError(
                f"{str(file)!r} has other settings than this run, whose cells cannot stand in one table. "
                "Name another folder with --output, or remove that one."
            )
        _write(file, settings.to_json())
        return cls(path, settings)

    def file(self, cell: Cell) -> Path:
        """Where the outcome of a cell is, once it is finished."""
        return self.path / "cells" / f"{cell.name}.json"

    def read(self, cell: Cell) -> Outcome | None:
        """The outcome of that very cell, None if it was not run, run with other weights, or its file is damaged."""
        if not (file := self.file(cell)).exists():
            return None
        found = _read(file)
        if found is None or found["cell"] != json.loads(json.dumps(cell.to_json())):
            return None
        return Outcome(**found["outcome"])

    def write(self, cell: Cell, outcome: Outcome) -> None:
        """Keep an outcome; a file is whole or not there."""
        _write(self.file(cell), {"cell": cell.to_json(), "outcome": asdict(outcome)})


def _read(file: Path) -> Any:
    """What a file holds, None if that is no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _write(file: Path, values: object) -> None:
    unfinished = file.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(values, indent=None) + "\n", encoding="utf-8")
    unfinished.replace(file)
