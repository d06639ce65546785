"""The picture of the README: trains the run of the demo that learns its weights (15 seconds), and draws what they did.

``make picture`` writes ``docs/pictures/weights-light.svg`` and ``weights-dark.svg``, for light and dark pages.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L
import matplotlib as mpl
from matplotlib.figure import Figure

from lightning_uncertainty import UncertaintyCallback
from lightning_uncertainty.demo.diamonds import make_data, make_net
from lightning_uncertainty.demo.run import EPOCHS
from lightning_uncertainty.reporting.figures import plot_shares, plot_weights
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.trainer.packages import quiet_lightning

PICTURES = Path(__file__).parents[1] / "pictures"
INKS = {"light": "#1f2328", "dark": "#e6edf3"}  # of text and axes; the paper is that of the page


def learned_history(rows: int | None = None, epochs: int = EPOCHS) -> History:
    """Return the weights of the run of ``lightning-uncertainty demo`` that learns."""
    L.seed_everything(0, workers=True, verbose=False)
    callback, data = UncertaintyCallback(summary=False, report=False), make_data(rows)
    with quiet_lightning():
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[callback],
            log_every_n_steps=min(10, len(data.train_dataloader())),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(make_net(data.label_scales()), data)
    return callback.history


def draw(history: History, path: Path, ink: str) -> Path:
    """Draw weights and shares side by side, on a transparent ground.

    Args:
        history: History of a run.
        path: Path of the SVG.
        ink: Colour of text and axes.

    Returns:
        ``path``.
    """
    inked = "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"
    with mpl.rc_context({**dict.fromkeys(inked, ink), "font.size": 11, "svg.hashsalt": path.stem}):
        figure = Figure(figsize=(11.0, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_weights(left, history).set_title("the weight that each loss has learned", fontsize=11)
        plot_shares(right, history).set_title("the share that each task then has", fontsize=11)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Description": _description(history)})
    return path


def _description(history: History) -> str:
    weights = ", ".join(f"{name} {history.series('precision', name)[-1]:.3g}" for name in history.tasks)
    return f"Weights after {history.steps[-1]} steps: {weights}."


def main(folder: Path = PICTURES) -> None:
    """Train once and write both pictures."""
    history = learned_history()
    for name, ink in INKS.items():
        print(draw(history, folder / f"weights-{name}.svg", ink))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
