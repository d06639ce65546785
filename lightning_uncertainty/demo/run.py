"""The demo: one network with equal weights, with labels standardised by hand, and with learned weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_uncertainty._arguments import require
from lightning_uncertainty.comparison import ComparisonResult, compare
from lightning_uncertainty.demo.data import TensorData
from lightning_uncertainty.demo.model import MultiTaskNet

EPOCHS = 20


def compare_weights(
    name: str,
    make_net: Callable[[dict[str, list[float]]], MultiTaskNet],
    make_data: Callable[[], TensorData],
    output: Path,
    *,
    epochs: int,
    seeds: Sequence[int],
) -> ComparisonResult:
    """Compare equal weights with weights that standardise by hand and with learned ones, and print what came out.

    ``make_net`` takes the scales of :meth:`TensorData.label_scales`.
    """
    require("demo", "rich", "scipy", "tensorboard")
    from rich.console import Console

    console, data = Console(), make_data()
    scales = data.label_scales()
    kinds = make_net(scales).likelihoods
    console.print(
        f"{name}: {len(data.train[0]):,} rows to train on, {len(data.test[0]):,} held out, {len(kinds)} tasks; "
        f"{epochs} epochs with equal weights, standardised by hand, and with learned weights. Heads are scaled to the "
        "training labels, losses are in natural units.",
        highlight=False,
    )
    result = compare(
        partial(make_net, scales),
        make_data,
        metrics={f"test/{task}": "min" if kinds[task] in ("gaussian", "laplace") else "max" for task in kinds},
        seeds=seeds,
        trainer=partial(_trainer, epochs, min(10, len(data.train_dataloader()))),
        fixed={"standardised": by_hand(kinds, scales)},
        evaluate="test",
        folder=output,
    )
    console.print("\nOn held-out rows: min mean absolute error in natural units, max accuracy, of a yes or no AUROC.\n")
    table = result.table.rich() if console.encoding.startswith("utf") else str(result.table)
    console.print(table, f"\n{result.origin}", highlight=False)
    where = f"Checkpoints, CSV files and pictures of the runs: {output}\nTensorBoard: tensorboard --logdir {output}"
    console.print(where, soft_wrap=True, highlight=False)
    return result


def by_hand(likelihoods: Mapping[str, str], scales: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the fixed weights whose gradients are those of standardised labels.

    They are 1/std^2 for a squared error, 1/std for an absolute one, and 1 for a classification.

    >>> by_hand({"price": "gaussian", "delay": "laplace", "cut": "softmax"}, {"price": [9.0, 2.0], "delay": [0.0, 2.0]})
    {'price': 0.25, 'delay': 0.5, 'cut': 1.0}
    """
    power = {"gaussian": -2, "laplace": -1}
    return {task: scales[task][1] ** power[kind] if kind in power else 1.0 for task, kind in likelihoods.items()}


def _trainer(epochs: int, log_every: int, folder: Path) -> dict[str, Any]:
    tensorboard = TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
    return {
        "accelerator": "cpu",  # for networks this small it is the fastest, and the numbers are the same everywhere
        "max_epochs": epochs,
        "log_every_n_steps": log_every,
        "logger": [CSVLogger(folder, name="", version=""), tensorboard],
        "callbacks": [ModelCheckpoint(folder / "checkpoints", filename="last")],
    }
