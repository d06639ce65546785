"""A control: the same trainings with an Adam that forgets sooner, ``python -m experiments.evidence.why``.

Adam divides by the size of past gradients, which it remembers for about ``1 / (1 - beta2)`` steps: a thousand, longer
than a training here. While the losses fall, the gradient of a sum falls with them, so that the steps get short. That of
a sum of logarithms does not. With ``beta2 = 0.9`` the memory is ten steps.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.evidence.problems import CONTROLS, PROBLEMS, TableProblem
from experiments.evidence.study import FULL, run_problem
from experiments.evidence.table import TableNet
from experiments.evidence.trainings import EQUAL, read_trainings, write_trainings
from lightning_uncertainty.__main__ import run_app

__all__ = ["BETAS", "NAMES", "Forgetting"]

BETAS = (0.9, 0.9)
NAMES = {"fluids_forgetting": "fluids", "signals_forgetting": "signals"}
ARMS = (EQUAL, "uncertainty", "no_guard", "article", "initial", "log_sum", "geometric_mean")


class Forgetting(TableNet):
    """A mixin, before a network, whose Adam forgets sooner."""

    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        for group in configured["optimizer"].param_groups:
            group["betas"] = BETAS
        return configured


@dataclass(frozen=True)
class ForgettingProblem(TableProblem):
    """A problem whose networks are trained by such an Adam."""

    def make_net(self, lr: float) -> TableNet:
        net = super().make_net(lr)
        net.__class__ = type(f"Forgetting{type(net).__name__}", (Forgetting, type(net)), {"__module__": __name__})
        return net


CONTROLS.update({name: ForgettingProblem(**vars(PROBLEMS[of])) for name, of in NAMES.items()})


def why(
    output: Annotated[
        Path, typer.Option(help="The folder. Trainings that are finished there are not run again.")
    ] = Path("evidence_output"),
) -> None:
    """Train the strategies on two sets with an Adam that forgets sooner, and write why.csv."""
    folder = output / "why"
    folder.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    running = [spawn.Process(target=train, args=(name, folder)) for name in NAMES]
    for process in running:
        process.start()
    for process in running:
        process.join()
    write_trainings(output / "why.csv", [run for name in NAMES for run in read_trainings(folder / f"{name}.csv")])


def train(name: str, folder: Path) -> None:
    """Run the study of one problem in this process, which knows its name by this file."""
    run_problem(name, folder, replace(FULL, arms=ARMS))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with ``arguments`` in place of those of the process, and return its exit code."""
    return run_app(why, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
