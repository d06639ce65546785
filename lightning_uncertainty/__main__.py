"""The command line: ``lightning-uncertainty demo``, ``compare``, ``report``, ``--version``; or ``python -m``.

Each command imports what it needs when it runs: ``--help`` answers at once, and a missing package is named in one line.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import lightning_uncertainty
from lightning_uncertainty._arguments import MissingExtraError, require

if TYPE_CHECKING:
    import typer

_Words = list[str] | None  # an option that may be given several times

_WEIGHTS = "--fixed must be a name and a number for each task, for example mine:depth=1,normals=0.1"
_OPTIONS = "--arm must be a name and options of the callback, for example fast:lr=0.1,init=0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of ``lightning-uncertainty``; arguments and exit code are those of :func:`run_app`."""
    return run_app(demo, compare, report, arguments=arguments)


def run_app(*commands: Callable[..., None], arguments: Sequence[str] | None = None) -> int:
    """Run one of ``commands`` and return 0, 2 after a line on what the user can mend, or 130 after Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # no name of a task, and no folder, stops it in an ASCII terminal
        sys.stdout.reconfigure(errors="replace")
    try:
        words = sys.argv[1:] if arguments is None else list(arguments)
        code = _app(commands, words)(words, standalone_mode=False)
    except Exception as error:
        # Typer's own errors, whose classes moved from click into typer, can all format themselves, without the box.
        say = str if isinstance(error, (MissingExtraError, OSError)) else getattr(type(error), "format_message", None)
        if say is None:
            raise
        print(f"Error: {' '.join(say(error).split())}", file=sys.stderr)
        return 2
    if code == 130:  # what Typer makes of Ctrl-C
        print("Interrupted.", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _app(commands: Sequence[Callable[..., None]], words: Sequence[str]) -> typer.Typer:
    require(next((word for word in words[:1] if word in ("demo", "compare")), "report"), "typer")
    global typer  # Typer reads the annotations of the commands, in which its name stands, when they are added
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if len(commands) > 1:
        app.callback(invoke_without_command=True)(welcome)
    for command in commands:
        app.command()(command)
    return app


def welcome(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Learned weights for multi-task losses, from each task's homoscedastic uncertainty."""
    if version:
        typer.echo(f"lightning-uncertainty {lightning_uncertainty.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def demo(
    rows: Annotated[int | None, typer.Option(min=500, help="Number of random diamonds.", show_default="all")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of times through the training rows.")] = 20,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of rows, split, network and batches.")] = 0,
    output: Annotated[Path, typer.Option(help="The folder. Finished runs in it are used again.")] = Path("demo_output"),
) -> None:
    """Train one network three times on diamonds: equal weights, standardised by hand, and learned weights."""
    require("demo", "matplotlib", "pandas", "plotnine", "rich", "scipy", "tensorboard")
    from lightning_uncertainty.demo import diamonds
    from lightning_uncertainty.demo.run import compare_weights

    for path in (output, *output.parents):
        if path.is_file():
            raise typer.BadParameter(f"--output must be a folder, and {str(path)!r} is a file. Name another.")
    data = partial(diamonds.make_data, rows, seed)
    compare_weights("diamonds", diamonds.make_net, data, output, epochs=epochs, seeds=[seed])
    report(output)


