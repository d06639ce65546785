"""The engine: named losses in, one scalar out, and log-variances that learn beside the model like a GradScaler."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypedDict

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_uncertainty._arguments import check_bounds, check_choice, check_init, check_number, check_steps, lookup
from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.cross_entropy import CrossEntropy
from lightning_uncertainty.engine.losses import CompiledKeys, RawLosses, SampleCounts, sample_counts
from lightning_uncertainty.engine.state import HostFlag, SavedState, read_state, unmatched, write_state
from lightning_uncertainty.engine.total import weighted_sum
from lightning_uncertainty.engine.window import LossWindow, sum_over_ranks, world_size
from lightning_uncertainty.findings import findings_of
from lightning_uncertainty.likelihoods import LikelihoodVector
from lightning_uncertainty.regularizers import Regularizer, get_regularizer
from lightning_uncertainty.snapshot import Snapshot, TaskSnapshot
from lightning_uncertainty.strategies.adam import MaskedAdam
from lightning_uncertainty.strategies.uncertainty import LogVariances
from lightning_uncertainty.tasks import Task, TaskSpecs, parse_tasks

__all__ = ["UncertaintyWeighting", "WeightingOptions"]

_LOOK_EVERY = 100  # steps
_HALF_MAX = torch.finfo(torch.float16).max


class UncertaintyWeighting:
    r"""Weights losses by learned homoscedastic uncertainty.

    For losses ``L_k`` and log-variances ``s_k = log sigma_k^2`` it returns

    .. math:: \sum_k c_k e^{-r_k s_k} L_k + R(s_k)

    [Kendall, Gal, Cipolla, CVPR 2018, equations (3) to (7)], where ``c`` and ``r`` follow from the likelihood of each
    task (:mod:`~lightning_uncertainty.likelihoods`), and learns ``s`` by its own Adam, one :meth:`step` per optimizer
    step, from the closed-form derivative at the mean of all losses since the last step, over micro-batches and ranks.
    That derivative has no unit, and is cut at +-100: a loss 200 times the expected one is an outlier.
    The gradient that reaches the network is that of the formula with ``s`` held constant, which is what it is in the
    article too. With equal settings ``s`` follows the path of a ``Parameter`` in the user's optimizer.

    It is no ``nn.Module``: nothing of it is in ``parameters()``, so weight decay, gradient clipping, schedulers,
    precision plugins and sharding strategies cannot touch it. Its state is fp32 whatever the precision of the model.

    A task whose key is left out of ``losses``, or whose loss is NaN or infinite, sits out: neither its loss, nor its
    regulariser, nor its moments take part.

    Args:
        tasks: ``{"depth": "laplace", "class": "softmax", "aux": 0.1}`` or a list of :class:`Task`.
        lr: step size of Adam on ``s``; constant.
        betas: decay rates of Adam.
        eps: epsilon of Adam.
        init: ``"auto"`` starts each ``s`` at the closed-form optimum of the first loss of its task, averaged over
            ranks; a number is that ``s`` for all tasks.
        regularizer: ``R``: ``"log_sigma"`` (``s / 2``), ``"sigma"`` (equation (7) as printed) or ``"log1p_var"``
            (Liebel and Koerner).
        bounds: lowest and highest ``s``.
        min_variance_ratio: ``sigma^2`` never falls below this fraction of its initial value, so that a loss that goes
            to zero does not take over. 0 turns it off.
        warmup_steps: for so many steps ``s`` does not learn.
        warmup: what the weights are until then: ``"initial"`` (those of the initial ``s``) or ``"equal"`` (all 1, the
            plain sum; with ``init="auto"``, ``s`` then starts from the losses at the end of the warm-up).
        freeze_after: after so many steps ``s`` stays as it is.
        nonfinite: ``"skip"`` lets a task with a NaN or infinite loss sit out, counts it and warns once; ``"raise"``
            raises at once, at the price of a host synchronisation in every call.
        process_group: the processes to average over; by default all of ``torch.distributed``.

    Raises:
        ValueError: if an argument is not valid.
        TypeError: if ``tasks`` has none of the forms above.

    Example:
        >>> weighting = UncertaintyWeighting({"depth": "laplace", "class": "softmax"}, init=0.0)
        >>> depth, label = (torch.tensor(x, requires_grad=True) for x in (2.0, 0.5))
        >>> total = weighting({"depth": depth, "class": label})
        >>> total.backward()  # then optimizer.step(), and
        >>> weighting.step()
        >>> {name: round(s, 4) for name, s in weighting.log_vars.items()}
        {'depth': 0.01, 'class': 0.0}
    """

    @torch.inference_mode(False)  # made in a validation, it must still train
    def __init__(
        self,
        tasks: TaskSpecs,
        *,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        init: float | Literal["auto"] = "auto",
        regularizer: str | Regularizer = "log_sigma",
        bounds: tuple[float, float] = (-40.0, 40.0),
        min_variance_ratio: float = 1e-4,
        warmup_steps: int = 0,
        warmup: Literal["initial", "equal"] = "initial",
        freeze_after: int | None = None,
        nonfinite: Literal["skip", "raise"] = "skip",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.tasks = {task.name: task for task in parse_tasks(tasks)}
        check_choice("warmup", warmup, ("initial", "equal"))
        check_choice("nonfinite", nonfinite, ("skip", "raise"))
        check_steps("warmup_steps", warmup_steps)
        check_steps("freeze_after", 0 if freeze_after is None else freeze_after)
        check_number("min_variance_ratio", min_variance_ratio, above=0.0, below=1.0)
        init, bounds = check_init(init), check_bounds(bounds)
        self.warmup_steps, self.warmup, self.freeze_after = warmup_steps, warmup, freeze_after
        self.nonfinite, self.process_group = nonfinite, process_group
        self.training = True
        self.observers: list[Callable[[Mapping[str, Tensor | CrossEntropy], Tensor], None]] = []  # of recorded calls
        self.steps = 0
        self._frozen = False
        self._settled = self._trouble_seen = False
        self._started_flag, self._trouble_flag = HostFlag(), HostFlag()
        self._notices = Notices()
        self._compiled_keys = CompiledKeys(self._notices)

        size = len(self.tasks)
        inits = [_initial(task, init, task.bounds or bounds) for task in self.tasks.values()]
        self.regularizer = get_regularizer(regularizer)
        self._likelihoods = LikelihoodVector([task.likelihood for task in self.tasks.values()])
        self._log_vars = LogVariances(
            self._likelihoods,
            inits=inits,
            bounds=[task.bounds or bounds for task in self.tasks.values()],
            min_variance_ratio=min_variance_ratio,
            regularizer=self.regularizer,
            adam=MaskedAdam(size, lr=lr, betas=betas, eps=eps),
        )
        self._raw_loss = torch.full((size,), math.nan, dtype=torch.float32)
        self._lowest_loss = torch.zeros(size, dtype=torch.float32)
        self._raw_losses = RawLosses(self.tasks, self._notices)
        self._counts = torch.zeros(2, size, dtype=torch.long)  # losses that were not finite, steps without the task
        self._window = LossWindow(size)
        self._cut = torch.zeros(size, dtype=torch.bool)  # weights that were beyond the range of their fp16 loss
        self._held = torch.zeros(size, dtype=torch.bool)  # tasks that need no start yet
        self._settle(all(value is not None for value in inits))
        self._derive()

    # ------------------------------------------------------------------------------------------------ weighing

    def __call__(self, losses: Mapping[str, Tensor | CrossEntropy], *, samples: SampleCounts | None = None) -> Tensor:
        """The weighted total, a scalar of at least single precision, ready for ``backward()``.

        In training (``training`` is True and gradients are enabled) the losses are remembered for the next
        :meth:`step`; otherwise nothing changes. If all tasks sit out, the total is a zero that can be back-propagated.

        Args:
            losses: scalar loss by task name, in any order; ``CrossEntropy(logits, target)`` for an exact softmax.
            samples: how many samples the losses are means of, one number for all or one for each task. The mean that
                ``s`` learns from, which is also the logged one, is then over samples and not over calls, in every
                micro-batch and on every rank; so give it always or never. The total and its gradient are the same.

        Raises:
            TypeError: if a loss is not a tensor, or not of floating point, or a sample count is no number.
            ValueError: if a task is unknown, or a loss is not scalar, on another device, or without a graph while
                training; or if a sample count is missing, negative, not finite or no scalar.
            FloatingPointError: if a loss is not finite and ``nonfinite="raise"``.
        """
        recording = self.training and torch.is_grad_enabled()
        if torch.compiler.is_compiling():
            self._compiled_keys.note(tuple(losses), recording)
        raw_loss, slope, given, half = self._raw_losses.gather(losses, self._log_vars.value, recording)
        counts = None if samples is None else sample_counts(samples, losses, self.tasks, self.device)
        weight, offset = self._weights_for(raw_loss.detach(), recording, counts)
        if half is not None:
            weight = self._within_half(weight, half, recording)
        if raw_loss.dtype != torch.float32:  # s is learned in single precision: what lies beyond sits out
            offset = torch.where(torch.isfinite(raw_loss.detach().to(torch.float32)), offset, torch.nan)
        total, marked = weighted_sum(raw_loss, weight, offset)
        if self.nonfinite == "raise":
            self._raise_if_refused(marked, given)
        if recording:
            for observer in self.observers:
                observer(losses, weight)
            self._window.record(raw_loss.detach().to(torch.float32), marked, slope, given, counts)
            return total if losses else total.requires_grad_()
        # A zero here would look like the best validation ever.
        return torch.where(marked.isnan().all(), torch.nan, total) if losses else total

    def _weights_for(self, raw_loss: Tensor, recording: bool, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights and regularisers; of a task that has no ``s`` yet, those that this very loss gives it."""
        # Compiled, the branch would be a guard that fails later on, and the general path costs nothing.
        if not torch.compiler.is_compiling():
            if self._settled:
                return self._factor, self._offset
            if recording and self._opening:
                raw_loss = self._mean_over_ranks(raw_loss, counts)
        log_var, fresh = self._log_vars.provisional(raw_loss.to(torch.float32), self._held)
        weight = torch.where(fresh, self._likelihoods.factor(log_var), self._factor)
        return weight, torch.where(fresh, self._log_vars.offset_at(log_var), self._offset)

    def _within_half(self, weight: Tensor, half: Tensor, recording: bool) -> Tensor:
        """The weights, those of losses in fp16 cut at its largest number: beyond, their gradient would be infinite."""
        beyond = half & (weight > _HALF_MAX)
        if recording:
            self._cut |= beyond
        return torch.where(beyond, _HALF_MAX, weight)

    def _mean_over_ranks(self, raw_loss: Tensor, counts: Tensor | None) -> Tensor:
        if world_size(self.process_group) == 1:
            return raw_loss
        finite = torch.isfinite(raw_loss)
        counts = finite.to(raw_loss.dtype) if counts is None else torch.where(finite, counts, 0.0)
        stats = torch.stack([torch.where(finite, raw_loss * counts, 0.0), counts.to(raw_loss.dtype)])
        sum_over_ranks(stats, self.process_group)
        return stats[0] / stats[1]

    def _raise_if_refused(self, marked: Tensor, given: Tensor | None) -> None:
        refused = (marked.isnan() if given is None else marked.isnan() & given).tolist()
        if names := [repr(name) for name, yes in zip(self.tasks, refused, strict=True) if yes]:
            raise FloatingPointError(f"The loss of {', '.join(names)} is NaN or infinite in step {self.steps}.")

    # ------------------------------------------------------------------------------------------------ learning

    def step(self) -> None:
        """Learn from the losses since the last step. Call once after each ``optimizer.step()``, on every rank."""
        if torch.is_inference_mode_enabled():  # asked first, because leaving it takes longer than an operation
            with torch.inference_mode(False):
                self.step()
            return
        means = self._window.close(self.process_group)
        present = means.present
        self._raw_loss = torch.where(present, means.raw_loss, self._raw_loss)
        self._lowest_loss = torch.fmin(self._lowest_loss, self._raw_loss)
        self._counts += torch.stack((means.refused, ~present))
        if not self._settled and not self._warming_up_equal:
            # At the optimum the gradient is zero but for rounding, which Adam would turn into a full step.
            present = present & ~self._log_vars.begin(means.raw_loss, present)
            self._settled = self._started_flag.poll(self._log_vars.started.all())
        if self.learning:
            self._log_vars.learn(means.raw_loss, means.slope, present)
        self.steps += 1
        self._derive()
        self._look_for_trouble()

    def _look_for_trouble(self) -> None:
        """Now and then, without waiting for the device: a loop that reads nothing should hear of trouble too."""
        if self.steps % _LOOK_EVERY == 0 and not self._trouble_seen:
            trouble = (self._counts[0] > 0) | (self._lowest_loss < 0.0)
            self._trouble_seen = self._trouble_flag.poll(trouble.any())
            if self._trouble_seen:
                self.snapshot()  # which says it

    @property
    def learning(self) -> bool:
        """Whether the next step moves ``s``: the warm-up is over and nothing is frozen."""
        return self.steps >= self.warmup_steps and not self.frozen

    @property
    def _warming_up_equal(self) -> bool:
        return self.warmup == "equal" and self.steps < self.warmup_steps

    @property
    def _opening(self) -> bool:
        """Whether this is the first window in which an ``s`` can get a value.

        In it the ranks agree on the mean loss of each call, so that they all start with the same weights. It follows
        from the state, so that a resumed run reduces what the uninterrupted one reduces.
        """
        return self.steps == (self.warmup_steps if self.warmup == "equal" else 0)

    @property
    def frozen(self) -> bool:
        """Whether ``s`` stays as it is: after :meth:`freeze`, or ``freeze_after`` steps."""
        return self._frozen or (self.freeze_after is not None and self.steps >= self.freeze_after)

    def freeze(self) -> None:
        """Keep ``s`` as it is from now on. The losses are still weighed, logged and counted.

        A task that has no ``s`` yet still starts from its first loss, and then stays there.
        """
        self._frozen = True

    def unfreeze(self) -> None:
        """Undo :meth:`freeze`."""
        self._frozen = False

    def discard(self) -> None:
        """Forget the losses since the last step, as gradients are forgotten by ``zero_grad()``."""
        self._window.clear()

    @property
    def waiting(self) -> bool:
        """Whether losses were weighed since the last step; a host transfer."""
        return not self._window.empty

    def train(self, mode: bool = True) -> UncertaintyWeighting:
        """Set whether calls remember their losses for the next step. The callback does this."""
        self.training = mode
        return self

    def eval(self) -> UncertaintyWeighting:
        """Calls change nothing, also when gradients are enabled."""
        return self.train(False)

    def _settle(self, settled: bool) -> None:
        """Remember on the host whether every ``s`` has a value. Until then each call looks."""
        self._settled = settled
        self._started_flag = HostFlag()

    def _derive(self) -> None:
        """The weights and regularisers in force."""
        self._factor, self._offset = self._log_vars.factor, self._log_vars.offset
        if self.warmup == "equal":
            self._held = torch.full_like(self._log_vars.started, self._warming_up_equal)
            if self._warming_up_equal:
                self._factor = self._factor.masked_fill(self._log_vars.learned, 1.0)
                self._offset = torch.zeros_like(self._offset)

    # ------------------------------------------------------------------------------------------------ reading

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names in the order of the vectors."""
        return tuple(self.tasks)

    @property
    def device(self) -> torch.device:
        """Where the losses are expected."""
        return self._log_vars.value.device

    @property
    def log_var(self) -> Tensor:
        """A copy of ``s``, fp32, of shape (K,), in the order of :attr:`task_names`."""
        return self._log_vars.value.clone()

    def snapshot(self) -> Snapshot:
        """All there is to know of the weights now: one transfer to the host. Says what needs to be said, once."""
        return self.snapshot_later()()

    @torch.no_grad()
    def snapshot_later(self) -> Callable[[], Snapshot]:
        """Gives the snapshot of now when it is called: the transfer to the host waits until then."""
        s = self._log_vars
        columns = (
            s.value,
            self._likelihoods.precision(s.value),
            self._factor,
            self._raw_loss,
            self._lowest_loss,
            self._counts[0],
            s.value <= s.lower,
            s.value >= s.ceiling,
            s.started,
            self._cut,
            self._offset,
            self._counts[1],
        )
        table = torch.stack([column.to(torch.float32) for column in columns], dim=1)
        return partial(self._read, self.steps, table)

    def _read(self, steps: int, table: Tensor) -> Snapshot:
        tasks = {}
        for (name, task), row in zip(self.tasks.items(), table.tolist(), strict=True):
            log_var, precision, factor, raw_loss, lowest, nonfinite, at_lower, at_upper, started, cut, *rest = row
            learned = task.likelihood.learned
            tasks[name] = TaskSnapshot(
                likelihood=task.likelihood.name,
                log_var=log_var,
                sigma=math.exp(0.5 * log_var) if learned else None,
                precision=precision,
                factor=factor,
                raw_loss=raw_loss,
                nonfinite=int(nonfinite),
                at_bound=("lower" if at_lower else "upper" if at_upper else None) if learned else None,
                started=bool(started),
                offset=rest[0],
                absent=int(rest[1]),
                lowest_loss=lowest,
                cut=bool(cut),
                unit=task.unit,
            )
        snapshot = Snapshot(steps, tasks)
        for found in findings_of(snapshot):
            self._notices.warn(found.subject, str(found))
        return snapshot

    @property
    def log_vars(self) -> dict[str, float]:
        """``s = log sigma^2`` by name, 0 before the first loss; without the fixed tasks. Can be assigned, some or all.

        Raises:
            ValueError: on assigning to an unknown or fixed task, or a value outside its bounds.
        """
        tasks = self.snapshot().tasks.items()
        return {name: task.log_var for name, task in tasks if task.sigma is not None}

    @log_vars.setter
    def log_vars(self, values: Mapping[str, float]) -> None:
        self._assign(values)

    @property
    def sigmas(self) -> dict[str, float]:
        """``sigma`` by name, in the unit of the target for a regression; without the fixed tasks. Can be assigned."""
        tasks = self.snapshot().tasks.items()
        return {name: task.sigma for name, task in tasks if task.sigma is not None}

    @sigmas.setter
    def sigmas(self, values: Mapping[str, float]) -> None:
        self._assign({name: 2.0 * _log("sigma", name, value) for name, value in values.items()})

    @property
    def weights(self) -> dict[str, float]:
        """Effective ``sigma^-2`` by name (Laplace: ``1 / b``; fixed: the weight). Can be assigned where learned."""
        return {name: task.precision for name, task in self.snapshot().tasks.items()}

    @weights.setter
    def weights(self, values: Mapping[str, float]) -> None:
        rates = {name: float(task.likelihood.precision_rate) or 1.0 for name, task in self.tasks.items()}
        self._assign({n: -_log("weight", n, value) / rates.get(n, 1.0) for n, value in values.items()})

    def fixed_weights(self) -> dict[str, float]:
        """The factors before the raw losses as they are now, to be used as ``tasks`` of a run that learns none.

        For an exact softmax, which has no such factor, it is that of its approximation, equation (6).

        >>> from lightning_uncertainty import UncertaintyWeighting
        >>> UncertaintyWeighting(UncertaintyWeighting({"depth": "gaussian"}, init=0.0).fixed_weights()).weights
        {'depth': 0.5}
        """
        tasks = self.snapshot().tasks.items()
        return {n: t.precision if self.tasks[n].likelihood.tempered else t.factor for n, t in tasks}

    @torch.inference_mode(False)
    def _assign(self, log_vars: Mapping[str, float]) -> None:
        learned = {name: task for name, task in self.tasks.items() if task.likelihood.learned}
        floor, ceiling = self._log_vars.floor.tolist(), self._log_vars.ceiling.tolist()
        values = dict.fromkeys(self.tasks, 0.0)
        for name, value in log_vars.items():
            lookup("learned task", name, learned)
            index = self.task_names.index(name)
            if not floor[index] <= value <= ceiling[index]:
                raise ValueError(
                    f"Task {name!r} cannot have a log-variance of {value}: its bounds are {floor[index]:g} and "
                    f"{ceiling[index]:g}."
                )
            values[name] = value
        chosen = torch.tensor([name in log_vars for name in self.tasks], device=self.device)
        self._log_vars.assign(chosen, torch.tensor(list(values.values()), dtype=torch.float32, device=self.device))
        self._settle(bool(self._log_vars.started.all()))
        self._derive()

    def __repr__(self) -> str:
        tasks = ", ".join(f"{name!r}: {task.likelihood.name!r}" for name, task in self.tasks.items())
        return f"{type(self).__name__}({{{tasks}}}, steps={self.steps})"

    # ------------------------------------------------------------------------------------------------ moving

    @torch.inference_mode(False)
    def to(self, device: torch.device | str | int) -> UncertaintyWeighting:
        """Move to ``device``, as copies: nothing is shared with other processes afterwards. The dtypes stay."""
        target = torch.device(device)
        self._window.flush()
        holders = (self, self._raw_losses, self._likelihoods, self._log_vars, self._log_vars.adam, self._window)
        for holder in holders:
            for name, value in vars(holder).items():
                if isinstance(value, Tensor):
                    setattr(holder, name, value.to(target, copy=True))
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> UncertaintyWeighting:
        """A copy that shares nothing but the process group, which cannot be copied. Moving averages copy modules."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        memo[id(self.process_group)] = self.process_group
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, by task name, on the CPU; loads with ``weights_only=True``.

        The losses since the last step are not part of it, as gradients are not part of a model's.
        """
        return write_state(self._short_forms(), self.regularizer.name, self.steps, self._frozen, self._state())

    @torch.inference_mode(False)
    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``. Tasks are matched by name: new ones start from the data, vanished ones are dropped.

        Raises:
            ValueError: if ``state`` is not usable; then nothing was loaded.
        """
        own = self._state()
        saved = read_state(state, list(own))
        self._warn_of_differences(saved)
        matched = [name for name, form in self._short_forms().items() if saved.tasks.get(name) == form]
        here = torch.tensor([self.task_names.index(name) for name in matched], dtype=torch.long)
        there = torch.tensor([list(saved.tasks).index(name) for name in matched], dtype=torch.long)
        for key, tensor in own.items():
            tensor[here.to(tensor.device)] = saved.tensors[key].cpu()[there].to(tensor)
        for name, moved in zip(self.tasks, self._log_vars.project().tolist(), strict=True):
            if moved:
                self._notices.warn(
                    f"projected {name}",
                    f"The log-variance of task {name!r} in the checkpoint lies outside its bounds, and was "
                    "moved to the nearest one.",
                )
        self.steps, self._frozen = saved.steps, saved.frozen
        self.discard()
        self._settle(bool(self._log_vars.started.all()))
        self._derive()

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> UncertaintyWeighting:
        """An engine with the tasks, the regulariser and the values of ``state``, and otherwise default options.

        Raises:
            ValueError: if ``state`` is not usable, or has a likelihood that is not one of this package.
        """
        saved = read_state(state, ())
        weighting = cls(saved.tasks, regularizer=saved.regularizer)
        weighting.load_state_dict(state)
        return weighting

    def _state(self) -> dict[str, Tensor]:
        counts = {"nonfinite": self._counts[0], "absent": self._counts[1]}
        return {**self._log_vars.state(), "raw_loss": self._raw_loss, **counts}

    def _short_forms(self) -> dict[str, str | float]:
        """What :func:`parse_tasks` would make these tasks of."""
        kinds = {name: task.likelihood for name, task in self.tasks.items()}
        return {name: kind.name if kind.learned else float(kind.coefficient) for name, kind in kinds.items()}

    def _warn_of_differences(self, saved: SavedState) -> None:
        for name, sentence in unmatched(saved.tasks, self._short_forms()).items():
            self._notices.warn(f"unmatched {name}", sentence)
        if saved.regularizer != self.regularizer.name:
            self._notices.warn(
                "regularizer",
                f"The checkpoint was trained with regularizer={saved.regularizer!r}, and this is "
                f"{self.regularizer.name!r}: sigma will move to another optimum.",
            )


class WeightingOptions(TypedDict, total=False):
    """The options of :class:`UncertaintyWeighting`, for the types of functions that pass them on."""

    lr: float
    betas: tuple[float, float]
    eps: float
    init: float | Literal["auto"]
    regularizer: str | Regularizer
    bounds: tuple[float, float]
    min_variance_ratio: float
    warmup_steps: int
    warmup: Literal["initial", "equal"]
    freeze_after: int | None
    nonfinite: Literal["skip", "raise"]
    process_group: dist.ProcessGroup | None


def _initial(task: Task, default: float | Literal["auto"], bounds: tuple[float, float]) -> float | None:
    """The initial ``s``, None where the first loss decides."""
    if not task.likelihood.learned:
        return 0.0
    init = default if task.init is None else task.init
    if init == "auto":
        return None if task.likelihood.regularized else 0.0
    if not bounds[0] <= init <= bounds[1]:
        raise ValueError(f"The initial log-variance of task {task.name!r}, {init}, lies outside its bounds {bounds}.")
    return init


def _log(what: str, name: str, value: float) -> float:
    if not value > 0.0:
        raise ValueError(f"The {what} of task {name!r} must be positive; got {value}.")
    return math.log(value)
