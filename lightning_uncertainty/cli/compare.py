"""The command ``lightning-uncertainty compare``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_uncertainty.reporting.extras import require

if TYPE_CHECKING:
    from lightning_uncertainty.comparison.relative_gain import Direction

__all__ = ["compare"]


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
    baseline: Annotated[str, typer.Option(help="equal, learned, or the name of fixed weights.")] = "equal",
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
) -> None:
    """Train a LightningCLI configuration with equal and with learned weights, over several seeds, and compare."""
    require("compare", "jsonargparse", "rich", "yaml")
    from rich.console import Console

    from lightning_uncertainty.comparison.arms import name_arms
    from lightning_uncertainty.comparison.errors import ComparisonError
    from lightning_uncertainty.comparison.lightning_cli import ConfigSource
    from lightning_uncertainty.comparison.plan import Plan
    from lightning_uncertainty.comparison.study import run_plan
    from lightning_uncertainty.weighed_step import NoLossesError

    sys.path.insert(0, "")  # as `python train.py` would have it
    try:
        plan = Plan(
            metrics=dict(map(_metric, metric)),
            seeds=_seeds(seeds, more_seeds or ()),
            arms=name_arms(dict(map(_weights, fixed or ())), baseline),
            evaluate=evaluate,  # type: ignore[arg-type]  # it checks them
            state=state,  # type: ignore[arg-type]
            folder=folder,
            version=version,
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
    name, _, pairs = text.partition(":")
    try:
        weights = {task: float(weight) for task, weight in (pair.split("=") for pair in pairs.split(","))}
    except ValueError:
        raise ValueError(
            f"--fixed must be a name and a weight for each task, for example mine:depth=1,normals=0.1; got {text!r}."
        ) from None
    return name, weights
