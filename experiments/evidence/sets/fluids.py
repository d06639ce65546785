"""Water by its equation of state [CoolProp], in SI units, with a noise that is known.

From temperature and pressure to density, viscosity, conductivity, speed of sound, enthalpy and phase. What is exact is
known here, so the noise of the labels is added on purpose: the rows to test on have none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.evidence.table import Table, make_table, split_rows
from lightning_uncertainty._arguments import require

__all__ = ["NOISE", "TASKS", "water"]

ROWS = 8_000
TASKS = {
    "density": {"likelihood": "gaussian", "unit": "kg/m3"},
    "viscosity": {"likelihood": "gaussian", "unit": "Pa s"},
    "conductivity": {"likelihood": "gaussian", "unit": "W/m/K"},
    "sound": {"likelihood": "gaussian", "unit": "m/s"},
    "enthalpy": {"likelihood": "gaussian", "unit": "J/kg"},
    "phase": {"likelihood": "softmax"},
}
SYMBOLS = {"density": "D", "viscosity": "V", "conductivity": "L", "sound": "A", "enthalpy": "H"}
NOISE = {"density": 40.0, "viscosity": 1e-5, "conductivity": 0.1, "sound": 50.0, "enthalpy": 5e4}
"""The standard deviation of the noise, in the unit of each task: a fiftieth to two fifths of its spread."""


def water(seed: int) -> Table:
    """Return states of water, between 280 and 800 K and between 0.03 and 30 MPa.

    Raises:
        MissingExtraError: without CoolProp.
    """
    require("evidence", "CoolProp")
    from CoolProp.CoolProp import PropsSI

    random = np.random.default_rng(seed)
    temperature, pressure = random.uniform(280.0, 800.0, ROWS), 10.0 ** random.uniform(4.5, 7.5, ROWS)
    state = ("T", temperature, "P", pressure, "Water")
    labels: dict[str, Any] = {task: np.asarray(PropsSI(symbol, *state)) for task, symbol in SYMBOLS.items()}
    parts = split_rows(np.arange(ROWS), seed)
    for task, noise in NOISE.items():
        labels[task] = labels[task] + ~parts[2] * random.normal(0.0, noise, ROWS)
    labels["phase"] = np.unique(PropsSI("Phase", *state), return_inverse=True)[1]
    return make_table(TASKS, np.stack([temperature, np.log(pressure)], axis=1), labels, parts)
