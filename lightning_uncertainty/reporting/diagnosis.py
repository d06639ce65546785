"""The rules that find what stands out in the history of a run; :mod:`~lightning_uncertainty.findings` has the texts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from lightning_uncertainty.findings import (
    ALIKE,
    DOMINANT,
    DROWNED,
    EXPLODED,
    FEWEST_POINTS,
    FEWEST_STEPS,
    LAST_PART,
    MOST_NATS,
    MOSTLY,
    MOVED,
    STRAIGHT,
    Diagnosis,
    Finding,
    counted_calls,
)
from lightning_uncertainty.reporting.history import History

__all__ = ["diagnose", "shares_at_the_end", "verdicts"]


def diagnose(history: History) -> list[Diagnosis]:
    """Return all findings, faults first. The list is never empty: that nothing was found is a finding too.

    Raises:
        ValueError: If the history has no points.
    """
    if not len(history):
        raise ValueError("There is nothing to diagnose: the history has no points.")
    found = [finding.about(task, **numbers) for finding, check in _CHECKS.items() for task, numbers in check(history)]
    found = [each for each in found if not _is_said_already(each, found)]
    if all(each.finding.severity == "fine" for each in found):
        found.append(Finding.NOTHING.about(None))
    order = list(Finding)
    return sorted(found, key=lambda each: (_SEVERITIES.index(each.finding.severity), order.index(each.finding)))


def verdicts(history: History, found: list[Diagnosis]) -> dict[str, str]:
    """Return a few words about each task."""
    words: dict[str, list[str]] = {name: [] for name in history.tasks}
    for each in found:
        if each.task is not None:
            words[each.task].append(each.verdict)
    fine = "too short" if any(each.finding is Finding.TOO_SHORT for each in found) else "fine"
    return {
        name: ", ".join(said) or (fine if history.facts[name].learned else "fixed weight")
        for name, said in words.items()
    }


_LOUDER = {
    Finding.AT_BOUND: (Finding.EXPLODES,),
    Finding.MOVING: (Finding.EXPLODES, Finding.NEGATIVE_LOSS),
    Finding.DROWNS: (Finding.MOSTLY_ABSENT, Finding.EXPLODES, Finding.AT_BOUND, Finding.MOVING),
}
_SEVERITIES = ("fault", "look", "fine")


def _is_said_already(each: Diagnosis, found: list[Diagnosis]) -> bool:
    """Return whether a louder finding says it: a weight that explodes also moves or meets its bound."""
    others = {other.finding for other in found if other.task == each.task}
    return not others.isdisjoint(_LOUDER.get(each.finding, ()))


# ---------------------------------------------------------------------------------------------------- the rules

_Found = Iterator[tuple[str | None, dict[str, Any]]]


def _nonfinite(history: History) -> _Found:
    for name, fact in history.facts.items():
        if fact.nonfinite:
            yield name, {"calls": counted_calls(fact.nonfinite)}


def _negative_loss(history: History) -> _Found:
    for name in _learned(history):
        lowest = min(_known(history.series("raw_loss", name)), default=0.0)
        likelihood = history.facts[name].likelihood
        if lowest < 0.0 and likelihood != "softmax_exact":
            yield name, {"lowest": lowest, "likelihood": likelihood}


def _no_cross_entropy(history: History) -> _Found:
    for name, fact in history.facts.items():
        losses = _known(history.series("raw_loss", name))
        if fact.likelihood in ("softmax", "softmax_exact", "bernoulli") and losses:
            loss = statistics.median(losses)
            if loss > MOST_NATS:
                yield name, {"loss": loss}


def _explodes(history: History) -> _Found:
    moving = {name for name, _ in _moving(history)}
    for name, factor in _gone_to_zero(history).items():
        held = history.facts[name].at_bound == "lower"
        if held or name in moving:
            losses = _known(history.series("raw_loss", name))
            until = "until its bound held it" if held else "and still grows"
            yield name, {"factor": factor, "until": until, "first": losses[0], "last": losses[-1]}


def _gone_to_zero(history: History) -> dict[str, float]:
    """Return the growth of sigma^-2 since the start, of the tasks where it is large because their losses vanish."""
    grown = {}
    for name in _learned(history):
        losses, log_vars = _known(history.series("raw_loss", name)), _known(history.series("log_var", name))
        rise = log_vars[0] - log_vars[-1] if log_vars else 0.0
        if rise > math.log(EXPLODED) and losses and 0.0 <= 100.0 * losses[-1] < losses[0]:
            grown[name] = math.exp(rise)
    return grown


def _at_bound(history: History) -> _Found:
    for name, fact in history.facts.items():
        if fact.at_bound:
            yield name, {"bound": fact.at_bound, "log_var": history.series("log_var", name)[-1]}


def _mostly_absent(history: History) -> _Found:
    for name, fact in history.facts.items():
        part = fact.absent / max(history.steps[-1], 1)
        if part > MOSTLY:
            yield name, {"part": part}


def _moving(history: History) -> _Found:
    if any(True for _ in _too_short(history)):
        return
    for name in _learned(history):
        log_vars = _known(_at_the_end(history, history.series("log_var", name), before=1))
        path = math.fsum(abs(b - a) for a, b in pairwise(log_vars))
        net = log_vars[-1] - log_vars[0] if log_vars else 0.0
        if abs(net) > 2.0 * math.log(1.0 + MOVED) and abs(net) > STRAIGHT * path:
            direction = "rises" if net > 0.0 else "falls"
            yield name, {"direction": direction, "change": math.expm1(0.5 * abs(net)), "last_part": LAST_PART}


def _dominates(history: History) -> _Found:
    beside_it = history.facts.keys() - _gone_to_zero(history).keys()
    for name, share in shares_at_the_end(history).items():
        if share > DOMINANT and beside_it - {name}:
            yield name, {"share": share}


def _drowns(history: History) -> _Found:
    for name, share in shares_at_the_end(history).items():
        if 0.0 <= share < DROWNED / len(history.tasks):
            yield name, {"share": share}


def _all_equal(history: History) -> _Found:
    late = history.steps[0] + 0.5 * (history.steps[-1] - history.steps[0])
    weights = [_weights(history, name) for name in history.tasks]
    rows = [row for step, row in zip(history.steps, zip(*weights, strict=True), strict=True) if step >= late]
    ratios = [max(row) / min(row) - 1.0 if min(row) > 0.0 else math.inf for row in rows]
    kinds = {fact.likelihood for fact in history.facts.values()}  # an exact softmax is not weighed but tempered
    if len(weights) > 1 and any(_learned(history)) and "softmax_exact" not in kinds and max(ratios) <= ALIKE:
        yield None, {"ratio": max(ratios)}


def _weights(history: History, name: str) -> list[float]:
    """Return the factors before a loss; 0 as long as there is no ``s``, where the factor is a placeholder."""
    weights, log_vars = history.series("factor", name), history.series("log_var", name)
    known = zip(weights, log_vars, strict=True)
    return [0.0 if math.isnan(log_var) and history.facts[name].learned else weight for weight, log_var in known]


def _too_short(history: History) -> _Found:
    span = history.steps[-1] - history.steps[0] + 1
    if any(_learned(history)) and (len(history) < FEWEST_POINTS or span < FEWEST_STEPS):
        yield None, {"points": len(history), "steps": span}


def _negative_total(history: History) -> _Found:
    lowest = min((x for name in history.tasks for x in _known(history.series("raw_loss", name))), default=-1.0)
    if history.totals[-1] < 0.0 <= lowest:
        yield None, {"total": history.totals[-1]}


_CHECKS: dict[Finding, Callable[[History], _Found]] = {
    Finding.NONFINITE: _nonfinite,
    Finding.NEGATIVE_LOSS: _negative_loss,
    Finding.NO_CROSS_ENTROPY: _no_cross_entropy,
    Finding.EXPLODES: _explodes,
    Finding.AT_BOUND: _at_bound,
    Finding.MOSTLY_ABSENT: _mostly_absent,
    Finding.MOVING: _moving,
    Finding.DOMINATES: _dominates,
    Finding.DROWNS: _drowns,
    Finding.ALL_EQUAL: _all_equal,
    Finding.TOO_SHORT: _too_short,
    Finding.NEGATIVE_TOTAL: _negative_total,
}


def _learned(history: History) -> list[str]:
    return [name for name, fact in history.facts.items() if fact.learned]


def _known(values: list[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _at_the_end(history: History, values: list[float], before: int = 0) -> list[float]:
    """Return the values of the last tenth of the steps, and so many before them."""
    steps = history.steps
    begin = steps[-1] - LAST_PART * (steps[-1] - steps[0])
    first = next(index for index, step in enumerate(steps) if step > begin or index == len(steps) - 1)
    return values[max(first - before, 0) :]


def shares_at_the_end(history: History) -> dict[str, float]:
    """Return the mean share of each task at the end; nothing if a negative loss leaves no sum to have a part of."""
    if any(True for _ in _negative_loss(history)):
        return {}
    ends = {name: _known(_at_the_end(history, shares)) for name, shares in history.shares().items()}
    return {name: statistics.fmean(values) for name, values in ends.items() if values}
