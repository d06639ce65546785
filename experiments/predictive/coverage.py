"""Coverage of nominal 90 % intervals on fresh data, with sigma of the training and of the validation."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
import numpy as np
import torch

from experiments.evidence.table import Table, make_table
from lightning_uncertainty import UncertaintyCallback
from lightning_uncertainty.demo.data import Batch, TensorBatches
from lightning_uncertainty.demo.model import MultiTaskNet

__all__ = ["KNOWN", "QUIET", "SOURCES", "Net", "covered", "fewer", "known_noise"]

SOURCES: tuple[Literal["training", "validation"], ...] = ("training", "validation")
NOMINAL = 0.9
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
KNOWN = {
    "depth": {"likelihood": "gaussian", "unit": "m"},
    "price": {"likelihood": "laplace", "unit": "$"},
}
NOISE = {"depth": 2.0, "price": 150.0}
FRESH = 20_000


def known_noise(rows: int, seed: int) -> Table:
    """Return two regressions with known noise: ``rows`` to train on, a third as many to validate, and fresh ones."""
    random = np.random.default_rng(seed)
    parts = np.repeat([0, 1, 2], [rows, rows // 3, FRESH])
    x = random.normal(size=(len(parts), 8))
    signal = np.sin(2.0 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.3 * x[:, 3]
    other = np.cos(2.0 * x[:, 4]) + 0.5 * np.abs(x[:, 5]) * x[:, 0]
    labels = {
        "depth": 4.0 * signal + NOISE["depth"] * random.normal(size=len(x)),
        "price": 300.0 * other + NOISE["price"] * random.laplace(size=len(x)),
    }
    return make_table(KNOWN, x, labels, [parts == part for part in range(3)])


def fewer(table: Table, rows: int, seed: int) -> Table:
    """Return a table with that many of its training rows, and a third as many to validate on."""
    generator = torch.Generator().manual_seed(seed)
    train, val = (_sample(part, count, generator) for part, count in ((table.train, rows), (table.val, rows // 3)))
    return Table(table.tasks, train, val, table.test)


def _sample(part: Batch, count: int, generator: torch.Generator) -> Batch:
    inputs, labels = part
    chosen = torch.randperm(len(inputs), generator=generator)[:count]
    return inputs[chosen], {name: label[chosen] for name, label in labels.items()}


class Net(MultiTaskNet):
    """The network of the demo, which weighs its validation losses, too."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        inputs, _ = batch
        self.weigh(self.losses(batch), samples=len(inputs))


def covered(table: Table, *, epochs: int, seed: int, width: int = 96) -> dict[str, dict[str, dict[str, float]]]:
    """Train, and return for each regression and source of sigma: the sigma, and the part of fresh targets covered."""
    L.seed_everything(seed, verbose=False)
    net = Net(dict(table.tasks), num_inputs=table.train[0].shape[1], scales=table.scales, width=width)
    callback = UncertaintyCallback(report=False, summary=False)
    trainer = L.Trainer(max_epochs=epochs, callbacks=[callback], **QUIET)
    trainer.fit(
        net,
        TensorBatches(*table.train, batch_size=64, seed=seed),
        TensorBatches(*table.val, batch_size=len(table.val[0])),
    )
    inputs, labels = table.test
    with torch.no_grad():
        outputs = net.eval()(inputs)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for source, sigmas in zip(SOURCES, (net.uncertainty.sigmas, net.uncertainty.sigmas_val), strict=True):
        net.uncertainty.sigma_from = source
        for name in table.scales:
            law = net.uncertainty.predictive(name, outputs[name])
            inside = (2.0 * law.cdf(labels[name]) - 1.0).abs() < NOMINAL
            found.setdefault(name, {})[source] = {"sigma": sigmas[name], "covered": inside.float().mean().item()}
    return found
