"""The page of the experiment: tables, CSV files, figures and pictures."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch

from experiments.scenes.arms import grid_weights
from experiments.scenes.data.batch import TASKS, pick
from experiments.scenes.figures import save_effort, save_grid, save_noise, save_starts
from experiments.scenes.model.scene_model import SceneModel
from experiments.scenes.noise_check import NoiseResult, check_noise
from experiments.scenes.pictures import contact_sheet, prediction_figure
from experiments.scenes.results import Results, StartPath
from experiments.scenes.settings import CHECKPOINT, make_data
from experiments.scenes.table import control_rows, lr_table, main_rows, rows_csv, rows_table, runs_csv
from lightning_uncertainty.reporting.files import write_whole
from lightning_uncertainty.reporting.tables import Table, csv_text

__all__ = ["write_page"]

_SHOWN = 6  # scenes in the picture of predictions


def write_page(results: Results, folder: Path, *, command: str) -> Path:
    """Write ``README.md``, CSV files and pictures, and return the path of the page.

    Args:
        results: Results of all runs.
        folder: The folder, which exists.
        command: The command that made them, for the page.
    """
    rows, paths, noise = main_rows(results), results.start_paths(), check_noise()
    write_whole(folder / "table.csv", rows_csv(rows))
    write_whole(folder / "runs.csv", runs_csv(results))
    write_whole(folder / "grid.csv", _grid_csv(results))
    save_grid(folder / "grid.png", results)
    save_effort(folder / "effort.png", results)
    save_starts(folder / "starts.png", paths)
    save_noise(folder / "noise.png", noise)
    contact_sheet(noise=results.settings.noise).savefig(folder / "scenes.png", dpi=90)
    _draw_predictions(results, folder / "predictions.png")
    sections = [_introduction(results, command), rows_table(rows).markdown(), _reading(results), _controls(results)]
    page = folder / "README.md"
    write_whole(page, "\n".join([*sections, _starts(paths), _noise(noise)]))
    return page


def _introduction(results: Results, command: str) -> str:
    s = results.settings
    minutes = sum(run.seconds for run in results.runs.values()) / 60.0
    return f"""# One network for semantics, instances and depth

Table 1 of Kendall, Gal, Cipolla (CVPR 2018) on generated street scenes. Written by `{command}`:
{len(results.runs)} trainings of together {minutes:.0f} minutes, one thread each, on {os.cpu_count()} CPU cores
({platform.machine()}), {_versions()}.

Every row has the same network, data, schedule and seeds: {s.train} training scenes of {s.size[0]}x{s.size[1]} pixels
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
    factor, best = results.settings.grid_factor, results.best_point
    weights = " : ".join(f"{weight:g}" for weight in grid_weights(best, factor).values())
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

Learned weights change their ratios, and while the losses fall also their sum. Adam hardly sees a constant factor, but
a sum that grows makes its steps larger. The same trainings with the sum of the others:

{rows_table(control_rows(results)).markdown()}
And with other learning rates of the network, against the single-task nets of the table:

{lr_table(results).markdown()}"""


def _starts(paths: Sequence[StartPath]) -> str:
    header = ["start", *(f"{task}: within 5 % of its end / of the run from the data" for task in TASKS)]
    cells = [[p.title, *(f"{_step(p.settled[task])} / {_step(p.met[task])}" for task in TASKS)] for p in paths]
    return f"""## From several initial values

The step from which each weight stays within 5 % of its own end (which moves as long as the network gets better), and of
the run that starts from the data. Seed 0, {paths[0].steps[-1]:.0f} steps.

{Table(header, cells).markdown()}
![weights over the steps](starts.png)
"""


def _step(step: float | None) -> str:
    return "not yet" if step is None else f"{step:.0f}"


def _noise(found: Sequence[NoiseResult]) -> str:
    header = ["task", "likelihood", "noise", "expected sigma", "learned sigma", "ratio"]
    numbers = [
        [f"{r.noise:g}", f"{r.expected:.4g}", f"{r.learned:.4g}", f"{r.learned / r.expected:.3f}"] for r in found
    ]
    cells = [[r.task, r.likelihood, *each] for r, each in zip(found, numbers, strict=True)]
    return f"""## Sigma against known noise

One linear layer per task on features that determine the exact labels, so that nothing but the noise is left over.
Gaussian noise of standard deviation d: an L1 loss (Laplace) learns b = E|noise| = 0.798 d, a squared one (Gaussian)
sigma = d. For the cross entropy sigma² = 2 L is a temperature; L is the entropy of a pixel's label given its true
class.

{Table(header, cells, left=(0, 1)).markdown()}
![learned against expected sigma](noise.png)
"""


def _grid_csv(results: Results) -> str:
    factor = results.settings.grid_factor
    header = [*(f"weight of {task}" for task in TASKS), "gain [%]"]
    return csv_text(header, [[*grid_weights(p, factor).values(), gain] for p, gain in sorted(results.grid.items())])


def _draw_predictions(results: Results, path: Path) -> None:
    model = SceneModel.load_from_checkpoint(results.runs["learned", 0].folder / CHECKPOINT, map_location="cpu")
    data = make_data(results.settings)
    data.setup("test")
    scenes = pick(data.test_scenes.scenes, slice(_SHOWN))
    with torch.no_grad():
        figure = prediction_figure(scenes, model.eval()(scenes["image"]), rows=_SHOWN)
    figure.savefig(path, dpi=90)
