"""The one table of what can be wrong with a run: each finding with its sentence, its remedy and its rule.

While a run trains, :func:`findings_of` asks what a single snapshot can answer. At the end,
:func:`~lightning_uncertainty.reporting.diagnosis.diagnose` asks the whole history.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, get_args

from lightning_uncertainty.snapshot import Snapshot

__all__ = ["Diagnosis", "Finding", "Severity", "counted", "findings_of"]

LAST_PART = 0.1  # of the steps: what "at the end" means
FEWEST_STEPS, FEWEST_POINTS = 200, 10  # below, sigma has no time to arrive, and nobody could tell
MOVED, STRAIGHT = 0.15, 0.8  # change of sigma at the end, and how much of its way there is in one direction
EXPLODED = 1000.0  # growth of sigma^-2 since the start
DIVERGED = 100.0  # growth of a loss since the start
APART = 1e4  # ratio of two factors
FLAT = 0.98  # of the first loss
GUESSED = 0.99  # of the cross entropy of a uniform guess
MOSTLY = 0.5  # of the steps
OPTIMISTIC = 1.25  # ratio of two sigmas, where 90 % intervals of the smaller one cover 81 %
DOMINANT = 0.9  # share
DROWNED = 0.05  # of an equal share
ALIKE = 0.05  # ratio of weights, less 1
MOST_NATS = math.log(1e5)  # a uniform guess among 100,000 classes

Severity = Literal["fault", "look", "fine"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(eq=False)
class _Texts:
    verdict: str
    sentence: str
    remedy: str
    rule: str
    severity: Severity = "look"


class Finding(_Texts, Enum):
    """A kind of finding with its texts, in which :meth:`about` fills in ``{...}``.

    Attributes:
        verdict: A few words for a table.
        sentence: The fact in a sentence.
        remedy: Advice: the next thing to do.
        rule: The rule by which it is found.
        severity: ``"fault"``: mend it; ``"look"``: have a look; ``"fine"``: good to know.

    >>> Finding.AT_BOUND.rule
    'A bound holds s at the last step.'
    """

    UNWEIGHED = (
        "not weighed",
        "No loss was weighed in this run, so that it has no weights: let training_step return `self.weigh(losses)`.",
        "Without the mixin, return `{{'losses': {{'depth': loss, ...}}}}`.",
        "No loss of any task came.",
        "fault",
    )
    DEAD = (
        "no finite loss",
        "Number of steps in which losses came and none of any task was finite: {steps}.",
        "If they go on, the network itself is NaN: go on from an earlier checkpoint, with a lower learning rate or "
        'clipped gradients. `nonfinite="raise"` stops at the first such loss.',
        "There was a step in which losses came, and none of any task was finite.",
        "fault",
    )
    DIVERGED = (
        "diverged",
        "The loss of task {task!r} grew {factor:.3g} times ({first:.3g} to {last:.3g}).",
        "Lower the learning rate of the network, or clip its gradients.",
        f"The median raw loss at the end is over {DIVERGED:.0f} times the first one, and the task is learned.",
        "fault",
    )
    NEGATIVE_LOSS = (
        "negative loss",
        "The loss of task {task!r} was negative (lowest mean of a step: {lowest:.3g}), which the {likelihood} "
        "likelihood does not allow for.",
        "Its weight then only grows. If the loss is already a negative log-likelihood in nats, say so: "
        '`tasks={{{task!r}: "nll"}}`.',
        "A recorded raw loss is below 0, and the task is learned.",
        "fault",
    )
    SAT_OUT = (
        "sat out {steps}",
        "The loss of task {task!r} was zero or negative in {steps}, and it sat them out: strategy={strategy!r} needs "
        "positive losses.",
        "A log-likelihood in nats has no weight to find: `tasks={{{task!r}: 'nll'}}`. Else use another strategy. A "
        "loss that reaches 0 has nothing left to learn.",
        "The strategy takes the logarithm or the inverse of losses, and the mean loss of a step was not above 0.",
    )
    NO_CROSS_ENTROPY = (
        "no mean cross entropy?",
        "The loss of task {task!r} is {loss:.3g} nats, more than a uniform guess among 100,000 classes costs.",
        "A loss summed over pixels or tokens has to be averaged; what is no cross entropy needs another likelihood.",
        f"The likelihood is that of a classification, and the median raw loss is over ln(100,000) = {MOST_NATS:.1f}.",
        "fault",
    )
    COLLAPSE = (
        "may have collapsed",
        "The factor of task {task!r} is {factor:.2g} times that of {other!r}, whose loss did not fall ({first:.3g} to "
        "{last:.3g}).",
        "That may be a matter of units. But if the one loss was small because nothing had been learned, its weight now "
        "keeps the network there: leave `guard` on, or give that task a fixed weight, `tasks={{{task!r}: 1.0}}`.",
        f"The factors of two learned tasks are over {APART:,.0f} apart at the end, and the median loss of the lower is "
        f"over {FLAT:.0%} of its first.",
    )
    HELD = (
        "held at the plain sum",
        "Task {task!r} keeps the factor of the plain sum: its loss rose to over 3 times what it was at first, small "
        "because nothing had been learned yet.",
        "That is right for a constraint, a regulariser or a term of a bound. `guard=False` lets it learn its weight.",
        "In the first steps, the running mean of its loss rose to over 3 times its lowest, or its first.",
    )
    CUT = (
        "cut in fp16",
        "The loss of task {task!r} is in fp16, and its weight was cut: it was beyond 65504, the largest of fp16.",
        "Compute that loss in single precision, from `.float()` of what goes into it.",
        "The factor of an fp16 loss was beyond the range of fp16. A history does not record it.",
        "fault",
    )
    NONFINITE = (
        "not finite",
        "The loss of task {task!r} was NaN or infinite in {calls}, and the task sat them out.",
        'That is as it should be where labels were missing. If it diverged, find out where with `nonfinite="raise"`.',
        "Its loss was NaN or infinite at least once.",
    )
    LEARNED_NOTHING = (
        "learned nothing",
        "The loss of task {task!r} ends at {last:.3g}, no better than {reference}.",
        "Check that its labels are right and its head gets gradients, and try another learning rate of the network. "
        "Class weights may explain it too.",
        "The median raw loss of a learned task at the end is not below the first one. If the number of classes is "
        f"known (`CrossEntropy`, `bernoulli`, `Task(classes=...)`), it is over {GUESSED:.0%} of its logarithm, which "
        "is the loss of a uniform guess.",
    )
    EXPLODES = (
        "its weight explodes",
        "The weight of task {task!r} grew {factor:.3g} times (as sigma^-2) {until}, because its loss goes to zero "
        "({first:.3g} to {last:.3g}).",
        "It may be overfitted: see its validation loss. `freeze_after` or `min_variance_ratio=0.01` holds its weight.",
        f"sigma^-2 has grown over {EXPLODED:,.0f}-fold since the start, its loss fell over 100-fold, and at the end "
        f"the lower bound holds s, or sigma still changed by over {MOVED:.0%}.",
    )
    AT_BOUND = (
        "at its {bound} bound",
        "The log-variance of task {task!r} is held by its {bound} bound (s = {log_var:.3g}).",
        "That is right for a loss that goes to zero; else set `min_variance_ratio` or `bounds`.",
        "A bound holds s at the last step.",
    )
    OVERFITS = (
        "overfits",
        "On held-out data, sigma of task {task!r} is {ratio:.3g} times {source} ({held_out:.3g}, not {learned:.3g}).",
        "The network has fitted noise of its training data: stop earlier, regularise it, or train with more data. To "
        'predict with the sigma of the validation, write `UncertaintyCallback(sigma_from="validation")`.',
        f"At the end, the sigma of the last validation is over {OPTIMISTIC:g} times the learned one, and that of the "
        f"training losses. Of a head (nll): its factor is over {OPTIMISTIC:g}, and over so many times its lowest of "
        "the run.",
    )
    MOSTLY_ABSENT = (
        "mostly missing",
        "Task {task!r} took no part in {part:.0%} of the steps.",
        "Its weight rests on few losses. Check that its labels reach training_step; sample its data more often.",
        f"It sat out, left out or NaN, in over {MOSTLY:.0%} of the steps, and is learned.",
    )
    DROPPED = (
        "{steps} steps dropped",
        "{steps} steps dropped the losses that were weighed: the network did not learn from them, so s did not either.",
        "That is right for batches that are skipped, and while a GradScaler finds its scale. Else look for a hook that "
        "zeroes the gradients, or a total that is neither returned nor back-propagated.",
        "A task was weighed, and backward did not go through its total, its gradients were zeroed, or no optimizer "
        "stepped.",
    )
    MOVING = (
        "still moving",
        "Sigma of task {task!r} still {direction} at the end: by {change:.0%} "
        f"in the last {LAST_PART:.0%} of steps.",
        "Train longer, or raise `lr`, the learning rate of the weights.",
        f"Sigma changed by over {MOVED:.0%} from the last point before the last {LAST_PART:.0%} of the steps to the "
        f"end, in one direction but for {1 - STRAIGHT:.0%} of its way.",
    )
    DOMINATES = (
        "dominates",
        "Task {task!r} is {share:.0%} of the weighted loss at the end.",
        "The others hardly count. Train longer or raise `lr`; else check `bounds` and the fixed weights.",
        f"Its mean share at the end is over {DOMINANT:.0%}, beside at least one task whose loss did not go to zero.",
    )
    DROWNS = (
        "drowns",
        "Task {task!r} is only {share:.2%} of the weighted loss at the end.",
        "It hardly counts. Check its bounds, the fixed weights, and whether its loss is as it should be.",
        f"Its mean share at the end is below {DROWNED:.0%} of an equal share, and it is learned, or no task is.",
    )
    ALL_EQUAL = (
        "as equal weights",
        "All losses are weighed alike, within {ratio:.1%}.",
        "The plugin changed little: equal weights would do.",
        f"In the second half, all tasks have a loss, and the largest factor is at most {ALIKE:.0%} above the smallest.",
    )
    TOO_SHORT = (
        "too short",
        "The history has {points} points over {steps} steps, too few to tell whether sigma has arrived.",
        "Train longer, or log more often: `log_every_n_steps`.",
        f"It has fewer than {FEWEST_POINTS} points, or spans fewer than {FEWEST_STEPS} steps.",
    )
    NEGATIVE_TOTAL = (
        "negative total",
        "The weighted total is negative ({total:.3g}). This is right: log sigma is negative for a sigma below 1.",
        "Monitor `uncertainty/relative_loss`, and not the total.",
        "The total of the last step, regularisers included, is below 0, and no raw loss is.",
        "fine",
    )
    NOTHING = (
        "fine",
        "Nothing stands out: no sigma still moves, and no task dominates or drowns.",
        "Judge the result by the metrics of each task, not by the weights.",
        "No other finding, but for those that are fine.",
        "fine",
    )

    def about(self, task: str | None, **numbers: Any) -> Diagnosis:
        """Return the finding with its task, None for the whole run, and the numbers that its texts have in braces."""
        texts = (self.sentence, self.remedy, self.verdict)
        return Diagnosis(self, task, *(text.format(task=task, **numbers) for text in texts))


@dataclass(frozen=True)
class Diagnosis:
    """A finding with its numbers.

    Attributes:
        finding: The kind of finding.
        task: Name of the task; None if it is about the whole run.
        sentence: The fact in a sentence.
        remedy: Advice: the next thing to do.
        verdict: A few words for a table.
    """

    finding: Finding
    task: str | None
    sentence: str
    remedy: str
    verdict: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.remedy}"


def findings_of(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Yield the findings that a single snapshot can answer, task by task. Changes nothing and warns of nothing."""
    dead = max(task.dead for task in snapshot.tasks.values())
    if dead:
        yield Finding.DEAD.about(None, steps=dead)
    for name, task in snapshot.tasks.items():
        if task.nonfinite and not dead:
            yield Finding.NONFINITE.about(name, calls=counted(task.nonfinite, "call"))
        if task.lowest_loss < 0.0 and task.sigma is not None and task.likelihood != "softmax_exact":
            yield Finding.NEGATIVE_LOSS.about(name, lowest=task.lowest_loss, likelihood=task.likelihood)
        if task.sat_out:
            yield Finding.SAT_OUT.about(name, steps=counted(task.sat_out, "step"), strategy=snapshot.strategy)
        if task.cut:
            yield Finding.CUT.about(name)
        if task.held:
            yield Finding.HELD.about(name)
        if task.at_bound and task.started:
            yield Finding.AT_BOUND.about(name, bound=task.at_bound, log_var=task.log_var)


def counted(number: int, noun: str) -> str:
    """Return a number of things with its noun."""
    return f"{number} {noun}{'s' if number > 1 else ''}"
