"""Logger by logger: the folder of its files, and how it takes a picture and a layout of charts.

A logger is known by the name of its class, because the classes of ``lightning`` and of ``pytorch_lightning`` differ.
"""

from __future__ import annotations

import os
import re
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


def give_layout(logger: Any, prefixes: Sequence[str]) -> None:
    """Give TensorBoard charts with the curves of all tasks: its tab "Custom Scalars"."""
    # It reads the first layout of a run: one that the user has written before the first row stays.
    if "TensorBoardLogger" in _names(logger):
        charts = {"weights": "weight", "sigmas": "sigma", "raw losses": "loss", "shares": "share"}
        logger.experiment.add_custom_scalars(
            {
                prefix: {title: ["Multiline", [f"^{re.escape(prefix)}/{key}/.*"]] for title, key in charts.items()}
                for prefix in prefixes
            }
        )


def folder_of(loggers: Sequence[Any]) -> Path | None:
    """Return the folder of the first logger that keeps files on this disk, found as ModelCheckpoint finds it.

    A logger that names no folder but the working directory may keep all in memory: it counts if its own folder exists.
    """
    for logger in loggers:
        folder, root = (getattr(logger, name, None) for name in ("log_dir", "save_dir"))
        if not isinstance(folder, (str, os.PathLike)) and isinstance(root, (str, os.PathLike)):
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            folder = Path(root) / str(logger.name) / version
            chosen = Path(root).resolve() != Path.cwd() or {"WandbLogger", "CometLogger"} & {*_names(logger)}
            folder = folder if chosen or folder.is_dir() else None
        if isinstance(folder, (str, os.PathLike)) and "://" not in str(folder):
            return Path(folder)
    return None


def _names(logger: Any) -> list[str]:
    return [cls.__name__ for cls in type(logger).__mro__]
