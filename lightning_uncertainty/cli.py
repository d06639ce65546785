"""The command line: ``lightning-uncertainty demo``, ``compare``, ``report``.

What a command needs is imported when it runs, so that ``--help`` answers at once, and so that a package that is missing
can be named in one line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lightning_uncertainty._arguments import MissingExtraError, require

if TYPE_CHECKING:
    import typer

    from lightning_uncertainty.comparison.statistics import Direction
    from lightning_uncertainty.reporting.files import ReportContent

__all__ = ["app", "main", "run_app"]

_INTERRUPTED = 130  # what Typer makes of Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of ``lightning-uncertainty`` and return its exit code, as :func:`run_app` does."""
    try:
        return run_app(app(), arguments)
    except MissingExtraError as error:
        return _refuse(str(error))


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a Typer application that says in one line what the user can mend.

    Args:
        app: The application.
        arguments: The words after the name of the program; by default those of the process.

    Returns:
        The exit code: 0, 2 where something that the user can mend is said in one line, 130 after Ctrl-C.
    """
    try:
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


def app() -> typer.Typer:
    """Make the Typer application with all commands.

    Raises:
        MissingExtraError: if Typer is not installed.
    """
    require("report", "typer")
    global typer  # Typer reads the annotations of the commands, in which its name stands, when they are added
    import typer

    commands = typer.Typer(
        help="Learned weights for multi-task losses, from each task's homoscedastic uncertainty.",
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    commands.callback(invoke_without_command=True)(welcome)
    for command in (demo, compare, report):
        commands.command()(command)
    return commands


def welcome(context: typer.Context) -> None:
    """Learned weights for multi-task losses, from each task's homoscedastic uncertainty."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def demo(
    rows: Annotated[int | None, typer.Option(help="Number of diamonds, chosen at random.", show_default="all")] = None,
    epochs: Annotated[int, typer.Option(help="Number of times through the training rows.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the rows, the split, the network and the batches.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for runs, table and page. Finished runs are used again.")] = Path(
        "demo_output"
    ),
) -> None:
    """Train one network three times on diamonds: equal weights, standardised by hand, and learned weights."""
    require("demo", "matplotlib", "pandas", "rich", "tensorboard")
    from rich.console import Console

    from lightning_uncertainty.demo.run import run_demo

    if rows is not None and rows < 500:
        raise typer.BadParameter(
            f"--rows must be at least 500, so that a fifth to hold out says something; got {rows}."
        )
    if epochs < 1:
        raise typer.BadParameter(f"--epochs must be at least 1; got {epochs}.")
    if not 0 <= seed < 2**32:
        raise typer.BadParameter(f"--seed must be from 0 to {2**32 - 1}; got {seed}.")
    for path in (output, *output.parents):
        if path.is_file():
            raise typer.BadParameter(f"--output must be a folder, and {str(path)!r} is a file. Name another.")
    run_demo(output, rows=rows, epochs=epochs, seed=seed, console=Console())
    report(output)


def compare(
    config: Annotated[Path, typer.Option(help="What `python train.py fit --config ...` takes.")],
    metric: Annotated[
        list[str], typer.Option(help="NAME:min or NAME:max, as the evaluation logs it; can be given several times.")
    ],
    seeds: Annotated[str, typer.Option(help="Of the runs: `--seeds 0 1 2` or `--seeds 0,1,2`.")] = "0,1,2",
    more_seeds: Annotated[list[str] | None, typer.Argument(hidden=True, metavar="SEED")] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(help="NAME:task=weight,task=weight for one more arm with these weights; several times."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="NAME:option=value,option=value for one more arm with these options of the callback."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="equal, learned, or the name of another arm.")] = "equal",
    evaluate: Annotated[str, typer.Option(help="validate or test.")] = "validate",
    state: Annotated[str, typer.Option(help="Evaluate the last state, or the best of the ModelCheckpoint.")] = "last",
    folder: Annotated[Path, typer.Option(help="For runs and tables; finished runs in it are used again.")] = Path(
        "comparison"
    ),
    model: Annotated[str | None, typer.Option(help="Import path of the module, if the file does not name it.")] = None,
    data: Annotated[str | None, typer.Option(help="Import path of the data module, likewise.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, over the file: trainer.max_epochs=3; several times.")
    ] = None,
    version: Annotated[str, typer.Option(help="Change it if data have changed without the file.")] = "",
    workers: Annotated[int, typer.Option(help="Trainings side by side, each a process of one thread.")] = 1,
) -> None:
    """Train a LightningCLI configuration with equal and with learned weights, over several seeds, and compare."""
    require("compare", "jsonargparse", "rich", "yaml")
    from rich.console import Console

    from lightning_uncertainty.comparison.arms import ComparisonError, parse_arms
    from lightning_uncertainty.comparison.config_source import ConfigSource
    from lightning_uncertainty.comparison.study import Plan, run_plan
    from lightning_uncertainty.trainer.returned_losses import NoLossesError

    sys.path.insert(0, str(Path.cwd()))  # as `python train.py` would have it, and for its workers
    try:
        plan = Plan(
            metrics=dict(map(_metric, metric)),
            seeds=_seeds(seeds, more_seeds or ()),
            arms=parse_arms(dict(map(_options, arm or ())), dict(map(_weights, fixed or ())), baseline),
            evaluate=evaluate,  # type: ignore[arg-type]  # it checks them
            state=state,  # type: ignore[arg-type]
            folder=folder,
            version=version,
            workers=workers,
        )
        source = ConfigSource(config, model=model, data=data, overrides=[f"--{setting}" for setting in set_ or ()])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        result = run_plan(plan, source)
    except (ComparisonError, NoLossesError) as error:  # what goes wrong inside the user's module keeps its traceback
        raise typer.BadParameter(str(error)) from error
    console = Console()
    result.print(console)
    console.print(f"\n{folder / 'comparison.md'}, {folder / 'comparison.csv'}", highlight=False, soft_wrap=True)


