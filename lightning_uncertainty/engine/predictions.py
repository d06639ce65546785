"""Predictions with the noise of their tasks: their distributions, and how good these are on held-out data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributions import Categorical, Distribution

from lightning_uncertainty._arguments import check_choice, lookup
from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.engine.window import sum_over_ranks
from lightning_uncertainty.likelihoods import LIKELIHOODS, NLL, Likelihood
from lightning_uncertainty.predictive.distributions import CLASSES, REGRESSIONS, distribution
from lightning_uncertainty.predictive.losses import bounded, check_classes, check_means, check_tensors, mean_logits
from lightning_uncertainty.predictive.scores import (
    WIDTH,
    class_sums,
    is_at_bound,
    read_left_out,
    read_score,
    read_shift,
    regression_sums,
)
from lightning_uncertainty.regularizers import Regularizer
from lightning_uncertainty.snapshot import Score
from lightning_uncertainty.tasks import Task

if TYPE_CHECKING:
    from lightning_uncertainty.engine.held_out import HeldOut
    from lightning_uncertainty.engine.state import EngineState
    from lightning_uncertainty.strategies import Strategy

__all__ = ["Predictions"]

_AT_BOUND = (
    "Task {!r}: the prediction divides its logits by a temperature of {:.2g}. Expected one from 0.22 to 20; the best "
    "of the last validation is at that bound or beyond, as for logits that have little to do with the labels. Look at "
    'both, train on, or write sigma_from="training".'
)
_NO_VALIDATION = (
    "score({!r}, ...) counts nothing here: neither a validation nor a test goes on. Expected a call in validation_step "
    "or test_step, with an UncertaintyCallback; in a loop of your own write `with weighting.validating():` around it."
)
_LEFT_OUT = (
    "Task {!r}: {:,} of {:,} predictions have no finite score and are left out, so that its scores look too good. Look "
    "at its predictions and targets; where there is no target, pass a mask: `score(name, mean, target, mask=mask)`."
)


class Predictions:
    """The part of :class:`~lightning_uncertainty.UncertaintyWeighting` that predicts with the noise of the tasks."""

    tasks: dict[str, Task]
    task_names: tuple[str, ...]
    strategy: Strategy
    regularizer: Regularizer
    held_out: HeldOut
    process_group: dist.ProcessGroup | None
    sigma_asked: Literal["training", "validation"] | None = None
    _sigma_loaded: Literal["training", "validation"] = "training"
    _state: EngineState
    _notices: Notices
    _scores: dict[str, dict[str, Score]]  # of the last validation and the last test, the newer one at the end
    _sums: Tensor | None = None  # of the scores of a validation or test, of shape (K, WIDTH)
    _forms: dict[str, str]  # what noise it was scored with, by task

    @property
    def sigma_from(self) -> Literal["training", "validation"]:
        """The data that sigma is taken from: ``"training"`` or ``"validation"``. Can be set at any time.

        What was set, here or by the option, stays; else a state that is loaded brings its own.
        """
        return self.sigma_asked or self._sigma_loaded

    @sigma_from.setter
    def sigma_from(self, source: Literal["training", "validation"]) -> None:
        check_choice("sigma_from", source, ("training", "validation"))
        self.sigma_asked = source

    def predictive(
        self, name: str, prediction: Tensor, log_var: Tensor | None = None, *, log_std: Tensor | None = None
    ) -> Distribution:
        """Return the distribution of the target: what the network predicts, with the noise of the task around it.

        It is a ``Normal``, ``Laplace``, ``Categorical`` or ``Bernoulli`` of ``torch.distributions``: ``icdf`` gives
        intervals, ``log_prob`` the log-likelihood.

        Without ``log_var``, sigma is the same for all inputs: the learned one, which follows the training residual, or,
        with ``sigma_from="validation"``, the one of the last validation that called ``weigh``. Both are the optimum of
        the likelihood, also where another ``regularizer`` moves the learned one. With ``log_var``, it is that of the
        head; with ``sigma_from="validation"``, times the root of the mean squared z-score (for Laplace the mean
        ``|z|``) of the last validation that called :meth:`score`. Logits are taken as they are, or, with
        ``sigma_from="validation"``, divided by the temperature that the last such validation has found best; those of
        an exact softmax by its own ``sigma^2``. (For other classifications ``sigma^2`` is twice the loss: no
        temperature to predict with.) Where no validation has told of it, that of training is used, with a warning.

        Args:
            name: The task.
            prediction: The mean in the unit of the target; or logits, of shape (N, C) or (N, C, d1, ...).
            log_var: The log-variance of a head, of a shape that broadcasts with the mean; of the ``head`` of the
                :class:`~lightning_uncertainty.Task`.
            log_std: The logarithm of the standard deviation of noisy logits, as in
                :func:`~lightning_uncertainty.predictive.noisy_cross_entropy`; the classes then have the mean
                probabilities of 100 samples of the noise.

        Raises:
            TypeError: if one of them is no tensor.
            ValueError: if the task is unknown, or has no sigma or no distribution, or none with a ``log_var`` or
                ``log_std``; or if the shapes do not fit, or a number is not finite.

        >>> from lightning_uncertainty import UncertaintyWeighting
        >>> weighting = UncertaintyWeighting({"depth": "gaussian"}, init=0.0)
        >>> weighting.predictive("depth", torch.tensor(20.0)).icdf(torch.tensor([0.05, 0.95]))
        tensor([18.3551, 21.6449])
        """
        kind = self._kind(name, log_var, log_std)
        if log_std is not None:
            prediction = mean_logits(prediction, log_std)
        noise = self._noise(name, kind, log_var)
        if self.sigma_from == "validation":
            self._warn_of_training(name, kind, scored=log_var is not None or kind.name in CLASSES)
            if kind.name in CLASSES and is_at_bound(float(noise)):
                text = _AT_BOUND.format(name, math.exp(noise))
                self._notices.warn_of_tasks([("temperature", name, text)])
        return distribution(kind, prediction, noise)

    def _warn_of_training(self, name: str, kind: Likelihood, *, scored: bool) -> None:
        place = self.task_names.index(name)
        found = self._state.val_shift[place] != 0.0 if scored else self.held_out.log_var[place].isfinite()
        if found:
            return
        call = f"self.uncertainty.score({name!r}, ...)" if scored else "self.weigh(losses)"
        other = f"callback.weighting.score({name!r}, ...)" if scored else "callback.weighting(losses)"
        text = (
            f"Task {name!r}: sigma_from is 'validation', but no validation has told of its noise yet, so that the "
            f"prediction takes what training knows, which may be too sure. Let validation_step call `{call}` "
            f'(without UncertaintyMixin `{other}`) and validate first, or write sigma_from="training".'
        )
        self._notices.warn_of_tasks([("no validation", name, text)])

    def _kind(self, name: str, log_var: Tensor | None, log_std: Tensor | None) -> Likelihood:
        """Return the likelihood of the targets, whose noise is that of the task, ``log_var`` or ``log_std``."""
        task = lookup("task", name, self.tasks)
        head = task.head or ("gaussian" if task.likelihood == NLL else None)
        kind = task.likelihood if head is None else LIKELIHOODS[head]
        if log_var is not None and kind.name not in REGRESSIONS:
            raise ValueError(
                f"A log_var was given for task {name!r}. Expected it for a regression only: a task that is 'gaussian', "
                f"'laplace' or 'nll'; its likelihood is {kind.name!r}. For logits write `predictive({name!r}, "
                f'logits)`, for the mean of a head declare the task as `Task({name!r}, "nll", head="gaussian")`.'
            )
        if log_std is not None and CLASSES.get(kind.name) is not Categorical:
            raise ValueError(
                f"A log_std was given for task {name!r}. Expected it for logits of several classes; its likelihood is "
                f'{kind.name!r}. Declare the task of a noisy_cross_entropy as `Task({name!r}, "nll", head="softmax")`.'
            )
        if log_var is None and task.likelihood == NLL and kind.name in REGRESSIONS:
            raise ValueError(
                f"Task {name!r} is 'nll' and has no sigma of its own. Expected the noise that its head predicts; found "
                f"no log_var. Write `predictive({name!r}, mean, log_var)`."
            )
        return kind

    def _noise(self, name: str, kind: Likelihood, log_var: Tensor | None) -> Tensor:
        """Return the log-variance, or the logarithm of the temperature."""
        place, held_out = self.task_names.index(name), self.sigma_from == "validation"
        if log_var is not None:
            check_tensors({"log_var": log_var})
            return bounded(log_var) + self._shift(place).to(log_var)
        if kind.name in CLASSES and not kind.tempered:
            return self._shift(place)
        found = self.held_out.log_var[place]
        started = self.strategy.columns().get("started")
        learned = self.strategy.learned[name] and (started is None or bool(started[place]))
        if learned and not (held_out and bool(found.isfinite())):
            return self._of_likelihood(self.strategy.log_var[place], kind)
        if not found.isfinite() and kind.name in REGRESSIONS:
            raise ValueError(
                f"Task {name!r} has no sigma to predict with. Expected one that was learned, or a validation that "
                "weighed its losses; found neither. Train first, let validation_step call `self.weigh(losses)` "
                "(without UncertaintyMixin `callback.weighting(losses)`), or pass the log-variance of a head: "
                f"`predictive({name!r}, mean, log_var)`."
            )
        return found.nan_to_num(0.0)

    def _of_likelihood(self, log_var: Tensor, kind: Likelihood) -> Tensor:
        """Return the optimum of the likelihood for the loss whose optimum is ``log_var`` under the regulariser."""
        if not kind.regularized:
            return log_var
        return log_var + torch.log(2.0 * self.regularizer.derivative(log_var)) / kind.rate

    def _shift(self, place: int) -> Tensor:
        """Return what is added to the log-variance of a head, or the logarithm of the temperature of logits."""
        shift = self._state.val_shift[place]
        return shift if self.sigma_from == "validation" else torch.zeros_like(shift)

    @property
    def _device(self) -> torch.device:
        return self._state.raw_loss.device

    @property
    def scores(self) -> dict[str, Score]:
        """The last score of each task, of a validation or of a test, as its ``data`` says."""
        return {name: score for scores in self._scores.values() for name, score in scores.items()}

    @property
    def temperatures(self) -> dict[str, float]:
        """The best temperature of logits by name, of the classes that the last validation has scored."""
        shifts = zip(self.tasks, self._state.val_shift.tolist(), strict=True)
        kinds = {name: task.head or task.likelihood.name for name, task in self.tasks.items()}
        return {name: math.exp(shift) for name, shift in shifts if shift and kinds[name] in CLASSES}

    # ------------------------------------------------------------------------------------------------ scores

    @torch.no_grad()
    def score(
        self,
        name: str,
        prediction: Tensor,
        target: Tensor,
        log_var: Tensor | None = None,
        *,
        log_std: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """Count predictions of a validation or a test; its end logs their score, and has it in :attr:`scores`.

        Call it in ``validation_step`` or ``test_step``, or in a loop of your own inside of :meth:`validating`. A
        regression gets the coverage of its 50, 80, 90 and 95 % intervals, the negative log-likelihood, the mean squared
        z-score and the CRPS; a classification the negative log-likelihood, the expected calibration error and the best
        temperature. The sigma is that of :meth:`predictive` before the validation, so that it is not judged by the data
        that it came from; predictions of a task that has none yet are not counted. A validation also finds the scale of
        a head's noise, and the temperature of logits, for ``sigma_from="validation"``.

        All calls of a validation count together, over its loaders too: each target once, and a task always with the
        same kind of noise.

        Args:
            name: The task.
            prediction: The mean, or logits, as in :meth:`predictive`.
            target: The targets, of the shape of the mean; for classes their indices, or 0 and 1 for yes or no;
                -100 where there is none.
            log_var: The log-variance of a head.
            log_std: The logarithm of the standard deviation of noisy logits.
            mask: bool: True where there is a target, of its shape; by default where it is not NaN.

        Raises:
            TypeError: if one of them is no tensor.
            ValueError: if the task is unknown or has no distribution, the shapes do not fit, or the task was scored
                with another noise in the same validation.
        """
        kind = self._kind(name, log_var, log_std)
        if self._sums is None:
            self._notices.warn("score", _NO_VALIDATION.format(name))
            return
        binary = kind.name == "bernoulli"
        if kind.name in CLASSES and not binary:
            check_classes(prediction, target, mask)
        else:
            check_means(prediction, log_var, target, mask, "logit" if binary else "mean")
        self._check_form(name, "log_var" if log_var is not None else "log_std" if log_std is not None else "no head")
        if mask is None and target.is_floating_point():
            mask = ~target.isnan()
        place = self.task_names.index(name)
        try:
            noise = self._noise(name, kind, log_var)
        except ValueError:  # nothing has told of sigma yet
            return
        if kind.name in CLASSES:
            logits = prediction if log_std is None else mean_logits(prediction, log_std)
            sums = class_sums(logits, target, mask, noise, binary)
        else:
            shift = None if log_var is None else self._shift(place)
            predicted: Any = distribution(kind, prediction, noise, checked=False)
            sums = regression_sums(predicted, target, mask, shift)
        self._sums[place] += sums.to(self._sums)
        self.held_out.scored = True

    def _check_form(self, name: str, form: str) -> None:
        """Raise ``ValueError`` if the task was scored with another noise in this validation: one scale fits one."""
        before = self._forms.setdefault(name, form)
        if before != form:
            raise ValueError(
                f"Task {name!r} was scored with {before} in this validation, and is now with {form}. Expected the same "
                "noise in all calls of a validation, since they count together. Score one of the two, or declare "
                "another task for the other."
            )

    @contextmanager
    def validating(self, *, fit: bool = True) -> Iterator[None]:
        """Take what is weighed and scored inside as one validation, in a loop without a Trainer.

        Afterwards :attr:`scores`, ``sigmas_val`` and :attr:`temperatures` have its numbers. Weigh in it without
        gradients, or after ``eval()``. All processes have to come through it.

        Args:
            fit: False for a test, from which neither sigma nor temperatures follow.

        >>> from lightning_uncertainty import UncertaintyWeighting
        >>> weighting = UncertaintyWeighting({"depth": "gaussian"}, init=0.0)
        >>> with weighting.validating(), torch.no_grad():
        ...     weighting.score("depth", torch.zeros(3), torch.tensor([0.0, 1.0, -2.0]))
        ...     _ = weighting({"depth": torch.tensor(5 / 3)})
        >>> weighting.scores["depth"].mean_squared_z, weighting.sigmas_val["depth"] ** 2
        (1.666..., 1.666...)
        """
        self.begin_scores(fit=fit)
        try:
            yield
            self.end_scores(fit=fit)
        finally:
            self._sums = None

    @torch.inference_mode(False)
    def begin_scores(self, *, fit: bool = True) -> None:
        """Begin a validation, or with ``fit=False`` a test: to sum up scores, and losses. The callback calls it."""
        self.held_out.begin(counted=fit)
        dtype = torch.float32 if self._device.type == "mps" else torch.float64
        self._sums, self._forms = torch.zeros(len(self.tasks), WIDTH, dtype=dtype, device=self._device), {}

    @torch.inference_mode(False)
    def end_scores(self, *, fit: bool) -> dict[str, Score]:
        """Return the scores by task, none if nothing was scored; costs an all-reduce and a transfer to the host.

        Args:
            fit: True if the scale of each head's noise and the temperatures follow from these data.
        """
        self.held_out.end()  # from which all ranks know whether any has scored
        sums, self._sums = self._sums, None
        if sums is None or not self.held_out.scored:
            return {}
        sum_over_ranks(sums, self.process_group)
        rows = dict(zip(self.tasks, sums.tolist(), strict=True))
        data = "validation" if fit else "test"
        read = {name: read_score(row, data) for name, row in rows.items()}
        found = {name: score for name, score in read.items() if score is not None}
        self._scores = {**self._scores, data: {**self._scores.pop(data, {}), **found}}
        self._notices.warn_of_tasks(
            ("not finite", name, _LEFT_OUT.format(name, left, int(row[0]) + left))
            for name, row in rows.items()
            if (left := read_left_out(row))
        )
        if fit:
            shifts = torch.tensor([read_shift(row) for row in rows.values()], dtype=torch.float32, device=self._device)
            self._state.val_shift = torch.where(shifts.isfinite(), shifts, self._state.val_shift)
            self.held_out.derive()
        return found
