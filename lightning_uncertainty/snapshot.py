"""A snapshot of the weights at one step: plain numbers, the only thing that is logged, kept and plotted."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_uncertainty._arguments import Setting
from lightning_uncertainty.tasks import Task, metric_keys

__all__ = ["BINS", "COVERAGES", "MANY", "Score", "Snapshot", "TaskSnapshot", "by_key", "score_metrics", "spread"]

BINS = 20  # of a score, each of 5 %
COVERAGES = (50, 80, 90, 95)  # percent: the intervals that are logged
MANY = 20  # tasks: up to so many, a logger gets a number of each, and of more the quantiles
QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


@dataclass(frozen=True)
class Score(Setting):
    """A score of the predictions of a task on held-out data.

    Attributes:
        samples: The number of targets.
        nll: The mean negative log-likelihood, in nats.
        mean_squared_z: The mean of ``((y - mu) / sigma)^2``, 1 if the noise is right, above if it is underrated; for
            Laplace relative to its own variance. None for classes.
        crps: The continuous ranked probability score, in the unit of the target; lower is better. None for classes.
        ece: The expected calibration error, a mean difference of confidence and accuracy. None for a regression.
        temperature: The temperature, between 0.22 and 20, that these logits would best be divided by: above 1 if the
            classes are predicted with too much confidence. None for a regression.
        coverage: The part of the targets inside the central intervals of 5 %, 10 %, ... 100 %; empty for classes.
        reliability: For each bin of the confidence with samples: their number, mean confidence and accuracy; empty for
            a regression.
        data: What was scored: ``"validation"`` or ``"test"``.
    """

    samples: int
    nll: float
    mean_squared_z: float | None = None
    crps: float | None = None
    ece: float | None = None
    coverage: tuple[float, ...] = ()
    reliability: tuple[tuple[float, float, float], ...] = ()
    temperature: float | None = None
    data: str = "validation"

    @classmethod
    def read(cls, plain: Mapping[str, Any] | None) -> Score | None:
        """Return what :meth:`plain` gave, also after it went through JSON."""
        if plain is None:
            return None
        bins = tuple((row[0], row[1], row[2]) for row in plain["reliability"])
        return cls(**{**plain, "coverage": tuple(plain["coverage"]), "reliability": bins})

    def plain(self) -> dict[str, Any]:
        """Return the score as numbers and lists."""
        return {**vars(self), "coverage": list(self.coverage), "reliability": [list(row) for row in self.reliability]}

    def numbers(self) -> dict[str, float]:
        """Return what is logged, by name: of a regression ``coverage_<percent>`` too.

        >>> Score(10, 1.5, ece=0.25, temperature=2.0).numbers()
        {'nll': 1.5, 'ece': 0.25, 'temperature': 2.0}
        """
        names = ("nll", "mean_squared_z", "crps", "ece", "temperature")
        numbers = {name: getattr(self, name) for name in names}
        if self.coverage:
            numbers |= {f"coverage_{percent}": self.coverage[percent * BINS // 100 - 1] for percent in COVERAGES}
        return {key: number for key, number in numbers.items() if number is not None}


@dataclass(frozen=True)
class TaskSnapshot(Setting):
    """One task at one step.

    Attributes:
        likelihood: The short name of the likelihood.
        log_var: The log-variance ``s = log sigma^2``.
        sigma: The noise ``exp(s / 2)``, in the unit of the target for a regression; None for a fixed task.
        precision: The effective ``sigma^-2``; ``1 / b`` for Laplace; the weight itself for a fixed task.
        factor: The factor before the raw loss in the total: half the precision for a Gaussian, 1 for the exact
            softmax (which tempers the logits instead), else the precision.
        raw_loss: The loss before weighting, mean over ranks and micro-batches of the last step in which the task took
            part; NaN before the first, and for all tasks after a step in which no loss was finite.
        nonfinite: The number of losses that were NaN or infinite, over all ranks.
        at_bound: The bound that holds ``s``, ``"lower"`` or ``"upper"``; else None.
        started: True if ``s`` has an initial value.
        offset: The regulariser, which the total has beside the weighted loss.
        absent: The number of optimizer steps without the task: left out, or NaN, on all ranks.
        dropped: The number of times that its loss was weighed and the network did not learn from it, on any rank: the
            step was skipped, or the gradients were zeroed before.
        dead: The number of steps in which losses came, and none of any task was finite.
        ratio: The mean loss of this epoch as a part of that at the start, see :attr:`Snapshot.relative_loss`; NaN
            where it takes no part.
        lowest_loss: The lowest mean loss of a step so far; 0 if none was negative.
        trust: The part of the way from the plain sum to the weight of the strategy.
        held: True if the task stays at the factor of the plain sum.
        cut: True if the factor was beyond the range of an fp16 loss and was cut there.
        sat_out: The number of steps that it sat out because the strategy cannot use a loss of zero or below.
        unit: The unit of the target, as given to :class:`~lightning_uncertainty.Task`; for a regression also of sigma.
        classes: The number of classes of a classification; 0 where it is unknown.
        val_log_var: The log-variance that the losses of the last validation have as their optimum; of an ``"nll"`` task
            what is added to that of its head; None where unknown.
        score: The score of its predictions in the last validation, None where none were given.
        test_score: The same of the last test.
        more: Further quantities that a strategy or a subclass of the engine keeps of each task.
    """

    likelihood: str
    log_var: float
    sigma: float | None
    precision: float
    factor: float
    raw_loss: float
    nonfinite: int
    at_bound: str | None
    started: bool
    offset: float = 0.0
    absent: int = 0
    dropped: int = 0
    dead: int = 0
    ratio: float = 1.0
    lowest_loss: float = 0.0
    trust: float = 1.0
    held: bool = False
    cut: bool = False
    sat_out: int = 0
    unit: str = ""
    classes: int = 0
    val_log_var: float | None = None
    score: Score | None = None
    test_score: Score | None = None
    more: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        task: Task,
        learned: bool,
        numbers: Mapping[str, float],
        score: Score | None = None,
        test_score: Score | None = None,
    ) -> TaskSnapshot:
        """Return the snapshot of a task from numbers by field; those without a field here go into ``more``.

        In place of ``at_bound`` there are ``at_lower`` and ``at_upper``.
        """
        row = dict(numbers)  # written out, because a logging step makes one for each task
        lower, upper, log_var = row.pop("at_lower", 0.0), row.pop("at_upper", 0.0), row.pop("log_var")
        classes, held_out = row.pop("classes", 0), row.pop("val_log_var", math.nan)
        return cls(
            likelihood=task.likelihood.name,
            log_var=log_var,
            sigma=math.exp(0.5 * log_var) if learned else None,
            precision=row.pop("precision"),
            factor=row.pop("factor"),
            raw_loss=row.pop("raw_loss"),
            nonfinite=int(row.pop("nonfinite")),
            at_bound=("lower" if lower else "upper" if upper else None) if learned else None,
            started=bool(row.pop("started", 1.0)),
            offset=row.pop("offset"),
            absent=int(row.pop("absent")),
            dropped=int(row.pop("dropped")),
            dead=int(row.pop("dead")),
            ratio=row.pop("ratio"),
            lowest_loss=row.pop("lowest_loss"),
            trust=row.pop("trust"),
            held=bool(row.pop("held")),
            cut=bool(row.pop("cut")),
            sat_out=int(row.pop("sat_out", 0)),
            unit=task.unit,
            classes=2 if task.likelihood.name == "bernoulli" else int(task.classes or classes),
            val_log_var=None if math.isnan(held_out) else held_out,
            score=score,
            test_score=test_score,
            more=row,
        )

    @property
    def sigma_val(self) -> float | None:
        """The noise on held-out data, ``exp(val_log_var / 2)``, in the unit of sigma; None where unknown.

        Of an ``"nll"`` task it is what the noise of its head has to be multiplied by, without a unit.
        """
        return None if self.val_log_var is None else math.exp(0.5 * self.val_log_var)

    @property
    def seen(self) -> bool:
        """True if any loss of the task has come in, finite or not."""
        return self.nonfinite > 0 or not math.isnan(self.raw_loss)

    @property
    def weighted_loss(self) -> float:
        """The factor times the raw loss, without the regulariser."""
        return self.factor * self.raw_loss


@dataclass(frozen=True)
class Snapshot(Setting):
    """A snapshot of all tasks after one optimizer step.

    Attributes:
        step: The number of optimizer steps so far.
        tasks: The snapshot of each task, by name.
        strategy: The name of the strategy.
    """

    step: int
    tasks: Mapping[str, TaskSnapshot]
    strategy: str = "uncertainty"

    @property
    def loss(self) -> float:
        """The unweighted sum of the raw losses seen so far; NaN before the first."""
        return _sum_of_known(task.raw_loss for task in self.tasks.values())

    @property
    def relative_loss(self) -> float:
        r"""The geometric mean of the losses of this epoch, each as a part of that at its start: a number to monitor.

        .. math:: \exp \operatorname{mean}_k \log \frac{L_k}{L_k^0}

        - ``L_k`` is the mean of the losses over the steps of this epoch (a task without any keeps its last mean),
        - ``L_k^0`` is the loss of the first step with the task, where it was above 0. A task that comes in a later
          epoch than others takes part from the next one on, with the mean of its first epoch divided by the relative
          loss of the others there, so that the mean does not jump.

        It has no unit, and no unit changes it. A ratio below 1e-6 counts as 1e-6. Losses that were negative take no
        part. NaN before the first step, and after a step in which losses came and none was finite.
        """
        alive = any(not math.isnan(task.raw_loss) for task in self.tasks.values())
        logs = [math.log(task.ratio) for task in self.tasks.values() if not math.isnan(task.ratio)]
        return math.exp(math.fsum(logs) / len(logs)) if alive and logs else math.nan

    @property
    def total(self) -> float:
        """The weighted sum with the regularisers of the losses seen so far; NaN before the first. May be negative."""
        return _sum_of_known(task.weighted_loss + task.offset for task in self.tasks.values())

    @property
    def shares(self) -> dict[str, float]:
        """The part of each task in the weighted sum of losses; NaN for a task not seen yet."""
        total = _sum_of_known(task.weighted_loss for task in self.tasks.values())
        return {name: task.weighted_loss / total if total else math.nan for name, task in self.tasks.items()}

    def held_out_metrics(self, prefix: str = "uncertainty") -> dict[str, float]:
        """Return ``<prefix>/sigma_val/<task>`` for the tasks that a validation has told it of, as :meth:`metrics`."""
        values = {name: task.sigma_val for name, task in self.tasks.items() if task.sigma_val is not None}
        return by_key(f"{prefix}/sigma_val", values, self.tasks)

    def metrics(self, prefix: str = "uncertainty") -> dict[str, float]:
        """Return flat numbers for a logger, always with the same keys.

        ``<prefix>/weight/<task>`` (effective ``sigma^-2``), ``<prefix>/sigma/<task>`` (unit of the target; not for
        fixed tasks), ``<prefix>/loss/<task>`` (raw, mean over ranks), ``<prefix>/share/<task>`` (part of the weighted
        sum, 0 to 1), ``<prefix>/relative_loss`` (what to monitor), ``<prefix>/loss_sum`` (sum of the raw losses) and
        ``<prefix>/trust`` (the part of the way from the plain sum to these weights).
        For the task stands its key, as ``lightning_uncertainty.tasks.metric_keys`` has it. Of more than 20 tasks, there
        are ``min``, ``p10``, ``median``, ``p90`` and ``max`` instead, over the tasks whose value is known.
        """
        columns = {
            "weight": {name: task.precision for name, task in self.tasks.items()},
            "sigma": {name: task.sigma for name, task in self.tasks.items() if task.sigma is not None},
            "loss": {name: task.raw_loss for name, task in self.tasks.items()},
            "share": self.shares,
        }
        metrics = {f"{prefix}/relative_loss": self.relative_loss, f"{prefix}/loss_sum": self.loss}
        metrics[f"{prefix}/trust"] = max(task.trust for task in self.tasks.values())
        for quantity, values in columns.items():
            metrics |= by_key(f"{prefix}/{quantity}", values, self.tasks)
        return metrics


def by_key(prefix: str, values: Mapping[str, float], tasks: Collection[str]) -> dict[str, float]:
    """Return the values of some of ``tasks`` for a logger: under the key of each, or their spread if there are many."""
    if len(tasks) > MANY:
        return {f"{prefix}/{key}": value for key, value in spread(values.values()).items()} if values else {}
    keys = metric_keys(tasks)
    return {f"{prefix}/{keys[name]}": value for name, value in values.items()}


def score_metrics(prefix: str, scores: Mapping[str, Score], tasks: Collection[str]) -> dict[str, float]:
    """Return the numbers of scores for a logger, ``<prefix>_<quantity>/<task>``, as :func:`by_key` does.

    >>> score_metrics("uncertainty/val", {"kind": Score(10, 1.5, ece=0.25)}, ["kind"])
    {'uncertainty/val_nll/kind': 1.5, 'uncertainty/val_ece/kind': 0.25}
    """
    numbers = {name: score.numbers() for name, score in scores.items()}
    quantities = dict.fromkeys(quantity for row in numbers.values() for quantity in row)
    columns = {key: {name: row[key] for name, row in numbers.items() if key in row} for key in quantities}
    return {key: x for column, row in columns.items() for key, x in by_key(f"{prefix}_{column}", row, tasks).items()}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return the quantiles of the values that are known, each the value of one task; NaN if none is known.

    >>> spread([3.0, math.nan, 1.0, 2.0])
    {'min': 1.0, 'p10': 1.0, 'median': 2.0, 'p90': 3.0, 'max': 3.0}
    """
    known = sorted(value for value in values if not math.isnan(value)) or [math.nan]
    return {key: known[int(part * (len(known) - 1) + 0.5)] for key, part in QUANTILES.items()}


def _sum_of_known(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) if known else math.nan
