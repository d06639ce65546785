"""Logger by logger: the folder of its files, and how it takes a picture, files and a layout of charts.

A logger is known by the name of its class, because the classes of ``lightning`` and of ``pytorch_lightning`` differ.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_KEEPS_FILES = {"CometLogger", "SwanLabLogger", "WandbLogger"}  # in the working directory, unless told otherwise


def give_picture(logger: Any, key: str, path: Path, step: int) -> None:
    """Give a picture to a logger that takes one."""
    names = _names(logger)
    if "TensorBoardLogger" in names:
        from matplotlib.image import imread

        logger.experiment.add_image(key, imread(path)[..., :3], step, dataformats="HWC")
        logger.experiment.flush()
    elif "CometLogger" in names:
        logger.experiment.log_image(str(path), name=key, step=step)
    elif "DVCLiveLogger" in names:  # the name is that of a file; another step would be one of the experiment
        logger.experiment.log_image(f"{key}{path.suffix}", path)
    elif "AimLogger" in names:
        from aim import Image

        logger.experiment.track(Image(str(path)), name=key, step=step)
    elif "NeptuneLogger" in names:
        logger.experiment[key].upload(str(path))
    elif hasattr(logger, "log_image"):  # W&B's, SwanLab's, and those of others that are written like these
        logger.log_image(key, [str(path)], step=step)
    else:
        give_files(logger, key.rpartition("/")[0], [path])


def give_files(logger: Any, folder: str, paths: Sequence[Path]) -> str:
    """Give files to a logger that stores any file of a run, and return where they are then; "" if it takes none."""
    if "MLFlowLogger" not in _names(logger):
        return ""
    for path in paths:  # an artifact has no step
        logger.experiment.log_artifact(logger.run_id, str(path), folder or None)
    return f"among the artifacts of the MLflow run {logger.run_id}"


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


def folder_of(loggers: Sequence[Any], default: str | os.PathLike[str]) -> Path | None:
    """Return the folder of the first logger that keeps files on this disk, found as ModelCheckpoint finds it.

    A logger that names no folder has its own in ``default``, unless it takes files itself. One that names no folder but
    the working directory, or none at all, may keep all in memory: it counts if its own folder exists.
    """
    for logger in loggers:
        folder, root = (getattr(logger, name, None) for name in ("log_dir", "save_dir"))
        if "DVCLiveLogger" in _names(logger):
            folder = logger.experiment.dir
        if folder is None and root is None and logger.name and "MLFlowLogger" not in _names(logger):
            root = default
        if isinstance(root, (str, os.PathLike)) and (not isinstance(folder, (str, os.PathLike)) or folder == root):
            # All runs share the root.
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            folder = Path(root) / str(logger.name) / version
            chosen = Path(root).resolve() != Path.cwd() or _KEEPS_FILES & {*_names(logger)}
            folder = folder if chosen or folder.is_dir() else None
        if isinstance(folder, (str, os.PathLike)) and "://" not in str(folder):
            return Path(folder)
    return None


def _names(logger: Any) -> list[str]:
    return [cls.__name__ for cls in type(logger).__mro__]
