"""2,417 genes of yeast [Elisseeff and Weston 2001, shipped in river]: from 103 measurements to 14 groups of functions.

The negative control: fourteen losses of the same kind and of about the same size.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from experiments.evidence.table import Table, make_table, split_rows
from lightning_uncertainty.demo.diamonds import packaged_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TASKS", "genes"]

TASKS = {f"class_{number}": {"likelihood": "bernoulli"} for number in range(1, 15)}


def genes(seed: int) -> Table:
    """Return all genes."""
    table = _read()
    inputs, labels = table.filter(like="Att").to_numpy("float64"), table.filter(like="Class").to_numpy("int64")
    return make_table(TASKS, inputs, dict(zip(TASKS, labels.T, strict=True)), split_rows(np.arange(len(table)), seed))


@cache
def _read() -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(packaged_file("river", "datasets/yeast.csv.gz", extra="evidence"))
