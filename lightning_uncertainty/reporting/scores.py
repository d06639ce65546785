"""The table of the scores of predictions on held-out data."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.tables import Table
from lightning_uncertainty.snapshot import COVERAGES, Score

__all__ = ["SCORE_NOTE", "score_table", "scores_of"]

HEADER = ("task", "predictions", *(f"{percent} %" for percent in COVERAGES), "mean z^2", "CRPS", "ECE", "T", "NLL")
SCORE_NOTE = (
    "Predictions of the last validation (val) or test. 50 % ... 95 %: part of the targets inside the interval of that "
    "name. Mean z^2: 1 if the noise is right, above 1 if it is too small. T: temperature that the logits would best be "
    "divided by; above 1 if they are too sure. CRPS (in the unit of the target), ECE (of the confidence) and NLL (in "
    "nats): lower is better."
)


def scores_of(history: History) -> list[tuple[str, Score]]:
    """Return the tasks with their scores: of the last validation, and of the last test."""
    pairs = ((name, score) for name, fact in history.facts.items() for score in (fact.score, fact.test_score))
    return [(name, score) for name, score in pairs if score is not None]


def score_table(history: History) -> Table | None:
    """Return the table of the scores without empty columns; None if no prediction was scored."""
    rows = [[" ".join(name.split()), *_cells(score)] for name, score in scores_of(history)]
    if not rows:
        return None
    used = [place for place in range(len(HEADER)) if any(row[place] for row in rows)]
    return Table([HEADER[place] for place in used], [[row[place] for place in used] for row in rows])


def _cells(score: Score) -> Iterator[str]:
    yield f"{score.samples:,} {'val' if score.data == 'validation' else score.data}"
    numbers = score.numbers()
    for percent in COVERAGES:
        yield f"{numbers[f'coverage_{percent}']:.1%}" if score.coverage else ""
    for key in ("mean_squared_z", "crps", "ece", "temperature", "nll"):
        yield f"{numbers[key]:.4g}" if key in numbers else ""
