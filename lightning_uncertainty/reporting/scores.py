"""The table of the scores of predictions on held-out data."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.tables import Table
from lightning_uncertainty.snapshot import COVERAGES, Score

__all__ = ["SCORE_NOTE", "score_table", "scores_of"]

HEADER = ("task", "predictions", *(f"{percent} %" for percent in COVERAGES), "mean z^2", "CRPS", "ECE", "NLL")
SCORE_NOTE = (
    "Predictions of the last validation. 50 % ... 95 %: part of the targets inside the interval of that name. Mean "
    "z^2: 1 if the noise is right, above 1 if it is too small. CRPS (in the unit of the target), ECE (of the "
    "confidence) and NLL (in nats): lower is better."
)


def scores_of(history: History) -> dict[str, Score]:
    """Return the score of each task that has one."""
    return {name: fact.score for name, fact in history.facts.items() if fact.score is not None}


def score_table(history: History) -> Table | None:
    """Return the table of the scores without empty columns; None if no prediction was scored."""
    rows = [[" ".join(name.split()), *_cells(score)] for name, score in scores_of(history).items()]
    if not rows:
        return None
    used = [place for place in range(len(HEADER)) if any(row[place] for row in rows)]
    return Table([HEADER[place] for place in used], [[row[place] for place in used] for row in rows])


def _cells(score: Score) -> Iterator[str]:
    yield f"{score.samples:,}"
    numbers = score.numbers()
    for percent in COVERAGES:
        yield f"{numbers[f'coverage_{percent}']:.1%}" if score.coverage else ""
    for key in ("mean_squared_z", "crps", "ece", "nll"):
        yield f"{numbers[key]:.4g}" if key in numbers else ""
