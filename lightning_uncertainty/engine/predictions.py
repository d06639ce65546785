"""Predictions with the noise of their tasks: their distributions, and how good these are on held-out data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_uncertainty._arguments import check_choice, lookup
from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.engine.window import sum_over_ranks
from lightning_uncertainty.likelihoods import GAUSSIAN, NLL, Likelihood, get_likelihood
from lightning_uncertainty.predictive.distributions import CLASSES, REGRESSIONS, distribution
from lightning_uncertainty.predictive.losses import check_classes, check_means
from lightning_uncertainty.predictive.scores import (
    WIDTH,
    class_sums,
    read_left_out,
    read_score,
    read_shift,
    regression_sums,
)
from lightning_uncertainty.snapshot import Score
from lightning_uncertainty.tasks import Task

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from lightning_uncertainty.engine.held_out import HeldOut
    from lightning_uncertainty.engine.state import EngineState
    from lightning_uncertainty.strategies import Strategy

__all__ = ["Predictions"]

_LEFT_OUT = (
    "Task {!r}: {:,} of {:,} predictions have no finite score and are left out, so that its scores look too good. Look "
    "at its predictions and targets; where there is no target, pass a mask: `score(name, mean, target, mask=mask)`."
)


class Predictions:
    """The part of :class:`~lightning_uncertainty.UncertaintyWeighting` that predicts with the noise of the tasks.

    Attributes:
        scores: The scores of the last validation or test, by task.
    """

    tasks: dict[str, Task]
    task_names: tuple[str, ...]
    strategy: Strategy
    held_out: HeldOut
    process_group: dist.ProcessGroup | None
    _sigma_from: Literal["training", "validation"]
    _state: EngineState
    _notices: Notices

    scores: dict[str, Score]
    _sums: Tensor | None = None  # of the scores of a validation or test, of shape (K, WIDTH)
    _scored = False  # True if there was a prediction in this one, or on any rank in an earlier one

    @property
    def sigma_from(self) -> Literal["training", "validation"]:
        """The data that sigma is taken from: ``"training"`` or ``"validation"``. Can be set at any time."""
        return self._sigma_from

    @sigma_from.setter
    def sigma_from(self, source: Literal["training", "validation"]) -> None:
        check_choice("sigma_from", source, ("training", "validation"))
        self._sigma_from = source

    def predictive(
        self,
        name: str,
        prediction: Tensor,
        log_var: Tensor | None = None,
        *,
        likelihood: str | Likelihood | None = None,
    ) -> Distribution:
        """Return the distribution of the target: what the network predicts, with the noise of the task around it.

        It is a ``Normal``, ``Laplace``, ``Categorical`` or ``Bernoulli`` of ``torch.distributions``: ``icdf`` gives
        intervals, ``log_prob`` the log-likelihood.

        Without ``log_var``, sigma is the same for all inputs: the learned one, which follows the training residual, or,
        with ``sigma_from="validation"``, the one of the last validation that called ``weigh``. With ``log_var``, it is
        that of the head; with ``sigma_from="validation"``, times the root of the mean squared z-score of the last
        validation that called :meth:`score`. Logits are taken as they are, or, with ``sigma_from="validation"``,
        divided by the temperature that the last such validation has found best; those of an exact softmax by its own
        ``sigma^2``. (For other classifications ``sigma^2`` is twice the loss: no temperature to predict with.) Where no
        validation has told of it, that of training is used, with a warning.

        Args:
            name: The task.
            prediction: The mean in the unit of the target; or logits, of shape (N, C) or (N, C, d1, ...).
            log_var: The log-variance of a head, of a shape that broadcasts with the mean.
            likelihood: The likelihood of the head's noise: ``"gaussian"`` or ``"laplace"``. By default that of the
                task, or Gaussian for a task that is ``"nll"``.

        Raises:
            ValueError: if the task is unknown, or has no sigma or no distribution, or none with a ``log_var``.

        >>> from lightning_uncertainty import UncertaintyWeighting
        >>> weighting = UncertaintyWeighting({"depth": "gaussian"}, init=0.0)
        >>> weighting.predictive("depth", torch.tensor(20.0)).icdf(torch.tensor([0.05, 0.95]))
        tensor([18.3551, 21.6449])
        """
        kind = self._kind(name, log_var, likelihood)
        noise = self._noise(name, kind, log_var)
        if self.sigma_from == "validation":
            self._warn_of_training(name, kind, scored=log_var is not None or kind.name in CLASSES)
        return distribution(kind, prediction, noise)

    def _warn_of_training(self, name: str, kind: Likelihood, *, scored: bool) -> None:
        place = self.task_names.index(name)
        found = self._state.val_shift[place] != 0.0 if scored else self.held_out.log_var[place].isfinite()
        if found:
            return
        call = f"self.uncertainty.score({name!r}, ...)" if scored else "self.weigh(losses)"
        text = (
            f"Task {name!r}: sigma_from is 'validation', but no validation has told of its noise yet, so that the "
            f"prediction takes what training knows, which may be too sure. Let validation_step call `{call}` and "
            'validate first, or write sigma_from="training".'
        )
        self._notices.warn_of_tasks([("no validation", name, text)])

    def _kind(self, name: str, log_var: Tensor | None, likelihood: str | Likelihood | None) -> Likelihood:
        own = lookup("task", name, self.tasks).likelihood
        if likelihood is not None:
            kind = get_likelihood(likelihood)
        else:
            kind = GAUSSIAN if own == NLL and log_var is not None else own
        if log_var is not None and kind.name not in REGRESSIONS:
            raise ValueError(
                f"A log_var was given for task {name!r}. Expected it for a regression only: a task that is 'gaussian', "
                f"'laplace' or 'nll'; its likelihood is {kind.name!r}. For logits write `predictive({name!r}, "
                f'logits)`, for the mean of a head `predictive({name!r}, mean, log_var, likelihood="gaussian")`.'
            )
        return kind

    def _noise(self, name: str, kind: Likelihood, log_var: Tensor | None) -> Tensor:
        """Return the log-variance, or the logarithm of the temperature."""
        place, held_out = self.task_names.index(name), self.sigma_from == "validation"
        if log_var is not None:
            return log_var + self._shift(place).to(log_var)
        if kind.name in CLASSES and not kind.tempered:
            return self._shift(place)
        found = self.held_out.log_var[place]
        started = self.strategy.columns().get("started")
        learned = self.strategy.learned[name] and (started is None or bool(started[place]))
        if learned and not (held_out and bool(found.isfinite())):
            return self.strategy.log_var[place]
        if not found.isfinite() and kind.name in REGRESSIONS:
            raise ValueError(
                f"Task {name!r} has no sigma to predict with. Expected one that was learned, or a validation that "
                "weighed its losses; found neither. Train first, let validation_step call `self.weigh(losses)`, or "
                f"pass the log-variance of a head: `predictive({name!r}, mean, log_var)`."
            )
        return found.nan_to_num(0.0)

    def _shift(self, place: int) -> Tensor:
        """Return what is added to the log-variance of a head, or the logarithm of the temperature of logits."""
        shift = self._state.val_shift[place]
        return shift if self.sigma_from == "validation" else torch.zeros_like(shift)

    @property
    def _device(self) -> torch.device:
        return self._state.raw_loss.device

    # ------------------------------------------------------------------------------------------------ scores

    @torch.no_grad()
    def score(
        self,
        name: str,
        prediction: Tensor,
        target: Tensor,
        log_var: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        likelihood: str | Likelihood | None = None,
    ) -> None:
        """Count predictions of a validation or a test, whose scores are logged, and shown in the report.

        Call it in ``validation_step`` or ``test_step``. A regression gets the coverage of its 50, 80, 90 and 95 %
        intervals, the negative log-likelihood, the mean squared z-score and the CRPS; a classification the negative
        log-likelihood and the expected calibration error. The sigma is that of :meth:`predictive` before the
        validation, so that it is not judged by the data that it came from. A validation also finds the scale of a
        head's noise, and the temperature of logits, for ``sigma_from="validation"``.

        Args:
            name: The task.
            prediction: The mean, or logits, as in :meth:`predictive`.
            target: The targets, of the shape of the mean; for classes their indices, -100 where there is none.
            log_var: The log-variance of a head.
            mask: bool: True where there is a target, of its shape; by default where it is not NaN.
            likelihood: The likelihood of the head's noise.

        Raises:
            ValueError: if the task is unknown or has no distribution, or the shapes do not fit.
        """
        kind = self._kind(name, log_var, likelihood)
        if self._sums is None:  # neither a validation nor a test
            return
        binary = kind.name == "bernoulli"
        if kind.name in CLASSES and not binary:
            check_classes(prediction, target, mask)
        else:
            check_means(prediction, log_var, target, mask, "logit" if binary else "mean")
        if mask is None and target.is_floating_point():
            mask = ~target.isnan()
        place = self.task_names.index(name)
        try:
            noise = self._noise(name, kind, log_var)
        except ValueError:  # nothing has told of sigma yet
            return
        if kind.name in CLASSES:
            sums = class_sums(prediction, target, mask, noise, binary)
        else:
            shift = None if log_var is None else self._shift(place)
            predicted: Any = distribution(kind, prediction, noise, checked=False)
            sums = regression_sums(predicted, target, mask, shift)
        self._sums[place] += sums.to(self._sums)
        self._scored = True

    @torch.inference_mode(False)
    def begin_scores(self) -> None:
        """Begin to sum up scores. The callback calls it."""
        dtype = torch.float32 if self._device.type == "mps" else torch.float64
        self._sums = torch.zeros(len(self.tasks), WIDTH, dtype=dtype, device=self._device)

    @torch.inference_mode(False)
    def end_scores(self, *, fit: bool) -> dict[str, Score]:
        """Return the scores by task, none if nothing was scored; costs an all-reduce and a transfer to the host.

        Args:
            fit: True if the scale of each head's noise and the temperatures follow from these data.
        """
        sums, self._sums = self._sums, None
        if sums is None or not self._scored:
            return {}
        sum_over_ranks(sums, self.process_group)
        rows = sums.tolist()
        read = {name: read_score(row) for name, row in zip(self.tasks, rows, strict=True)}
        self._notices.warn_of_tasks(
            ("not finite", name, _LEFT_OUT.format(name, left, int(row[0]) + left))
            for name, row in zip(self.tasks, rows, strict=True)
            if (left := read_left_out(row))
        )
        found = {name: score for name, score in read.items() if score is not None}
        self.scores = found or self.scores
        if fit:
            shifts = torch.tensor([read_shift(row) for row in rows], dtype=torch.float32, device=self._device)
            self._state.val_shift = torch.where(shifts.isfinite(), shifts, self._state.val_shift)
            self.held_out.derive()
        return found
