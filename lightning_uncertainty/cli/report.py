"""The command ``lightning-uncertainty report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lightning_uncertainty.reporting.run_folder import RunContent

__all__ = ["report"]


def report(
    run_folder: Annotated[
        Path, typer.Argument(help="Of a run, as lightning_logs/version_0; of several; or of `compare`.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="The page to write; by default <prefix>.html in the folder.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="The `log_prefix` of the callback.")] = "uncertainty",
) -> None:
    """One HTML page of what a run has left in its folder, finished or killed, and its summary in the terminal."""
    from lightning_uncertainty.names import file_stem
    from lightning_uncertainty.reporting.page import write_page
    from lightning_uncertainty.reporting.run_folder import NothingToReportError, read_run_folder

    if not prefix:
        raise typer.BadParameter("--prefix must not be empty.")
    target = run_folder / f"{file_stem(prefix)}.html" if output is None else output
    try:
        content = read_run_folder(run_folder, prefix)
        _check_free(target)
    except NothingToReportError as error:
        raise typer.BadParameter(str(error)) from None
    write_page(
        target,
        content.history,
        title=content.title,
        notes=content.notes,
        gradients=content.gradients,
        comparison=content.comparison,
    )
    _say(content, target)


def _check_free(target: Path) -> None:
    """Nothing but an older page is overwritten.

    Raises:
        BadParameter: if the page cannot stand there.
    """
    from lightning_uncertainty.reporting.page import is_page

    if target.is_dir():
        raise typer.BadParameter(f"{target} is a folder. Give --output the name of a file, for example page.html.")
    if not target.parent.is_dir():
        raise typer.BadParameter(f"There is no folder {target.parent} to write {target.name} to.")
    if target.exists() and not is_page(target):
        raise typer.BadParameter(f"{target} is there already, and no page of this command. Give another --output.")


def _say(content: RunContent, target: Path) -> None:
    from lightning_uncertainty.reporting.summary import print_summary

    if content.comparison is not None:
        _echo("", *content.comparison.sentences, *content.comparison.notes)
    closing = f"Open {target}"
    if content.history is None:
        _echo(*content.notes, closing)
        return
    print_summary(content.history, closing="")
    _echo("", *content.notes, closing)


def _echo(*lines: str) -> None:
    for line in lines:
        typer.echo(line)
