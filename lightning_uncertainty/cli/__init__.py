"""The command line: ``lightning-uncertainty demo``, ``scenes``, ``compare``, ``report``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_uncertainty.reporting.extras import MissingExtraError, require

if TYPE_CHECKING:
    from lightning_uncertainty.cli.commands import app

__all__ = ["app", "main"]


_INTERRUPTED = 130  # what Typer makes of Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those after the name of the program; by default those of the process.

    Returns:
        The exit code: 0, 2 where something that the user can mend is said in one line, 130 after Ctrl-C.
    """
    try:
        require("report", "typer")
        from lightning_uncertainty.cli.commands import app

        code = app(sys.argv[1:] if arguments is None else list(arguments), standalone_mode=False)
    except (MissingExtraError, OSError) as error:
        return _refuse(str(error))
    except Exception as error:
        # Typer's own errors, whose classes moved from click into typer: all can format themselves, without the box.
        if not hasattr(error, "format_message"):
            raise
        return _refuse(error.format_message())
    if code == _INTERRUPTED:
        print("Interrupted.", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _refuse(message: str) -> int:
    print(f"Error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def __getattr__(name: str) -> Any:
    # The commands need typer; saying that it is missing must not.
    if name == "app":
        from lightning_uncertainty.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
