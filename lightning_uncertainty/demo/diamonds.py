"""53,940 diamonds [ggplot2, shipped in plotnine]: from five measurements to price, weight and three grades."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_uncertainty.demo.dataset import DataSet, Table
from lightning_uncertainty.demo.packaged import packaged_file
from lightning_uncertainty.demo.target import Category, Quantity

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DIAMONDS"]

MEASUREMENTS = ["x", "y", "z", "depth", "table"]
GRADES = {
    "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
    "color": list("DEFGHIJ"),
    "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
}


def read() -> Table:
    """All diamonds that :func:`clean` keeps.

    Raises:
        MissingExtraError: without plotnine.
    """
    import pandas as pd

    return table(clean(pd.read_csv(packaged_file("plotnine", "data/diamonds.csv"))))


def clean(diamonds: pd.DataFrame) -> pd.DataFrame:
    """Without the duplicates, and without the stones of which a size was entered as zero."""
    distinct = diamonds.drop_duplicates()
    return distinct[(distinct[["x", "y", "z"]] > 0.0).all(axis="columns")]


def table(diamonds: pd.DataFrame) -> Table:
    """Inputs and labels; every stone is a group of its own."""
    import pandas as pd

    grades = {name: pd.Categorical(diamonds[name], classes).codes for name, classes in GRADES.items()}
    return Table(
        inputs=diamonds[MEASUREMENTS].astype("float32"),
        labels=diamonds[["price", "carat"]].assign(**grades),
        group=diamonds.index.to_series(),
    )


DIAMONDS = DataSet(
    name="diamonds",
    packages=("plotnine",),
    targets=(
        Quantity("price", "$"),
        Quantity("carat", "ct"),
        *(Category(name, len(classes)) for name, classes in GRADES.items()),
    ),
    read=read,
    epochs=20,
    batch_size=512,
)
