"""Factors that follow from one learned log-variance per task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from lightning_uncertainty._arguments import check_bounds, check_init, check_number, lookup
from lightning_uncertainty.engine.scale import Factors
from lightning_uncertainty.engine.state import HostFlags, TaskTensors, move_tensors
from lightning_uncertainty.engine.window import host_values, in_numpy
from lightning_uncertainty.likelihoods import NLL, LikelihoodVector
from lightning_uncertainty.regularizers import Regularizer, get_regularizer
from lightning_uncertainty.strategies.adam import MaskedAdam
from lightning_uncertainty.strategies.base import Strategy
from lightning_uncertainty.strategies.on_host import HostRule
from lightning_uncertainty.tasks import Task

__all__ = ["Uncertainty", "UncertaintyOptions", "UncertaintyState"]

# A first loss outside of this is no loss that anyone means (an overflow, an empty batch): it does not set the scale.
_PLAUSIBLE = (1e-16, 1e16)

_LR, _LARGEST_LR, _WAY = 1e-2, 1e-1, 10.0  # step sizes of s, and how far it can move in a run

# ds is dimensionless: 1/2 at a loss of zero, 0 at the loss that sigma expects, -1/2 at twice that loss. A loss beyond
# 200 times the expected one is an outlier; uncut, Adam's second moment would remember it for thousands of steps.
_MAX_GRADIENT = 100.0


class UncertaintyOptions(TypedDict, total=False):
    """The settings of :class:`Uncertainty`, for the types of functions that pass them on."""

    lr: float | Literal["auto"]
    betas: tuple[float, float]
    eps: float
    init: float | Literal["auto"]
    regularizer: str | Regularizer
    bounds: tuple[float, float]
    min_variance_ratio: float
    prior: float


@dataclass
class UncertaintyState(TaskTensors):
    """The learned log-variance of each task, with the state of its optimizer.

    Attributes:
        log_var: The log-variance ``s = log sigma^2``.
        start: The value that ``s`` started from.
        started: bool: True if ``s`` has such a value.
        exp_avg: The first moment of Adam.
        exp_avg_sq: The second moment of Adam.
        count: The number of Adam's steps.
        moments: The two moments, of shape (2, K), whose rows are ``exp_avg`` and ``exp_avg_sq``. Not a field.
    """

    log_var: Tensor
    start: Tensor = field(metadata={"shown": False})
    started: Tensor
    exp_avg: Tensor = field(metadata={"shown": False})
    exp_avg_sq: Tensor = field(metadata={"negative": False, "shown": False})
    count: Tensor = field(metadata={"negative": False, "shown": False})

    def __post_init__(self) -> None:
        self.moments = torch.stack((self.exp_avg, self.exp_avg_sq))
        self.exp_avg, self.exp_avg_sq = self.moments

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()  # a pickle holds no views

    def to(self, device: torch.device) -> None:
        """Move all tensors to ``device``, as copies."""
        super().to(device)
        self.__post_init__()

    @classmethod
    def of(cls, inits: Sequence[float | None]) -> UncertaintyState:
        """Return the state before the first step; None starts a task from its first loss."""
        values = torch.tensor([init or 0.0 for init in inits], dtype=torch.float32)
        zeros = (torch.zeros_like(values) for _ in range(3))
        return cls(values, values.clone(), torch.tensor([init is not None for init in inits]), *zeros)


class Uncertainty(Strategy):
    r"""Learned homoscedastic uncertainty [Kendall, Gal, Cipolla, CVPR 2018, equations (3) to (7)].

    The factor of a task is ``c exp(-r s)`` and its offset ``R(s)``, where ``c`` and ``r`` are those of its likelihood.
    ``s`` is learned by Adam from the closed-form derivative ``dR/ds - r c exp(-r s) L`` at the mean loss of a step. The
    derivative has no unit, and is cut at +-100: a loss 200 times the expected one is an outlier.

    Args:
        lr: The step size of Adam on ``s``; constant. ``"auto"`` is 0.01, and more in a run that is known to have fewer
            than 1,000 steps, so that ``s`` can move by 10 in it; at most 0.1.
        betas: The decay rates of Adam. The second is 0.99, so that a single outlier does not slow ``s`` down for long.
        eps: The epsilon of Adam.
        init: ``"auto"`` starts each ``s`` at the closed-form optimum of the first loss of its task, averaged over
            ranks, or of the running mean of its losses, while a guard trains the plain sum; a number is that ``s`` for
            all tasks.
        regularizer: The function ``R``: ``"log_sigma"`` (``s / 2``), ``"sigma"`` (equation (7) as printed) or
            ``"log1p_var"`` (Liebel and Koerner).
        bounds: The lowest and the highest ``s``.
        min_variance_ratio: The fraction of its initial value that ``sigma^2`` never falls below, so that a loss that
            goes to zero does not take over. 0 turns it off.
        prior: The part ``b`` of the first loss ``L(0)`` that is added to the loss of which the factor follows: that is
            then at most ``1 / (2 r b L(0))``, however small the loss becomes. Sigma stays that of the loss alone: for a
            Gaussian ``exp(s) = exp(t) - b L(0)``, where the factor is ``exp(-t) / 2``. 0.01 tames tasks that are nearly
            deterministic, more softly than ``min_variance_ratio`` and ``bounds``.

    Raises:
        ValueError: if a setting is not valid.
    """

    name = "uncertainty"
    default_scale = "sum"
    guarded = True
    state: UncertaintyState

    def __init__(
        self,
        *,
        lr: float | Literal["auto"] = "auto",
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        init: float | Literal["auto"] = "auto",
        regularizer: str | Regularizer = "log_sigma",
        bounds: tuple[float, float] = (-40.0, 40.0),
        min_variance_ratio: float = 1e-4,
        prior: float = 0.0,
    ) -> None:
        ratio = check_number("min_variance_ratio", min_variance_ratio, above=0.0, below=1.0)
        self.init, self.bounds = check_init(init), check_bounds(bounds)
        self.regularizer = get_regularizer(regularizer)
        self.prior = check_number("prior", prior, above=0.0)
        self.min_log_ratio = math.log(ratio) if ratio else -math.inf
        self.follows_length = isinstance(lr, str) and lr == "auto"
        self.adam = MaskedAdam(lr=_LR if self.follows_length else lr, betas=betas, eps=eps)  # type: ignore[arg-type]

    def bind(self, tasks: Sequence[Task]) -> None:
        bounds = [task.bounds or self.bounds for task in tasks]
        self.likelihoods = LikelihoodVector([task.likelihood for task in tasks])
        self.learned = {task.name: task.likelihood.learned for task in tasks}
        tempered = any(task.likelihood.tempered for task in tasks)
        self.quick = self.regularizer.linear and not (self.prior or tempered)  # a step on a CPU may do without torch
        self.floor, self.ceiling = torch.tensor(bounds, dtype=torch.float32).unbind(1)
        self._zero = torch.zeros_like(self.floor)
        self._max_gradient, self._min_gradient = self._zero + _MAX_GRADIENT, self._zero - _MAX_GRADIENT
        self._minus_rate = -self.likelihoods.rate
        self._tamed = self.likelihoods.learned & (self.likelihoods.rate > 0.0)
        given = [1e-30 if task.likelihood == NLL else math.nan for task in tasks]
        self._given_pull = torch.tensor(given, dtype=torch.float32)
        self._unknown = torch.full_like(self.floor, math.nan)
        inits = [_initial(task, self.init, limits) for task, limits in zip(tasks, bounds, strict=True)]
        self.state = UncertaintyState.of(inits)
        self._from_data = ~self.state.started
        self._first = self._unknown.clone()
        self._push = self._push_at(self.log_var)
        rule = self.likelihoods.learned, self._push, self._minus_rate, self.likelihoods.coefficient
        self.on_host = HostRule(self.adam, *rule, largest=_MAX_GRADIENT)
        self.restored()

    def expect(self, steps: float) -> None:
        if self.follows_length:
            self.adam.use(max(_LR, min(_LARGEST_LR, _WAY / max(steps, 1))))

    # ------------------------------------------------------------------------------------------------ what follows

    def _settle(self) -> None:
        """Ask, at the price of a host transfer, whether all tasks have a value; until then each call looks."""
        self.settled = bool(self.state.started.all())
        self._started_flag = HostFlags()

    def _derive_start(self) -> None:
        """Derive what follows from where ``s`` has started, and from nothing that a step changes."""
        # The lower bound in force: absolute, or relative to the start, whichever is higher.
        self.lower = torch.maximum(self.floor, self.state.start + self.min_log_ratio)
        self._movable = self.state.started & self.likelihoods.learned
        self._pending = ~self.state.started
        if self.prior:
            prior_loss = self.prior * self._expected(self.state.start)
            self._prior_loss = torch.where(self._tamed, prior_loss, self._zero)
        self._first_factor = self.likelihoods.factor(self._with_prior(self.state.start))
        self._pull = self._pull_at(self._push, self.state.started)

    def _derive(self) -> None:
        """Derive factors and offsets; new tensors, for graphs that hold the old ones."""
        self._weighing = self._with_prior(self.log_var)
        if self.quick and in_numpy(self.log_var):
            # As each step does: torch rounds otherwise, and a resume would differ.
            self.factor, self.offset = self.on_host.derive(self.state)
            return
        self.factor = self.likelihoods.factor(self._weighing)
        if self.regularizer.linear:
            self.offset = self._push * self._weighing
        else:
            self.offset, self._push = self._offset_at(self._weighing), self._push_at(self._weighing)
            self._pull = self._pull_at(self._push, self.state.started)
        if self.prior:
            self.offset = self.offset + self.factor * self._prior_loss

    def _expected(self, log_var: Tensor) -> Tensor:
        """Return the losses whose optimum is ``log_var``; NaN where there is none."""
        return self._push_at(log_var) / (self.likelihoods.rate * self.likelihoods.factor(log_var))

    def _with_prior(self, log_var: Tensor) -> Tensor:
        """Return the ``t`` of which the factors follow: the optimum of the loss that ``s`` expects, and the prior's."""
        if not self.prior:
            return log_var
        optimum = self.likelihoods.optimum(self._expected(log_var) + self._prior_loss, self.regularizer)
        return torch.where(self._tamed, optimum, log_var)

    def _without_prior(self, weighing: Tensor) -> Tensor:
        """Return the ``s`` that :meth:`_with_prior` makes ``weighing`` of; very low where there is none."""
        loss = (self._expected(weighing) - self._prior_loss).clamp(min=torch.finfo(weighing.dtype).tiny)
        return torch.where(self._tamed, self.likelihoods.optimum(loss, self.regularizer), weighing)

    def _offset_at(self, log_var: Tensor) -> Tensor:
        return self.likelihoods.regularized * self.regularizer.value(log_var)

    def _push_at(self, log_var: Tensor) -> Tensor:
        """Return the derivatives of the regularisers."""
        return self.likelihoods.regularized * self.regularizer.derivative(log_var)

    @property
    def now(self) -> Factors:
        """The factors in force, and what their common scale follows from."""
        return Factors(self.factor, self.offset, self._pull, self._first_factor)

    def _pull_at(self, push: Tensor, started: Tensor) -> Tensor:
        """Return the factors times the losses whose optimum has them, ``R' / r``; 0 without ``s``, NaN for fixed tasks.

        An exact softmax has factor 1 whatever its loss is; half a nat is then as good as any.
        """
        pull = torch.where(self.likelihoods.rate > 0.0, push / self.likelihoods.rate, 0.5)
        return torch.where(self.likelihoods.learned, torch.where(started, pull, self._zero), self._given_pull)

    def _optimum(self, raw_loss: Tensor) -> Tensor:
        return self.likelihoods.optimum(raw_loss, self.regularizer).clamp(self.floor, self.ceiling)

    @property
    def log_var(self) -> Tensor:
        return self.state.log_var

    # ------------------------------------------------------------------------------------------------ the rule

    def factors(self, raw_loss: Tensor) -> Factors:
        """Return those in force; for a task without ``s``, those at the optimum of its first loss since the last step.

        That ``s`` is kept until the step, so that totals of one step can be compared, as a line search does.
        """
        fresh = self._pending & torch.isfinite(raw_loss) & (raw_loss > 0.0)
        first = torch.where(self._first.isnan() & fresh, self._optimum(raw_loss), self._first)
        if torch.is_grad_enabled():
            self._first.copy_(first)
        fresh = self._pending & torch.isfinite(first)
        if self.prior:  # as if it had started there
            both = self.likelihoods.optimum((1.0 + self.prior) * self._expected(first), self.regularizer)
            first = torch.where(self._tamed, both, first)
        at_first = self.likelihoods.factor(first)
        pull = self._pull_at(self._push_at(first), fresh)
        fresh_ones = at_first, self._offset_at(first), pull, at_first
        in_force: Any = self.now
        return Factors(*(torch.where(fresh, new, old) for new, old in zip(fresh_ones, in_force, strict=True)))

    def discard(self) -> None:
        """Forget the ``s`` of tasks that have not started."""
        self._first.copy_(self._unknown)

    def start(self, mean_loss: Tensor, present: Tensor) -> Tensor:
        """Set ``s`` to the closed-form optimum where it has no value yet; these tasks do not learn in this step.

        At the optimum the gradient is zero but for rounding, which Adam would turn into a full step. A first loss that
        is zero, negative, or beyond 1e-16 to 1e16 does not set the scale.
        """
        if self.settled:
            return present
        left = self._set(mean_loss, present, self._pending)
        self.settled = self._started_flag.poll(self.state.started.all().reshape(1))
        return left

    def track(self, mean_loss: Tensor, present: Tensor) -> Tensor:
        """Set ``s`` to the closed-form optimum, as :meth:`start` does, wherever the data have set it before."""
        return self._set(mean_loss, present, self._from_data)

    def _set(self, mean_loss: Tensor, present: Tensor, chosen: Tensor) -> Tensor:
        optimum = self._optimum(mean_loss)
        fresh = chosen & present & (mean_loss > _PLAUSIBLE[0]) & (mean_loss < _PLAUSIBLE[1])
        for tensor in (self.state.log_var, self.state.start):
            tensor.copy_(torch.where(fresh, optimum, tensor))
        self.state.started |= fresh
        self.discard()
        self._derive_start()
        self._derive()
        return present & ~fresh

    def learn(self, mean_loss: Tensor, slope: Tensor | None, present: Tensor) -> None:
        """Take one step of Adam on the closed-form derivative."""
        active = present & self._movable
        if self.quick and in_numpy(mean_loss):
            self.learn_on_host(host_values(mean_loss), host_values(active))
            return
        # `Likelihood.derivative` at the present s, whose factors are known already, plus the slope.
        mean_loss = mean_loss + self._prior_loss if self.prior else mean_loss
        gradient = torch.addcmul(self._push, self._minus_rate * self.factor, mean_loss)
        gradient = gradient if slope is None else gradient + slope
        gradient = torch.where(active, gradient, self._zero).clamp_(self._min_gradient, self._max_gradient)
        state = self.state
        change = self.adam.update(state.moments, state.count, gradient, active)
        if self.prior:
            state.log_var = torch.where(active, self._without_prior(self._weighing - change), state.log_var)
        else:
            state.log_var -= change
        # Projected after the step, not clamped in the formula: at a bound the gradient still points the way back.
        state.log_var.clamp_(self.lower, self.ceiling)
        self._derive()

    def learn_on_host(self, mean_loss: Any, active: Any = None) -> None:
        """Take the step of :meth:`learn` on a CPU without torch, to rounding; for a linear regulariser.

        Args:
            mean_loss: The mean losses, as ``host_values`` has them.
            active: The tasks that learn, in the same way; None for all that can.
        """
        if self.on_host.rounded is not self.factor:  # it comes from another device
            self.on_host.take(self.factor)
        self.factor, self.offset = self.on_host.learn(self.state, mean_loss, self.lower, self.ceiling, active)

    # ------------------------------------------------------------------------------------------------ state

    def assign(self, log_vars: Mapping[str, float]) -> None:
        """Set ``s`` of some tasks: a new start, without memory."""
        limits = dict(zip(self.learned, zip(self.floor.tolist(), self.ceiling.tolist(), strict=True), strict=True))
        for name, value in log_vars.items():
            lowest, highest = lookup("learned task", name, {n: limits[n] for n in limits if self.learned[n]})
            if not lowest <= value <= highest:
                raise ValueError(
                    f"Task {name!r} cannot have a log-variance of {value}: its bounds are {lowest:g} and {highest:g}."
                )
        state = self.state
        chosen = torch.tensor([name in log_vars for name in limits], device=state.log_var.device)
        values = torch.tensor([float(log_vars.get(name, 0.0)) for name in limits], dtype=torch.float32)
        for tensor in (state.log_var, state.start):
            tensor.copy_(torch.where(chosen, values.to(tensor.device), tensor))
        state.started |= chosen
        for tensor in (state.moments, state.count):
            tensor.masked_fill_(chosen, 0.0)
        self.restored()

    def restored(self) -> Tensor:
        """Move ``s`` and its start into the bounds, and derive the rest; return where that changed ``s``."""
        before = self.log_var.clone()
        self.state.start.clamp_(self.floor, self.ceiling)
        self._derive_start()
        self.state.log_var.clamp_(self.lower, self.ceiling)
        self._derive()
        self._settle()
        return before != self.log_var

    def columns(self) -> dict[str, Tensor]:
        bounds = {"at_lower": self.log_var <= self.lower, "at_upper": self.log_var >= self.ceiling}
        return {**super().columns(), **bounds, "precision": self.likelihoods.precision(self.log_var)}

    def to(self, device: torch.device) -> None:
        super().to(device)
        for holder in (self.likelihoods, self.adam):
            move_tensors(holder, device)


def _initial(task: Task, default: float | Literal["auto"], bounds: tuple[float, float]) -> float | None:
    """Return the initial ``s``, None where the first loss decides."""
    if not task.likelihood.learned:
        return 0.0
    init = default if task.init is None else task.init
    if init == "auto":
        return None if task.likelihood.regularized else 0.0
    if not bounds[0] <= init <= bounds[1]:
        raise ValueError(f"The initial log-variance of task {task.name!r}, {init}, lies outside its bounds {bounds}.")
    return init
