"""MNIST-1D [Greydanus, package mnist1d]: from a signal of 40 points to the digit and to what was done to it.

The signals are made as ``mnist1d.transform.transform`` makes them, from the templates and with the settings of the
package; only that the amounts are kept, as labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from experiments.evidence.table import Table, TableNet, make_table, split_rows
from lightning_uncertainty._arguments import require

__all__ = ["TASKS", "SignalNet", "digits", "signal"]

ROWS = 6_000
TASKS = {
    "digit": {"likelihood": "softmax"},
    "padding": {"likelihood": "gaussian", "unit": "points"},
    "stretch": {"likelihood": "gaussian", "unit": "1"},
    "shift": {"likelihood": "gaussian", "unit": "points"},
    "shear": {"likelihood": "gaussian", "unit": "1"},
}


class SignalNet(TableNet):
    """The same heads over three convolutions."""

    def __init__(self, *arguments: Any, width: int = 64, **options: Any) -> None:
        super().__init__(*arguments, width=width, **options)
        layers: list[nn.Module] = [nn.Unflatten(1, (1, 40))]
        for channels in (1, 16, 16):
            layers += [nn.Conv1d(channels, 16, 5, stride=2, padding=2), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 5, width), nn.ReLU())


def digits(seed: int) -> Table:
    """Return new signals; shift and padding in points of the longer signal, stretch and shear as factors.

    Raises:
        MissingExtraError: without mnist1d.
    """
    require("evidence", "mnist1d")
    from mnist1d.data import get_dataset_args, get_templates

    settings, templates, random = get_dataset_args(), get_templates()["x"], np.random.default_rng(seed)
    amounts = {
        "digit": random.integers(10, size=ROWS),
        "padding": random.integers(settings.padding[0], settings.padding[1] + 1, size=ROWS),
        "stretch": 1.0 + settings.scale_coeff * (random.random(ROWS) - 0.5),
        "shift": random.integers(settings.max_translation, size=ROWS),
        "shear": settings.shear_scale * (random.random(ROWS) - 0.5),
    }
    noise = random.normal(size=(2, ROWS, settings.template_len + settings.padding[1]))
    rows = [{name: amount[row] for name, amount in amounts.items()} for row in range(ROWS)]
    signals = [
        signal(templates[row["digit"]], row, pair, settings)
        for row, pair in zip(rows, noise.swapaxes(0, 1), strict=True)
    ]
    return make_table(TASKS, np.stack(signals), amounts, split_rows(np.arange(ROWS), seed))


def signal(template: np.ndarray, amounts: dict[str, Any], noise: np.ndarray, settings: Any) -> np.ndarray:
    """Return a signal by the steps of the package; ``noise`` has two rows of standard normal numbers."""
    from mnist1d.transform import interpolate
    from scipy.ndimage import gaussian_filter

    padded = np.concatenate([template + 1e-8, np.zeros(amounts["padding"])])
    long = np.roll(interpolate(padded, noise.shape[1]) * amounts["stretch"], amounts["shift"])
    long = np.where(long != 0.0, long, gaussian_filter(settings.corr_noise_scale * noise[0], 2))
    long = long + settings.iid_noise_scale * noise[1]
    sheared = long - amounts["shear"] * np.linspace(-0.5, 0.5, len(long))
    made: np.ndarray = interpolate(sheared, settings.final_seq_length)
    return made
