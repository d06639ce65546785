"""Seeds for the runs, and the caller's own random state back afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["random_state_kept", "seed_everything"]

_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


def _lightning() -> Any:
    return import_module("lightning.pytorch" if find_spec("lightning") else "pytorch_lightning")


def seed_everything(seed: int) -> None:
    """Seed Python, numpy, torch and the workers of loaders."""
    _lightning().seed_everything(seed, workers=True, verbose=False)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Within, seed as you like; afterwards everything random goes on as if nothing had been."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        with import_module(f"{_lightning().__name__}.utilities.seed").isolate_rng():
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