def compare(
    config: Annotated[Path, typer.Option(help="What `python train.py fit --config ...` takes.")],
    metric: Annotated[list[str], typer.Option(help="NAME:min or NAME:max, as the evaluation logs it; several times.")],
    seeds: Annotated[str, typer.Option(help="Of the runs: `--seeds 0 1 2` or `--seeds 0,1,2`.")] = "0,1,2",
    more_seeds: Annotated[_Words, typer.Argument(hidden=True, metavar="SEED")] = None,
    fixed: Annotated[_Words, typer.Option(help="NAME:task=weight,task=weight: an arm with these weights.")] = None,
    arm: Annotated[_Words, typer.Option(help="NAME:option=value,option=value: an arm with these options.")] = None,
    baseline: Annotated[str, typer.Option(help="equal, learned, or the name of another arm.")] = "equal",
    evaluate: Annotated[str, typer.Option(help="validate or test.")] = "validate",
    state: Annotated[str, typer.Option(help="Evaluate the last state, or the best of the ModelCheckpoint.")] = "last",
    folder: Annotated[Path, typer.Option(help="Of the runs; finished ones are used again.")] = Path("comparison"),
    model: Annotated[str | None, typer.Option(help="Import path of the module, if the file does not name it.")] = None,
    data: Annotated[str | None, typer.Option(help="Import path of the data module, likewise.")] = None,
    set_: Annotated[_Words, typer.Option("--set", help="KEY=VALUE, over the file: trainer.max_epochs=3.")] = None,
    version: Annotated[str, typer.Option(help="Change it if data have changed without the file.")] = "",
    workers: Annotated[int, typer.Option(help="Trainings side by side, each a process of one thread.")] = 1,
) -> None:
    """Train a LightningCLI configuration with equal and with learned weights, over several seeds, and compare."""
    from lightning_uncertainty.comparison.arms import ComparisonError, parse_arms
    from lightning_uncertainty.comparison.config_source import ConfigSource
    from lightning_uncertainty.comparison.study import Plan, run_plan
    from lightning_uncertainty.trainer.watched_calls import NoLossesError

    sys.path.insert(0, str(Path.cwd()))  # as `python train.py` would have it, and for its workers
    try:
        plan = Plan(
            metrics=dict(map(_metric, metric)),
            seeds=_seeds(seeds, more_seeds or ()),
            arms=parse_arms(_arms(arm, _option, _OPTIONS), _arms(fixed, float, _WEIGHTS), baseline),
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
    typer.echo(f"{result}\n\nFor a page: lightning-uncertainty report {folder}")


def _metric(text: str) -> tuple[str, Any]:
    name, _, direction = text.rpartition(":")
    if not name or direction not in ("min", "max"):
        raise ValueError(f"--metric must be a name and a direction, for example val/loss:min; got {text!r}.")
    return name, direction


def _seeds(text: str, more: Sequence[str]) -> list[int]:
    words = " ".join([text, *more])
    try:
        return [int(part) for part in words.replace(",", " ").split()]
    except ValueError:
        raise ValueError(
            f"--seeds must be whole numbers, for example 0,1,2; got {words!r}. Nothing else goes without an option: "
            "the configuration is `--config`, a metric `--metric`."
        ) from None


def _arms(texts: Sequence[str] | None, read: Callable[[str], Any], expected: str) -> dict[str, dict[str, Any]]:
    """Return what each ``NAME:key=value,key=value`` says, by name and key."""
    found = {}
    for text in texts or ():
        name, _, pairs = text.partition(":")
        try:
            words = dict(pair.split("=", 1) for pair in pairs.split(","))
            if not all((name, *words, *words.values())):
                raise ValueError("a word is empty")
            found[name] = {key: read(value) for key, value in words.items()}
        except ValueError:
            raise ValueError(f"{expected}; got {text!r}.") from None
    return found


def _option(text: str) -> object:
    try:
        return json.loads(text)  # numbers, true, false and null; everything else is a word
    except ValueError:
        return text


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run (lightning_logs/version_0), of many, or of `compare`.")],
    output: Annotated[Path | None, typer.Option(help="The page; by default <prefix>.html in the folder.")] = None,
    prefix: Annotated[str, typer.Option(help="The `log_prefix` of the callback.")] = "uncertainty",
) -> None:
    """Write one HTML page about a run, finished or killed, and print its summary."""
    from lightning_uncertainty._arguments import file_stem
    from lightning_uncertainty.reporting.files import NothingToReportError, read_report, write_whole
    from lightning_uncertainty.reporting.page import GENERATOR, build_page
    from lightning_uncertainty.reporting.summary import print_summary

    if not prefix:
        raise typer.BadParameter("--prefix must not be empty.")
    try:
        content = read_report(run, prefix)
    except NothingToReportError as error:
        raise typer.BadParameter(str(error)) from None
    page = output or (run if run.is_dir() else run.parent) / f"{file_stem(content.prefix)}.html"
    if page.is_dir():
        raise typer.BadParameter(f"{page} is a folder. Give --output the name of a file, for example page.html.")
    if not page.parent.is_dir():
        raise typer.BadParameter(f"There is no folder {page.parent} to write {page.name} to.")
    if page.exists() and GENERATOR not in page.read_text(encoding="utf-8", errors="replace"):
        raise typer.BadParameter(f"{page} is there already, and no page of this command. Give another --output.")
    write_whole(page, build_page(content))
    if content.comparison is not None:
        typer.echo("\n".join(["", *content.comparison.sentences, *content.comparison.notes]))
    if content.history is not None:
        print_summary(content.history)
    typer.echo("\n".join(["", *content.notes, f"Open {page}"]))


if __name__ == "__main__":
    sys.exit(main())
