"""The picture of the README: trains the run of the demo that learns its weights (15 seconds), and draws what they did.

``make picture`` writes ``docs/pictures/weights-light.svg`` and ``weights-dark.svg``, for light and dark pages.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from lightning_uncertainty import UncertaintyCallback
from lightning_uncertainty.demo.folder import OutputFolder
from lightning_uncertainty.demo.options import Options
from lightning_uncertainty.demo.quiet import quiet_lightning
from lightning_uncertainty.demo.run import LEARNED, prepare, train
from lightning_uncertainty.reporting.figures import plot_shares, plot_weights
from lightning_uncertainty.reporting.history import History

PICTURES = Path(__file__).parents[1] / "pictures"
INKS = {"light": "#1f2328", "dark": "#e6edf3"}  # of text and axes; the paper is that of the page


def learned_history(options: Options) -> History:
    """The weights of the third run of ``lightning-uncertainty demo``."""
    callback = UncertaintyCallback(summary=False, report=False)
    with quiet_lightning():
        train(LEARNED, options, prepare(options), OutputFolder.create(options.output, options.data), [callback])
    return callback.history


def draw(history: History, path: Path, ink: str) -> Path:
    """Weights and shares side by side, on a transparent ground.

    Args:
        history: of a run.
        path: of the SVG.
        ink: colour of text and axes.

    Returns:
        ``path``.
    """
    inked = "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"
    with mpl.rc_context({**dict.fromkeys(inked, ink), "font.size": 11, "svg.hashsalt": path.stem}):
        figure = Figure(figsize=(11.0, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_weights(left, history).set_title("the weight that each loss has learned", fontsize=11)
        plot_shares(right, history).set_title("the share that each task then has", fontsize=11)
        for name in (*left.texts, *right.texts):
            name.set_color(ink)  # the line to it keeps the colour of the task
        figure.savefig(path, transparent=True, metadata={"Date": None, "Description": _description(history)})
    return path


def _description(history: History) -> str:
    weights = ", ".join(f"{name} {history.series('precision', name)[-1]:.3g}" for name in history.tasks)
    return f"Weights after {history.steps[-1]} steps: {weights}."


def main(folder: Path = PICTURES) -> None:
    """Train once and write both pictures."""
    with tempfile.TemporaryDirectory() as output:
        history = learned_history(Options(output=Path(output)))
    for name, ink in INKS.items():
        print(draw(history, folder / f"weights-{name}.svg", ink))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
