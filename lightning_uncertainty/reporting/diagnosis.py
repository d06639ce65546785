"""What the history of a run gives reason to say: findings as sentences with a remedy, each by a written rule."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any, Literal

from lightning_uncertainty.reporting.history import History

__all__ = ["Diagnosis", "Finding", "diagnose", "shares_at_the_end", "verdicts"]

LAST_PART = 0.1  # of the steps: what "at the end" means
FEWEST_STEPS, FEWEST_POINTS = 200, 10  # below, sigma has no time to arrive, and nobody could tell
MOVED, STRAIGHT = 0.1, 0.8  # change of sigma at the end, and how much of its way there is in one direction
EXPLODED = 1000.0  # growth of sigma^-2 since the start
MOSTLY = 0.5  # of the steps
DOMINANT = 0.9  # share
DROWNED = 0.05  # of an equal share
ALIKE = 0.05  # ratio of weights, less 1
MOST_NATS = math.log(1e5)  # a uniform guess among 100,000 classes

Severity = Literal["fault", "look", "fine"]


@dataclass(frozen=True)
class _Text:
    severity: Severity
    verdict: str
    sentence: str
    remedy: str
    rule: str


class Finding(Enum):
    """What can be found. The value of a member has its texts; ``{...}`` in them is filled in by :func:`diagnose`.

    >>> Finding.AT_BOUND.rule
    'A bound holds s at the last step.'
    """

    NEGATIVE_LOSS = _Text(
        "fault",
        "negative loss",
        "The loss of task {task!r} was negative (lowest: {lowest:.3g}), which its likelihood does not allow for.",
        "Its weight then only grows. If the loss is already a log-likelihood, give the task a fixed weight: "
        "`tasks={{{task!r}: 1.0}}`.",
        "A recorded raw loss is below 0, and the task is learned.",
    )
    NO_CROSS_ENTROPY = _Text(
        "fault",
        "no mean cross entropy?",
        "The loss of task {task!r} is {loss:.3g} nats, more than a uniform guess among 100,000 classes costs.",
        "A loss summed over pixels or tokens has to be averaged; what is no cross entropy needs another likelihood.",
        f"The likelihood is that of a classification, and the median raw loss is over ln(100,000) = {MOST_NATS:.1f}.",
    )
    NONFINITE = _Text(
        "look",
        "not finite",
        "The loss of task {task!r} was NaN or infinite in {calls}, and the task sat out there.",
        'That is as it should be where labels were missing. If it diverged, find out where with `nonfinite="raise"`.',
        "Its loss was NaN or infinite at least once.",
    )
    EXPLODES = _Text(
        "look",
        "its weight explodes",
        "The weight of task {task!r} grew {factor:.3g} times (as sigma^-2) {until}, because its loss goes to zero "
        "({first:.3g} to {last:.3g}).",
        "It may be overfitted: look at its validation loss. To hold the weight, use `freeze_after`, or raise "
        "`min_variance_ratio`, for example to 0.01.",
        f"sigma^-2 has grown over {EXPLODED:,.0f}-fold since the start, its loss fell over 100-fold, and at the end "
        f"the lower bound holds s, or sigma still changed by over {MOVED:.0%}.",
    )
    AT_BOUND = _Text(
        "look",
        "at its {bound} bound",
        "The log-variance of task {task!r} is held by its {bound} bound (s = {log_var:.3g}).",
        "Its weight no longer follows its loss. If you did not want that, set `min_variance_ratio` or `bounds`.",
        "A bound holds s at the last step.",
    )
    MOSTLY_ABSENT = _Text(
        "look",
        "mostly missing",
        "Task {task!r} took no part in {part:.0%} of the steps.",
        "Its weight rests on few losses. Check that its labels reach training_step; sample its data more often.",
        f"It sat out, left out or NaN, in over {MOSTLY:.0%} of the steps.",
    )
    MOVING = _Text(
        "look",
        "still moving",
        "Sigma of task {task!r} still {direction} at the end: by {change:.0%} in the last {last_part:.0%} of steps.",
        "Train longer, or raise the learning rate of the weights: `lr=0.02`.",
        f"Sigma changed by over {MOVED:.0%} from the last point before the last {LAST_PART:.0%} of the steps to the "
        f"end, in one direction but for {1 - STRAIGHT:.0%} of its way.",
    )
    DOMINATES = _Text(
        "look",
        "dominates",
        "Task {task!r} is {share:.0%} of the weighted loss at the end.",
        "The others hardly count, because its sigma is small for its loss. Train longer or raise `lr`, so that sigma "
        "arrives; else check `bounds` and the fixed weights.",
        f"Its mean share at the end (the last {LAST_PART:.0%} of the steps) is over {DOMINANT:.0%}. Tasks whose loss "
        "went to zero do not count beside it: with no others, none dominates.",
    )
    DROWNS = _Text(
        "look",
        "drowns",
        "Task {task!r} is only {share:.2%} of the weighted loss at the end.",
        "It hardly counts. Check its fixed weight or its bounds, and whether its loss is as it should be.",
        f"Its mean share at the end is below {DROWNED:.0%} of an equal share.",
    )
    ALL_EQUAL = _Text(
        "look",
        "as equal weights",
        "All losses are weighed alike, within {ratio:.1%}.",
        "The plugin changed little: equal weights would do.",
        f"In the second half of the steps all tasks have had a loss, and the largest factor before a loss is at most "
        f"{ALIKE:.0%} above the smallest.",
    )
    TOO_SHORT = _Text(
        "look",
        "too short",
        "The history has {points} points over {steps} steps, too few to tell whether sigma has arrived.",
        "Train longer, or log more often: `log_every_n_steps`.",
        f"It has fewer than {FEWEST_POINTS} points, or spans fewer than {FEWEST_STEPS} steps.",
    )
    NEGATIVE_TOTAL = _Text(
        "fine",
        "negative total",
        "The weighted total is negative ({total:.3g}). This is right: log sigma is negative for a sigma below 1.",
        "Monitor `uncertainty/loss`, the sum of the raw losses, and not the total.",
        "The total of the last step, regularisers included, is below 0, and no raw loss is.",
    )
    NOTHING = _Text(
        "fine",
        "fine",
        "Nothing stands out{where}: every sigma has settled, and no task dominates or drowns.",
        "Judge the result by the metrics of each task, not by the weights.",
        "No other finding, but for those that are fine.",
    )

    @property
    def severity(self) -> Severity:
        """``"fault"``: mend it; ``"look"``: have a look; ``"fine"``: good to know."""
        return self.value.severity

    @property
    def verdict(self) -> str:
        """In a few words, for a table."""
        return self.value.verdict

    @property
    def sentence(self) -> str:
        """What is the case."""
        return self.value.sentence

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return self.value.remedy

    @property
    def rule(self) -> str:
        """When it is found."""
        return self.value.rule


@dataclass(frozen=True)
class Diagnosis:
    """A finding with its numbers.

    Attributes:
        finding: which.
        task: whose; None if it is of the whole run.
        sentence: what is the case.
        remedy: what to do about it.
        verdict: in a few words.
    """

    finding: Finding
    task: str | None
    sentence: str
    remedy: str
    verdict: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.remedy}"


def diagnose(history: History) -> list[Diagnosis]:
    """All findings, faults first; never empty: that nothing was found is a finding too.

    Raises:
        ValueError: if the history has no points.
    """
    if not len(history):
        raise ValueError("There is nothing to diagnose: the history has no points.")
    found = [_filled(finding, *each) for finding, check in _CHECKS.items() for each in check(history)]
    found = [each for each in found if not _is_said_already(each, found)]
    if all(each.finding.severity == "fine" for each in found):
        counted = all(fact.absent is not None for fact in history.facts.values())
        where = "" if counted else " in what was logged, which does not say how often a task was missing or not finite"
        found.append(_filled(Finding.NOTHING, None, {"where": where}))
    order = list(Finding)
    return sorted(found, key=lambda each: (_SEVERITIES.index(each.finding.severity), order.index(each.finding)))


def verdicts(history: History, found: list[Diagnosis]) -> dict[str, str]:
    """What to say of each task in a few words."""
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


def _filled(finding: Finding, task: str | None, numbers: Mapping[str, Any]) -> Diagnosis:
    texts = (finding.sentence, finding.remedy, finding.verdict)
    return Diagnosis(finding, task, *(text.format(task=task, **numbers) for text in texts))


def _is_said_already(each: Diagnosis, found: list[Diagnosis]) -> bool:
    """A weight that explodes also moves or meets its bound; a task that is hardly there also drowns."""
    others = {other.finding for other in found if other.task == each.task}
    return not others.isdisjoint(_LOUDER.get(each.finding, ()))


# ---------------------------------------------------------------------------------------------------- the rules

_Found = Iterator[tuple[str | None, dict[str, Any]]]


def _nonfinite(history: History) -> _Found:
    for name, fact in history.facts.items():
        if fact.nonfinite:
            yield name, {"calls": f"{fact.nonfinite} call{'s' if fact.nonfinite > 1 else ''}"}


def _negative_loss(history: History) -> _Found:
    for name in _learned(history):
        lowest = min(_known(history.series("raw_loss", name)), default=0.0)
        if lowest < 0.0 and history.facts[name].likelihood != "softmax_exact":
            yield name, {"lowest": lowest}


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
    """By how much sigma^-2 grew since the start, for the tasks where it is much because their losses vanish."""
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
        part = (fact.absent or 0) / max(history.steps[-1], 1)
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
    """The factors before a loss; 0 as long as there is no s, where what stands there is a placeholder."""
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
    """Those of the last tenth of the steps, and so many before them."""
    steps = history.steps
    begin = steps[-1] - LAST_PART * (steps[-1] - steps[0])
    first = next(index for index, step in enumerate(steps) if step > begin or index == len(steps) - 1)
    return values[max(first - before, 0) :]


def shares_at_the_end(history: History) -> dict[str, float]:
    """Mean share of each task that has any; none where a negative loss leaves no sum to have a part of."""
    if any(True for _ in _negative_loss(history)):
        return {}
    ends = {name: _known(_at_the_end(history, shares)) for name, shares in history.shares().items()}
    return {name: statistics.fmean(values) for name, values in ends.items() if values}