def _metric(text: str) -> tuple[str, Direction]:
    name, _, direction = text.rpartition(":")
    if not name or direction not in ("min", "max"):
        raise ValueError(f"--metric must be a name and a direction, for example val/loss:min; got {text!r}.")
    return name, "min" if direction == "min" else "max"


def _seeds(text: str, more: Sequence[str]) -> list[int]:
    words = " ".join([text, *more])
    try:
        return [int(part) for part in words.replace(",", " ").split()]
    except ValueError:
        raise ValueError(
            f"--seeds must be whole numbers, for example 0,1,2; got {words!r}. Nothing else goes without an option: "
            "the configuration is `--config`, a metric `--metric`."
        ) from None


def _weights(text: str) -> tuple[str, dict[str, float]]:
    name, pairs = _pairs(
        text, "--fixed must be a name and a weight for each task, for example mine:depth=1,normals=0.1"
    )
    try:
        return name, {task: float(weight) for task, weight in pairs.items()}
    except ValueError:
        raise ValueError(f"--fixed must give each task a number as its weight; got {text!r}.") from None


def _options(text: str) -> tuple[str, dict[str, object]]:
    name, pairs = _pairs(text, "--arm must be a name and options of the callback, for example fast:lr=0.1,init=0")
    return name, {option: _value(value) for option, value in pairs.items()}


def _value(text: str) -> object:
    try:
        return json.loads(text)  # numbers, true, false and null; everything else is a word
    except ValueError:
        return text


def _pairs(text: str, expected: str) -> tuple[str, dict[str, str]]:
    name, _, pairs = text.partition(":")
    split = [pair.partition("=") for pair in pairs.split(",")]
    if not name or not all(key and value for key, _, value in split):
        raise ValueError(f"{expected}; got {text!r}.")
    return name, {key: value for key, _, value in split}


def report(
    run: Annotated[
        Path, typer.Argument(help="The folder of a run, as lightning_logs/version_0; of several; or of `compare`.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="The page to write; by default <prefix>.html in the folder.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="The `log_prefix` of the callback.")] = "uncertainty",
) -> None:
    """Write one HTML page about a run, finished or killed, and print its summary."""
    from lightning_uncertainty._arguments import file_stem
    from lightning_uncertainty.reporting.files import NothingToReportError, read_report
    from lightning_uncertainty.reporting.page import write_page

    if not prefix:
        raise typer.BadParameter("--prefix must not be empty.")
    try:
        content = read_report(run, prefix)
    except NothingToReportError as error:
        raise typer.BadParameter(str(error)) from None
    folder = run if run.is_dir() else run.parent
    target = folder / f"{file_stem(content.prefix)}.html" if output is None else output
    _check_free(target)
    write_page(target, content)
    _say(content, target)


def _check_free(target: Path) -> None:
    """Refuse to overwrite anything but an older page."""
    from lightning_uncertainty.reporting.page import is_page

    if target.is_dir():
        raise typer.BadParameter(f"{target} is a folder. Give --output the name of a file, for example page.html.")
    if not target.parent.is_dir():
        raise typer.BadParameter(f"There is no folder {target.parent} to write {target.name} to.")
    if target.exists() and not is_page(target):
        raise typer.BadParameter(f"{target} is there already, and no page of this command. Give another --output.")


def _say(content: ReportContent, target: Path) -> None:
    from lightning_uncertainty.reporting.summary import print_summary

    if content.comparison is not None:
        typer.echo("\n".join(["", *content.comparison.sentences, *content.comparison.notes]))
    if content.history is not None:
        print_summary(content.history)
    typer.echo("\n".join(["", *content.notes, f"Open {target}"]))
