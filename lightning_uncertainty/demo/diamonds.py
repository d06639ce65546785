"""53,940 diamonds [ggplot2, shipped in plotnine]: from five measurements to price, weight and three grades."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lightning_uncertainty._arguments import MissingExtraError, require
from lightning_uncertainty.demo.data import Batch, TensorData
from lightning_uncertainty.demo.model import MultiTaskNet

if TYPE_CHECKING:
    import pandas as pd

INPUTS = ["x", "y", "z", "depth", "table"]
GRADES = {
    "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
    "color": list("DEFGHIJ"),
    "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
}
CLASSES = {name: len(grades) for name, grades in GRADES.items()}
TASKS = {
    "price": {"likelihood": "gaussian", "unit": "$"},
    "carat": {"likelihood": "gaussian", "unit": "ct"},
    **{name: {"likelihood": "softmax"} for name in GRADES},
}


def make_net(scales: dict[str, list[float]]) -> MultiTaskNet:
    """Return a new network, with the scales of :meth:`TensorData.label_scales`."""
    return MultiTaskNet(TASKS, num_inputs=len(INPUTS), classes=CLASSES, scales=scales)


def make_data(rows: int | None = None, seed: int = 0) -> TensorData:
    """Return diamonds with standardised inputs and with labels in their natural units; a fifth of them is held out.

    The file is sorted, so ``rows`` of it, by default all, are chosen at random.
    """
    diamonds = read()
    if rows is not None:
        diamonds = diamonds.sample(min(rows, len(diamonds)), random_state=seed)
    tested = diamonds.index.isin(diamonds.index.to_series().sample(frac=0.2, random_state=seed))
    inputs = diamonds[INPUTS].astype("float32")
    diamonds[INPUTS] = (inputs - inputs[~tested].mean()) / inputs[~tested].std()
    return TensorData(_tensors(diamonds[~tested]), _tensors(diamonds[tested]), batch_size=512, seed=seed)


def _tensors(diamonds: pd.DataFrame) -> Batch:
    kinds = {task: "int64" if task in CLASSES else "float32" for task in TASKS}
    labels = {task: torch.tensor(diamonds[task].to_numpy(kind)) for task, kind in kinds.items()}
    return torch.tensor(diamonds[INPUTS].to_numpy("float32")), labels


def read() -> pd.DataFrame:
    """Return all diamonds without duplicates, and without stones of which a size was entered as zero."""
    require("demo", "pandas", "plotnine")
    import pandas as pd

    diamonds = pd.read_csv(packaged_file("plotnine", "data/diamonds.csv")).drop_duplicates()
    diamonds = diamonds[(diamonds[["x", "y", "z"]] > 0.0).all(axis="columns")]
    return diamonds.assign(**{name: pd.Categorical(diamonds[name], order).codes for name, order in GRADES.items()})


def packaged_file(package: str, name: str, *, extra: str = "demo") -> Path:
    """Return the path of a data file inside an installed package, which is only located: importing it takes seconds."""
    require(extra, package)
    spec = find_spec(package)
    found = [Path(folder, name) for folder in (spec and spec.submodule_search_locations) or ()]
    if not (found and found[0].is_file()):
        advice = f'Install the one that was tested: pip install --force-reinstall "lightning-uncertainty[{extra}]"'
        raise MissingExtraError(f"The installed {package!r} has no file {name!r}. {advice}")
    return found[0]
