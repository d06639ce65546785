"""The figures: how close each arm comes to the best, what a training buys, and the gain on each set."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing import empty_figure, save, tidy
from experiments.evidence.problems import load
from experiments.evidence.results import ARMS, HAND, SINGLE, Results
from experiments.evidence.statistics import bootstrap, profile
from experiments.evidence.trainings import EQUAL
from lightning_uncertainty.reporting.figures import COLOURS, GREY

if TYPE_CHECKING:
    pass

__all__ = ["save_effort", "save_profile", "save_sets"]

SHOWN = {
    "uncertainty": COLOURS[0],
    "article": COLOURS[5],
    HAND: COLOURS[1],
    "log_sum": COLOURS[2],
    "geometric_mean": COLOURS[3],
    "initial": COLOURS[4],
    EQUAL: "#000000",
}
"""Arms that have a colour; the others are grey."""

LOWEST = -12.0  # percent, in the figure of the effort


def save_profile(path: Path, results: Results) -> Path:
    """Draw for each arm the part of the runs that come within so many points of the best arm of their set and seed."""
    figure = empty_figure(8.5, 4.6)
    axis = figure.subplots()
    points = np.concatenate([[0.0], np.geomspace(0.1, 100.0, 200)])
    gains = {
        problem: {arm: each[arm] for arm in results.arms if arm != SINGLE} for problem, each in results.gains.items()
    }
    for arm in next(iter(gains.values())):
        colour = SHOWN.get(arm)
        width, label = (1.0, None) if colour is None else (2.0, _title(arm))
        axis.plot(points, profile(gains, arm, list(points)), color=colour or GREY, linewidth=width, label=label)
    axis.plot([], [], color=GREY, linewidth=1.0, label="others")
    axis.set_xscale("symlog", linthresh=0.5)
    axis.set_xticks([0, 1, 3, 10, 30, 100], ["0", "1", "3", "10", "30", "100"])
    axis.set_ylim(0.0, 1.02)
    axis.set_ylabel("part of the runs (each set counts alike)")
    tidy(axis, title="How close to the best", x="points of gain behind the best arm of the set and seed")
    axis.legend(frameon=False, loc="lower right", fontsize=9)
    return save(figure, path)


def save_effort(path: Path, results: Results) -> Path:
    """Draw the mean gain over the sets against the trainings that it costs, with the learning rates that were tried."""
    figure = empty_figure(10.0, 4.6)
    axis = figure.subplots()
    searches = [results.search(problem) for problem in results.gains]
    rates = fmean(results.cost_of_one(problem, HAND) for problem in results.gains) / len(searches[0])
    curve = [fmean(each) for each in zip(*searches, strict=True)]
    axis.plot(
        rates * np.arange(1, len(curve) + 1),
        curve,
        "o-",
        color=SHOWN[HAND],
        label="best of n by hand (on the first seeds)",
    )
    marks = iter("s^vD<>Pps^vD<>Pp")
    for arm in (each for each in results.arms if each != HAND):
        cost = fmean(results.cost_of_one(problem, arm) for problem in results.gains)
        found, colour, mark = results.interval(arm), SHOWN.get(arm, GREY), next(marks)
        label = f"{_title(arm)}: {found.mean:+.1f}"
        place = max(found.mean, LOWEST)
        if place == found.mean:
            spread = [[found.mean - found.low], [found.high - found.mean]]
            axis.errorbar([cost], [found.mean], spread, fmt="none", color=colour, capsize=3, linewidth=1.0)
        axis.plot(
            [cost], [place], mark, color=colour, markersize=7, label=label + " (off the scale)" * (place != found.mean)
        )
    axis.set_xscale("log")
    axis.set_xticks([3, 5, 10, 20, 30], ["3", "5", "10", "20", "30"])
    axis.minorticks_off()
    axis.axhline(0.0, color=GREY, linewidth=0.8)
    axis.set_ylabel("mean gain over equal weights [%]")
    tidy(axis, title="What a training buys", x="trainings for one seed, learning rates included (mean over the sets)")
    axis.set_ylim(LOWEST - 1.0, None)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return save(figure, path)


def save_sets(path: Path, results: Results) -> Path:
    """Draw the gain of each arm over equal weights on each set: dots with intervals over the seeds."""
    figure = empty_figure(12.0, 9.0)
    names, arms = list(results.gains), [arm for arm in results.arms if arm != EQUAL]
    axes = figure.subplots(3, 3, sharey=True).flat
    for axis, name in zip(axes, names, strict=False):
        intervals = {arm: bootstrap([results.gains[name][arm]]) for arm in arms}
        left = -max(0.75 * max(found.high for found in intervals.values()), 5.0)
        for place, arm in enumerate(reversed(arms)):
            found, colour = intervals[arm], SHOWN.get(arm, GREY)
            if found.mean < left:
                axis.plot([left], [place], "<", color=colour, markersize=5)
                axis.annotate(
                    f"{found.mean:.0f}", (left, place), xytext=(5, -3), textcoords="offset points", fontsize=7
                )
                continue
            axis.plot([max(found.low, left), found.high], [place, place], color=colour, linewidth=1.5)
            axis.plot([found.mean], [place], "o", color=colour, markersize=5)
        axis.axvline(0.0, color="#000000", linewidth=0.8)
        axis.set_yticks(range(len(arms)), [_title(arm) for arm in reversed(arms)], fontsize=8)
        tidy(axis, title=load(name).title, x="gain over equal weights [%]")
    for axis in list(axes)[len(names) :]:
        axis.set_visible(False)
    return save(figure, path)


def _title(arm: str) -> str:
    return ARMS[arm].replace("*", "")
