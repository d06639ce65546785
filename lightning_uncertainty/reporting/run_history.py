"""The history of a run as people use it: shown in a notebook, drawn, and given to pandas."""

from __future__ import annotations

import io
import math
from functools import partial
from typing import TYPE_CHECKING

from lightning_uncertainty._arguments import require
from lightning_uncertainty.reporting.figures import overview
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.summary import as_html, summarize

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["RunHistory"]

QUANTITIES = ("raw_loss", "precision", "factor", "sigma", "sigma_val", "share")


class RunHistory(History):
    """The history of a run, ``callback.history``. A notebook shows it as the table and the findings of the summary."""

    def _repr_html_(self) -> str:
        """Return the summary for a notebook."""
        return as_html(summarize(self)) if len(self) else "No point yet: the history begins with the first step."

    def plot(self) -> Figure:
        """Draw one page with all plots and the first findings, see :func:`~.figures.overview`.

        Raises:
            ValueError: If there are no points.
            MissingExtraError: If matplotlib is not installed.
        """
        figure = overview(self)
        # Made without pyplot, which would choose a window system, a figure has no form for a notebook yet.
        vars(figure)["_repr_png_"] = partial(_png, figure)
        return figure

    def to_frame(self) -> pd.DataFrame:
        """Return a table of pandas with a row for each point: ``history.to_frame()["raw_loss"].plot(logy=True)``.

        Its index is the optimizer step. Its columns have two levels, quantity and task: ``raw_loss``, ``precision``
        (the weight that is logged), ``factor``, ``sigma``, ``sigma_val`` and ``share``, as in ``series``; those
        without any value are left out. ``total`` is the weighted sum with regularisers.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        require("report", "pandas")
        import pandas as pd

        shares = self.shares()
        columns = {
            (quantity, name): shares[name] if quantity == "share" else self.series(quantity, name)
            for quantity in QUANTITIES
            for name in self.tasks
        }
        known = {key: values for key, values in columns.items() if not all(map(math.isnan, values))}
        known["total", ""] = self.totals
        header = pd.MultiIndex.from_tuples(known, names=["quantity", "task"])
        rows = list(zip(*known.values(), strict=True))
        return pd.DataFrame(rows, index=pd.Index(self.steps, name="step"), columns=header)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
