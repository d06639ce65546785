"""What the experiment writes: a page with the table, CSV files and pictures."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch

from experiments.scenes.data.batch import TASKS, pick
from experiments.scenes.experiment.cells import Cell
from experiments.scenes.experiment.figures import save_effort, save_grid, save_noise, save_starts
from experiments.scenes.experiment.grid import best_point
from experiments.scenes.experiment.results import Results
from experiments.scenes.experiment.starts import StartPath, start_paths
from experiments.scenes.experiment.table import (
    control_rows,
    lr_table,
    markdown,
    table_rows,
    write_csv,
    write_runs,
)
from experiments.scenes.experiment.train import train_model
from experiments.scenes.model.scene_model import LIKELIHOODS
from experiments.scenes.noise_check import NoiseResult, check_noise
from experiments.scenes.pictures import contact_sheet, prediction_figure

__all__ = ["write_report"]

_SHOWN = 6  # scenes in the picture of predictions


def write_report(results: Results, folder: Path, *, command: str) -> Path:
    """Write ``README.md``, CSV files and pictures into ``folder``, and give the page.

    Args:
        results: of all cells.
        folder: exists.
        command: that made them, for the page.
    """
    rows, paths, noise = table_rows(results), start_paths(results), check_noise()
    write_csv(rows, folder / "table.csv")
    write_runs(results, folder / "runs.csv")
    _write_grid(results, folder / "grid.csv")
    save_grid(folder / "grid.png", results)
    save_effort(folder / "effort.png", results)
    save_starts(folder / "starts.png", paths)
    save_noise(folder / "noise.png", noise)
    contact_sheet(noise=results.settings.noise).savefig(folder / "scenes.png", dpi=90)
    _draw_predictions(results, folder / "predictions.png")
    page = folder / "README.md"
    sections = [
        _introduction(results, command),
        markdown(rows),
        _reading(results),
        _controls(results),
        _starts(paths),
        _noise(noise),
    ]
    page.write_text("\n".join(sections), encoding="utf-8")
    return page


def _introduction(results: Results, command: str) -> str:
    s = results.settings
    minutes = sum(o.seconds for row in results.outcomes.values() for o in row.values()) / 60.0
    return f"""# One network for semantics, instances and depth

Table 1 of Kendall, Gal, Cipolla (CVPR 2018) on generated street scenes. Written by `{command}`:
{results.cells} trainings of together {minutes:.0f} minutes, one thread each, on {os.cpu_count()} CPU cores
({platform.machine()}), {_versions()}.

Every row has the same network, data, schedule and seeds: {s.train} training scenes of {s.height}x{s.image_width} pixels
per seed, {s.steps} steps of {s.batch_size} scenes, AdamW with a one-cycle schedule up to {s.lr:g}. The training labels
carry noise: {s.noise.semantic:.0%} of the objects have the class of another, offsets have {s.noise.instance:g} px and
inverse depth {s.noise.depth:g} px of Gaussian noise (standard deviation, per pixel). Measured on {s.test} other scenes,
the same for all rows, with exact labels. Offsets and inverse depth (disparity) are in pixels; errors are mean absolute
ones.

![scenes and labels](scenes.png)

## The table

Mean ± standard deviation over {s.seeds} seed(s). The gain is the mean over the tasks of the change against the
single-task net of the same seed. Weights are the factors before the losses as parts of 1, learned ones at the end of
the training. Runs: trainings that one seed of the row costs.
"""


def _versions() -> str:
    torch_version = torch.__version__.split("+")[0]
    return f"torch {torch_version}, lightning {lightning.__version__}, Python {platform.python_version()}"


def _reading(results: Results) -> str:
    factor, best = results.settings.grid_factor, best_point(results.grid)
    weights = " : ".join(f"{weight:g}" for weight in (1.0, factor ** best[0], factor ** best[1]))
    equal, learned, hand = results.grid[0, 0], results.gain("learned"), results.grid[best]
    return f"""
Learned weights are {learned - equal:+.1f} points against equal weights, and {learned - hand:+.1f} points against the
best of {len(results.grid)} weightings by hand ({weights} for semantic : instance : depth), which cost
{len(results.grid)} runs instead of one. That best one was picked on the test scenes, which flatters it, and has
neighbours on all sides: the grid of factors of {factor:g} around equal weights was widened until it had.

![the search by hand](grid.png)

![gain for the effort](effort.png)

![predictions](predictions.png)
"""


def _controls(results: Results) -> str:
    return f"""## Ratios, sum, and learning rate

Learned weights change their ratios, and while the losses fall also their sum. Adam does not see a constant factor, but
a sum that grows makes its steps larger. The same trainings with the sum of the others:

{markdown(control_rows(results))}
And with other learning rates of the network, against the single-task nets of the table:

{lr_table(results)}"""


def _starts(paths: Sequence[StartPath]) -> str:
    lines = [
        "| start | " + " | ".join(f"{task}: within 5 % of its end / of the run from the data" for task in TASKS) + " |",
        "| --- " + "| ---: " * len(TASKS) + "|",
    ]
    for path in paths:
        cells = [f"{_step(path.settled[task])} / {_step(path.met[task])}" for task in TASKS]
        lines.append(f"| {path.title} | {' | '.join(cells)} |")
    return (
        "## From several initial values\n\nThe step from which each weight stays within 5 % of its own end (which "
        "moves as long as the network gets better), and of\nthe run that starts from the data. Seed 0, "
        f"{paths[0].steps[-1]:.0f} steps.\n\n" + "\n".join(lines) + "\n\n![weights over the steps](starts.png)\n"
    )


def _step(step: float | None) -> str:
    return "not yet" if step is None else f"{step:.0f}"


def _noise(found: Sequence[NoiseResult]) -> str:
    lines = [
        "| task | likelihood | noise | expected sigma | learned sigma | ratio |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for r in found:
        numbers = f"{r.noise:g} | {r.expected:.4g} | {r.learned:.4g} | {r.learned / r.expected:.3f}"
        lines.append(f"| {r.task} | {r.likelihood} | {numbers} |")
    return (
        """## Sigma against known noise

One linear layer per task on features that determine the exact labels, so that nothing but the noise is left over.
Gaussian noise of standard deviation d: an L1 loss (Laplace) learns b = E|noise| = 0.798 d, a squared one (Gaussian)
sigma = d. For the cross entropy sigma² = 2 L is a temperature; L is the entropy of a pixel's label given its true
class.

"""
        + "\n".join(lines)
        + "\n\n![learned against expected sigma](noise.png)\n"
    )


def _write_grid(results: Results, path: Path) -> None:
    factor = results.settings.grid_factor
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["weight of semantic", "weight of instance", "weight of depth", "gain [%]"])
        writer.writerows([1.0, factor**x, factor**y, gain] for (x, y), gain in sorted(results.grid.items()))


def _draw_predictions(results: Results, path: Path) -> None:
    """Of the network with learned weights, trained once more: networks are not kept."""
    model, data, _ = train_model(Cell("learned", 0, dict(LIKELIHOODS)), results.settings)
    data.setup("test")
    scenes = pick(data.test_scenes.scenes, slice(_SHOWN))
    with torch.no_grad():
        figure = prediction_figure(scenes, model.eval()(scenes["image"]), rows=_SHOWN)
    figure.savefig(path, dpi=90)
