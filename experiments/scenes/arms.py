"""The rows of the table: the ways to weigh the losses, and the trainings of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

from experiments.scenes.data.batch import TASKS
from experiments.scenes.model.metrics import METRICS
from experiments.scenes.model.scene_model import LIKELIHOODS
from experiments.scenes.results import GridPoint, Results, grid_row, missing_neighbours
from experiments.scenes.settings import Settings, make_data, make_model, trainer_options
from lightning_uncertainty.comparison import compare

__all__ = ["LR_FACTORS", "STARTS", "Laboratory", "first_arms", "grid_weights", "run_experiment"]

STARTS = (-2.0, 0.0, 2.0, 5.0)
"""Initial ``s`` of the article's Appendix B."""

LR_FACTORS = (0.5, 2.0)
"""Learning rates, as parts of that of the table, with which its most important rows are trained again."""


@dataclass(frozen=True)
class Laboratory:
    """The place where comparisons of one experiment are run.

    Attributes:
        settings: Settings of all runs.
        folder: Folder of the runs; finished ones are used again.
        workers: Number of processes, each with one thread.
    """

    settings: Settings
    folder: Path
    workers: int = 1

    def run(
        self,
        results: Results,
        name: str,
        arms: Mapping[str, Any],
        *,
        suffix: str = "",
        seeds: Sequence[int] = (),
        steps: int | None = None,
        **model: Any,
    ) -> None:
        """Train all arms that are not done yet, and add them to the results.

        Args:
            results: Results that the runs are added to.
            name: Name of the comparison's folder.
            arms: Arms of :func:`~lightning_uncertainty.compare`.
            suffix: End of the rows' names.
            seeds: Seeds of the runs; by default those of the settings.
            steps: Optimizer steps; by default those of the settings.
            model: Options of :func:`~experiments.scenes.settings.make_model`.
        """
        result = compare(
            partial(make_model, self.settings, **model),
            partial(make_data, self.settings),
            metrics={f"test/{task}": "max" if METRICS[task].higher_is_better else "min" for task in TASKS},
            seeds=list(seeds or range(self.settings.seeds)),
            trainer=partial(trainer_options, steps or self.settings.steps),
            arms={"learned": None, "equal": None, **arms},
            baseline=next(iter(arms)),
            evaluate="test",
            folder=self.folder / name,
            workers=self.workers,
        )
        results.add(result.runs, suffix)


def first_arms() -> dict[str, Any]:
    """Return all arms that need no result of another: learned, single tasks, never learned, pairs, equal weights."""
    singles = {f"single-{task}": {each: float(each == task) for each in TASKS} for task in TASKS}
    pairs = {
        "learned-" + "-".join(pair): {"tasks": {task: LIKELIHOODS[task] if task in pair else 0.0 for task in TASKS}}
        for pair in combinations(TASKS, 2)
    }
    learned = {"tasks": dict(LIKELIHOODS)}
    return {
        "equal": dict.fromkeys(TASKS, 1.0),
        "learned": learned,
        **singles,
        "never-learned": {"freeze_after": 0},
        **pairs,
    }


def grid_weights(point: GridPoint, factor: float) -> dict[str, float]:
    """Return the weights of one point of the grid; (0, 0) is equal weights."""
    return {"semantic": 1.0, "instance": factor ** point[0], "depth": factor ** point[1]}


def run_experiment(laboratory: Laboratory) -> Results:
    """Run whatever is not done yet, widen the grid until its best point is inside, and return all results."""
    settings = laboratory.settings
    results, factor = Results(settings), settings.grid_factor
    arms = first_arms()
    laboratory.run(results, "table", arms)
    arms["retrained"] = lambda seed: dict(results.runs["learned", seed].factors)
    fresh: Sequence[GridPoint] = list(product((-1, 0, 1), (-1, 0, 1)))  # around equal weights
    while fresh:
        arms |= {grid_row(point): grid_weights(point, factor) for point in fresh}
        laboratory.run(results, "table", arms)
        fresh = missing_neighbours(results.grid)
    run_controls(laboratory, results, {row: arms[row] for row in ("equal", results.best_row)})
    starts = {"start_data": {"init": "auto"}, **{f"start_{start:g}": {"init": start} for start in STARTS}}
    laboratory.run(results, "starts", starts, seeds=[0], steps=settings.start_steps)
    return results


def run_controls(laboratory: Laboratory, results: Results, by_hand: Mapping[str, Any]) -> None:
    """Run the controls: how much of the gain is in the ratios of the weights, in their sum, and in the learning rate.

    Learned weights change their ratios, and also their sum, which grows while the losses fall. Adam divides by the size
    of the gradient and so takes no notice of a constant factor; but it remembers that size for about a thousand steps,
    so that a sum that grows makes larger steps, like a learning-rate schedule of its own.

    Args:
        laboratory: The place where they are run.
        results: Results with the learned row, to which they are added.
        by_hand: Arms of equal weights and of the best ones by hand.
    """
    learned = {"learned": {"tasks": dict(LIKELIHOODS)}}
    laboratory.run(results, "constant-sum", learned, suffix="-of-constant-sum", total=(1.0,))
    for seed in range(laboratory.settings.seeds):
        path = results.path("learned", seed)
        total = [sum(weights) for weights in zip(*(path[task] for task in TASKS), strict=True)]
        laboratory.run(results, f"learned-sum-{seed}", by_hand, suffix="-of-learned-sum", seeds=[seed], total=total)
    for factor in LR_FACTORS:
        laboratory.run(results, f"lr-{factor:g}", {**learned, **by_hand}, suffix=f"-lr-{factor:g}", lr_factor=factor)
