"""The figures of the experiment: paths of the weights, gain for the effort, the search by hand, noise and sigma."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing import empty_figure, save, tidy
from experiments.scenes.data.batch import TASKS
from experiments.scenes.noise_check import NoiseResult
from experiments.scenes.results import Results, StartPath, expected_best
from lightning_uncertainty.reporting.figures import COLOURS

if TYPE_CHECKING:
    pass

__all__ = ["save_effort", "save_grid", "save_noise", "save_starts"]

_WEIGHTS = {
    "semantic": r"semantic: $\sigma^{-2}$",
    "instance": "instance: 1/b [1/px]",
    "depth": "inverse depth: 1/b [1/px]",
}


def save_starts(path: Path, paths: Sequence[StartPath]) -> Path:
    """Draw the weight of each task over the steps, a line per start; a dot where it has met that from the data."""
    figure = empty_figure(12.0, 3.6)
    for axis, task in zip(figure.subplots(1, 3), TASKS, strict=True):
        for start, colour in zip(paths, COLOURS, strict=False):
            axis.plot(start.steps, start.weights[task], color=colour, linewidth=1.5, label=start.title)
            if (met := start.met[task]) is not None and start.title != "from the data":
                height = start.weights[task][list(start.steps).index(met)]
                axis.plot([met], [height], "o", color=colour, markersize=6)
        axis.set_yscale("log")
        tidy(axis, title=_WEIGHTS[task], x="optimizer step")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(
        "Learned weights from several initial values; dots: within 5 % of the run from the data, to the end"
    )
    return save(figure, path)


def save_effort(path: Path, results: Results) -> Path:
    """Draw the gain against the number of training runs: one that learns, and the best of n by hand.

    Bars are standard deviations over the seeds, of the learned weights and of the best ones by hand.
    """
    figure = empty_figure(7.0, 4.2)
    axis = figure.subplots()
    gains, learned = expected_best(list(results.grid.values())), results.gains("learned")
    runs = np.arange(1, len(gains) + 1)
    axis.plot(runs, gains, "o-", color=COLOURS[1], label="best of n weightings by hand (mean over choices of n)")
    by_hand = results.gains(results.best_row)
    axis.errorbar([runs[-1]], [gains[-1]], [_spread(by_hand)], fmt="none", color=COLOURS[1], capsize=4)
    middle = float(np.mean(learned))
    axis.axhline(middle, color=COLOURS[0], linewidth=1.0, linestyle="--")
    axis.errorbar(
        [1], [middle], [_spread(learned)], fmt="s", color=COLOURS[0], capsize=4, label="learned weights: one run"
    )
    axis.axhline(0.0, color="#888888", linewidth=0.8)
    axis.set_xticks(runs)
    axis.set_ylabel("mean gain over single-task nets [%]")
    tidy(axis, title="What a search by hand buys", x="training runs (each with one seed; gain: mean over the seeds)")
    axis.legend(frameon=False, loc="lower right")
    return save(figure, path)


def _spread(gains: Sequence[float]) -> float:
    return float(np.std(gains, ddof=1)) if len(gains) > 1 else 0.0


def save_grid(path: Path, results: Results) -> Path:
    """Draw the search by hand: the gain of each weighting that was tried; the frame marks the best."""
    from matplotlib.patches import Rectangle

    figure = empty_figure(6.4, 4.6)
    axis = figure.subplots()
    grid = results.grid
    xs, ys = (sorted({point[i] for point in grid}) for i in (0, 1))
    gains = np.array([[grid.get((x, y), np.nan) for x in xs] for y in ys])
    limit = np.nanmax(np.abs(gains))
    image = axis.imshow(gains, origin="lower", cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for row, column in np.argwhere(~np.isnan(gains)):
        gain = gains[row, column]
        shade = "white" if abs(gain) > 0.6 * limit else "black"
        axis.text(column, row, f"{gain:+.1f}", ha="center", va="center", color=shade)
    x, y = results.best_point
    axis.add_patch(Rectangle((xs.index(x) - 0.5, ys.index(y) - 0.5), 1, 1, fill=False, linewidth=2.5))
    factor = results.settings.grid_factor
    axis.set_xticks(range(len(xs)), [_power(factor, power) for power in xs])
    axis.set_yticks(range(len(ys)), [_power(factor, power) for power in ys])
    axis.set_xlabel("weight of instance, that of semantic being 1")
    axis.set_ylabel("weight of inverse depth")
    axis.set_title(f"By hand; learned in one run: {results.gain('learned'):+.1f} %", fontsize=11)
    figure.colorbar(image, label="mean gain over single-task nets [%]")
    return save(figure, path)


def save_noise(path: Path, found: Sequence[NoiseResult]) -> Path:
    """Draw learned sigma against what the formula gives for the noise on the labels."""
    figure = empty_figure(11.0, 3.8)
    panels = {
        "semantic": "share of mislabelled objects [%]",
        "instance": "noise of offsets [px]",
        "depth": "noise of inverse depth [px]",
    }
    names = {"softmax": r"softmax: $\sigma$", "laplace": "L1, Laplace: b", "gaussian": r"squared, Gaussian: $\sigma$"}
    for axis, (task, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        here = [result for result in found if result.task.split()[0] == task]
        for likelihood, colour in zip(names, COLOURS, strict=False):
            points = [result for result in here if result.likelihood == likelihood]
            if points:
                noise = [(100.0 if task == "semantic" else 1.0) * point.noise for point in points]
                axis.plot(noise, [point.expected for point in points], color=colour, linewidth=1.0)
                axis.plot(noise, [point.learned for point in points], "o", color=colour, label=names[likelihood])
        axis.set_ylabel("learned (dots), expected (line)")
        tidy(axis, title=task if task != "depth" else "inverse depth", x=label)
        if here:
            axis.legend(frameon=False, fontsize=8)
    return save(figure, path)


def _power(factor: float, power: int) -> str:
    return f"{factor**power:g}" if power >= 0 else f"1/{factor**-power:g}"
