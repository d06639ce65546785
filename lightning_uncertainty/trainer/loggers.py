"""Logger by logger: the folder of its files, and how it takes a picture.

A logger is known by the name of its class, because the classes of ``lightning`` and of ``pytorch_lightning`` differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def give_picture(logger: Any, key: str, path: Path, step: int) -> None:
    """Give a picture to a logger that takes one."""
    names = _names(logger)
    if "TensorBoardLogger" in names:
        from matplotlib.image import imread

        logger.experiment.add_image(key, imread(path)[..., :3], step, dataformats="HWC")
        logger.experiment.flush()
    elif "WandbLogger" in names:
        logger.log_image(key, [str(path)], step=step)
    elif "MLFlowLogger" in names:  # an artifact has no step
        logger.experiment.log_artifact(logger.run_id, str(path), key.rpartition("/")[0] or None)


def folder_of(loggers: Sequence[Any]) -> Path | None:
    """Return the folder of the first logger that keeps files on this disk, found as ModelCheckpoint finds it."""
    for logger in loggers:
        folder = getattr(logger, "log_dir", None)
        if folder is None and getattr(logger, "save_dir", None) is not None:
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            folder = Path(logger.save_dir) / str(logger.name) / version
        if folder is not None and "://" not in str(folder):
            return Path(folder)
    return None


def _names(logger: Any) -> list[str]:
    return [cls.__name__ for cls in type(logger).__mro__]
