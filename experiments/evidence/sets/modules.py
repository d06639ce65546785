"""21,535 solar modules of the Californian list [CEC, shipped in pvlib]: from the data sheet to the five parameters.

The parameters of the single-diode model are in their units, from 1e-9 A to 1,000 ohms, and some have a long tail:
absolute errors bear that.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from experiments.evidence.table import Table, make_table, split_rows
from lightning_uncertainty.demo.diamonds import packaged_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TASKS", "parameters"]

ROWS = 12_000
TASKS = {
    "light_current": {"likelihood": "laplace", "unit": "A"},
    "dark_current": {"likelihood": "laplace", "unit": "A"},
    "series_resistance": {"likelihood": "laplace", "unit": "ohm"},
    "shunt_resistance": {"likelihood": "laplace", "unit": "ohm"},
    "ideality": {"likelihood": "laplace", "unit": "V"},
}
COLUMNS = ["I_L_ref", "I_o_ref", "R_s", "R_sh_ref", "a_ref"]
SHEET = [
    "STC",
    "A_c",
    "N_s",
    "I_sc_ref",
    "V_oc_ref",
    "I_mp_ref",
    "V_mp_ref",
    "alpha_sc",
    "beta_oc",
    "gamma_r",
    "T_NOCT",
]


def parameters(seed: int) -> Table:
    """Return modules with labels in their units; all modules of a maker are in the same part."""
    modules = _read().sample(ROWS, random_state=seed)
    numbers = modules[SHEET].to_numpy("float64")
    kinds = np.stack([modules["Technology"] == kind for kind in sorted(set(_read()["Technology"]))], axis=1)
    labels = {task: modules[column].to_numpy("float64") for task, column in zip(TASKS, COLUMNS, strict=True)}
    makers = np.array([name.split()[0] for name in modules.index])
    return make_table(TASKS, np.concatenate([numbers, kinds], axis=1), labels, split_rows(makers, seed))


@cache
def _read() -> pd.DataFrame:
    import pandas as pd

    file = packaged_file("pvlib", "data/sam-library-cec-modules-2019-03-05.csv", extra="evidence")
    return pd.read_csv(file, index_col=0, skiprows=[1, 2])
