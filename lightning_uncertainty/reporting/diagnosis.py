"""The rules that find what stands out in the history of a run; :mod:`~lightning_uncertainty.findings` has the texts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from itertools import chain, pairwise

import torch

from lightning_uncertainty import findings
from lightning_uncertainty.findings import SEVERITIES, Diagnosis, Finding, counted
from lightning_uncertainty.likelihoods import LIKELIHOODS
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.markup import for_notebook

__all__ = ["Diagnoses", "diagnose", "last_loss", "shares_at_the_end"]

FEW = 5  # points: of fewer, a mean is too noisy to be told

_LOUDER = {  # a weight that explodes also moves or meets its bound: that is said once
    Finding.AT_BOUND: {Finding.EXPLODES},
    Finding.MOVING: {Finding.EXPLODES, Finding.NEGATIVE_LOSS},
    Finding.LEARNED_NOTHING: {Finding.NO_CROSS_ENTROPY},
    Finding.DROWNS: {Finding.MOSTLY_ABSENT, Finding.EXPLODES, Finding.AT_BOUND, Finding.MOVING},
}
_MOOT = {  # what is said of sigma and of the shares while the network is lost, such as to train longer
    *(Finding.NONFINITE, Finding.MOVING, Finding.AT_BOUND, Finding.DOMINATES, Finding.DROWNS, Finding.ALL_EQUAL),
    *(Finding.MOSTLY_ABSENT, Finding.LEARNED_NOTHING, Finding.OVERFITS, Finding.TOO_SHORT),
}


class Diagnoses(list[Diagnosis]):
    """A list of diagnoses, which a notebook shows as sentences."""

    def _repr_html_(self) -> str:
        return for_notebook([], found=[(each.finding.severity, str(each)) for each in self])


def diagnose(history: History) -> Diagnoses:
    """Return all findings, faults first. The list is never empty: that nothing was found is a finding too.

    Raises:
        ValueError: If the history has no points.
    """
    if not len(history):
        raise ValueError("There is nothing to diagnose: the history has no points.")
    if not any(fact.nonfinite or fact.dropped or _known(history, "raw_loss", n) for n, fact in history.facts.items()):
        return Diagnoses([Finding.UNWEIGHED.about(None)])
    rules = _of_losses, _of_the_end, _of_sigma
    of_tasks = chain(*(rule(history, name) for name in history.tasks for rule in rules))
    found = [*of_tasks, *_of_shares(history), *_of_pairs(history), *_of_the_run(history)]
    kinds: dict[str | None, set[Finding]] = {name: set() for name in (*history.tasks, None)}
    for each in found:
        kinds[each.task].add(each.finding)
    found = [each for each in found if kinds[each.task].isdisjoint(_LOUDER.get(each.finding, ()))]
    if any(each.finding in (Finding.DEAD, Finding.DIVERGED) for each in found):
        found = [each for each in found if each.finding not in _MOOT]
    if all(each.finding.severity == "fine" for each in found):
        found.append(Finding.NOTHING.about(None))
    order = list(Finding)
    found.sort(key=lambda each: (SEVERITIES.index(each.finding.severity), order.index(each.finding)))
    return Diagnoses(found)


def shares_at_the_end(history: History) -> dict[str, float]:
    """Return the mean share of each task at the end; nothing if a negative loss leaves no sum to have a part of."""
    if any(min(_known(history, "raw_loss", name), default=0.0) < 0.0 for name in history.tasks):
        return {}
    ends = {name: _at_the_end(history, shares) for name, shares in history.shares().items()}
    return {name: statistics.fmean(values) for name, values in ends.items() if values}


def last_loss(history: History, name: str) -> float:
    """Return the mean raw loss over the last tenth of the steps; NaN if there is none.

    Of few points it is the mean of the last five in the second half of the steps: a single mini-batch says little.
    """
    losses, steps = history.series("raw_loss", name), history.steps
    ends = _at_the_end(history, losses)
    if len(ends) < FEW:
        late = [loss for loss, step in zip(losses, steps, strict=True) if 2 * step > steps[0] + steps[-1]]
        ends = [loss for loss in late if not math.isnan(loss)][-FEW:]
    return statistics.fmean(ends or _known(history, "raw_loss", name)[-1:] or [math.nan])


def _of_losses(history: History, name: str) -> Iterator[Diagnosis]:
    fact, losses = history.facts[name], _known(history, "raw_loss", name)
    if fact.nonfinite:
        yield Finding.NONFINITE.about(name, calls=counted(fact.nonfinite, "call"))
    if fact.sat_out:
        yield Finding.SAT_OUT.about(name, steps=counted(fact.sat_out, "step"), strategy=history.strategy)
    if (lowest := _lowest(history, name)) < 0.0:
        yield Finding.NEGATIVE_LOSS.about(name, lowest=lowest, likelihood=fact.likelihood)
    classifies = fact.likelihood in ("softmax", "softmax_exact", "bernoulli")
    if classifies and losses and (loss := statistics.median(losses)) > findings.MOST_NATS:
        yield Finding.NO_CROSS_ENTROPY.about(name, loss=loss)
    if fact.learned and (part := fact.absent / max(history.steps[-1], 1)) > findings.MOSTLY:
        yield Finding.MOSTLY_ABSENT.about(name, part=part)


def _of_the_end(history: History, name: str) -> Iterator[Diagnosis]:
    fact, losses = history.facts[name], _known(history, "raw_loss", name)
    ends = _at_the_end(history, history.series("raw_loss", name))
    if fact.held:
        yield Finding.HELD.about(name)
    if fact.held or not (fact.learned and ends and losses[0] > 0.0 <= _lowest(history, name)):
        return
    first, last = losses[0], statistics.median(ends)
    guess = math.log(fact.classes or 1)
    if last > findings.DIVERGED * first:
        yield Finding.DIVERGED.about(name, factor=last / first, first=first, last=last)
    elif last >= (findings.GUESSED * guess or first) and not _is_too_short(history):
        guessed = f"a uniform guess among {fact.classes} classes ({guess:.3g})"
        yield Finding.LEARNED_NOTHING.about(name, last=last, reference=guessed if guess else f"the first ({first:.3g})")


def _of_sigma(history: History, name: str) -> Iterator[Diagnosis]:
    bound, change = history.facts[name].at_bound, _change(history, name)
    if bound:
        yield Finding.AT_BOUND.about(name, bound=bound, log_var=history.series("log_var", name)[-1])
    if change:
        direction = "rises" if change > 0.0 else "falls"
        yield Finding.MOVING.about(name, direction=direction, change=math.expm1(0.5 * abs(change)))
    learned, held_out = (history.series(quantity, name)[-1] for quantity in ("sigma", "sigma_val"))
    head = history.facts[name].likelihood == "nll"
    if head:  # training makes the mean squared z-score 1; above, and never lower, it is no more than not trained yet
        learned = max(1.0, min(_known(history, "sigma_val", name), default=1.0))
    able = learned if head else max(learned, _able(history, name))
    if held_out > findings.OPTIMISTIC * able and not _is_too_short(history):
        numbers = {"ratio": held_out / learned, "held_out": held_out, "learned": learned}
        yield Finding.OVERFITS.about(name, source="what it was at its best" if head else "the learned one", **numbers)
    growth = _growth(history, name)
    if growth and (change or bound == "lower"):
        losses = _known(history, "raw_loss", name)
        until = "until its bound held it" if bound == "lower" else "and still grows"
        yield Finding.EXPLODES.about(name, factor=growth, until=until, first=losses[0], last=losses[-1])


def _able(history: History, name: str) -> float:
    """Return the sigma of the training losses at the end, which a bound, a freeze or a regulariser may keep sigma from.

    Where they do not tell of it, it is infinite for a sigma that did not move, and else 0.
    """
    kind, loss = LIKELIHOODS.get(history.facts[name].likelihood), last_loss(history, name)
    if kind is not None and kind.learned and kind.rate and loss > 0.0:
        return math.exp(0.5 * float(kind.optimum(torch.tensor(loss, dtype=torch.float64))))
    moved = len(set(_at_the_end(history, history.series("log_var", name), before=1))) > 1
    return 0.0 if moved and not history.facts[name].at_bound else math.inf


def _of_shares(history: History) -> Iterator[Diagnosis]:
    any_learned = any(fact.learned for fact in history.facts.values())
    for name, share in shares_at_the_end(history).items():
        if share > findings.DOMINANT and not all(_growth(history, other) for other in history.tasks if other != name):
            yield Finding.DOMINATES.about(name, share=share)
        meant = any_learned and not history.facts[name].learned  # a fixed weight that is small beside learned ones
        if not meant and 0.0 <= share < findings.DROWNED / len(history.facts):
            yield Finding.DROWNS.about(name, share=share)


def _of_pairs(history: History) -> Iterator[Diagnosis]:
    """Yield the task with the largest factor if another is far below it whose loss did not fall."""
    factors = {
        n: history.series("factor", n)[-1] for n, fact in history.facts.items() if fact.learned and not fact.held
    }
    largest = max(factors, key=factors.__getitem__, default="")
    for other in sorted(factors, key=factors.__getitem__):
        losses, ends = _known(history, "raw_loss", other), _at_the_end(history, history.series("raw_loss", other))
        flat = ends and statistics.median(ends) > findings.FLAT * losses[0] > 0.0
        if flat and factors[largest] > findings.APART * factors[other] and not _is_too_short(history):
            apart = factors[largest] / factors[other] if factors[other] else math.inf
            numbers = {"factor": apart, "other": other, "first": losses[0], "last": statistics.median(ends)}
            yield Finding.COLLAPSE.about(largest, **numbers)
            return


def _of_the_run(history: History) -> Iterator[Diagnosis]:
    if (ratio := _largest_ratio(history)) <= findings.ALIKE:
        yield Finding.ALL_EQUAL.about(None, ratio=ratio)
    if _is_too_short(history):
        yield Finding.TOO_SHORT.about(None, points=len(history), steps=history.steps[-1] - history.steps[0] + 1)
    if dead := max(fact.dead for fact in history.facts.values()):
        yield Finding.DEAD.about(None, steps=dead)
    if dropped := max((fact.dropped for fact in history.facts.values()), default=0):
        yield Finding.DROPPED.about(None, steps=dropped)
    losses = [loss for name in history.tasks for loss in _known(history, "raw_loss", name)]
    if history.totals[-1] < 0.0 <= min(losses, default=-1.0):
        yield Finding.NEGATIVE_TOTAL.about(None, total=history.totals[-1])


def _lowest(history: History, name: str) -> float:
    """Return the lowest raw loss of a task; 0 if nothing forbids that it is negative."""
    fact = history.facts[name]
    judged = fact.learned and fact.likelihood != "softmax_exact"
    return min(_known(history, "raw_loss", name), default=0.0) if judged else 0.0


def _growth(history: History, name: str) -> float:
    """Return the growth of sigma^-2 since the start if it is large because the loss vanishes, else 0."""
    losses, log_vars = _known(history, "raw_loss", name), _known(history, "log_var", name)
    rise = log_vars[0] - log_vars[-1] if log_vars and history.facts[name].learned else 0.0
    vanishes = rise > math.log(findings.EXPLODED) and losses and 0.0 <= 100.0 * losses[-1] < losses[0]
    return math.exp(rise) if vanishes else 0.0


def _change(history: History, name: str) -> float:
    """Return the change of ``s`` at the end; 0 if it has settled, or if nobody could tell."""
    if _is_too_short(history) or not history.facts[name].learned:
        return 0.0
    log_vars = _at_the_end(history, history.series("log_var", name), before=1)
    path = math.fsum(abs(b - a) for a, b in pairwise(log_vars))
    net = log_vars[-1] - log_vars[0] if log_vars else 0.0
    return net if abs(net) > 2.0 * math.log(1.0 + findings.MOVED) and abs(net) > findings.STRAIGHT * path else 0.0


def _is_too_short(history: History) -> bool:
    span = history.steps[-1] - history.steps[0] + 1
    learned = any(fact.learned for fact in history.facts.values())
    return learned and (len(history) < findings.FEWEST_POINTS or span < findings.FEWEST_STEPS)


def _largest_ratio(history: History) -> float:
    """Return the largest ratio of two factors in the second half, less 1; infinite if there is nothing to compare."""
    facts = history.facts.values()  # an exact softmax is not weighed but tempered
    if len(facts) < 2 or not any(f.learned for f in facts) or any(f.likelihood == "softmax_exact" for f in facts):
        return math.inf
    late = history.steps[0] + 0.5 * (history.steps[-1] - history.steps[0])
    first = next(index for index, step in enumerate(history.steps) if step >= late)
    if any(math.isnan(history.series("log_var", name)[first]) for name in history.tasks if history.facts[name].learned):
        return math.inf  # without s, the factor is a placeholder
    rows = zip(*(history.series("factor", name)[first:] for name in history.tasks), strict=True)
    return max(max(row) / min(row) - 1.0 if min(row) > 0.0 else math.inf for row in rows)


def _known(history: History, quantity: str, name: str) -> list[float]:
    return [value for value in history.series(quantity, name) if not math.isnan(value)]


def _at_the_end(history: History, values: list[float], before: int = 0) -> list[float]:
    """Return the known values of the last tenth of the steps, and so many before them."""
    steps = history.steps
    begin = steps[-1] - findings.LAST_PART * (steps[-1] - steps[0])
    first = next(index for index, step in enumerate(steps) if step > begin or index == len(steps) - 1)
    return [value for value in values[max(first - before, 0) :] if not math.isnan(value)]
