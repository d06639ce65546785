"""The engine: named losses in, one scalar out, and log-variances that learn beside the model like a GradScaler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_uncertainty.adam import MaskedAdam
from lightning_uncertainty.checks import check_losses
from lightning_uncertainty.collective import sum_over_ranks, world_size
from lightning_uncertainty.cross_entropy import CrossEntropy
from lightning_uncertainty.host_flag import HostFlag
from lightning_uncertainty.likelihood_vector import LikelihoodVector
from lightning_uncertainty.log_variances import LogVariances
from lightning_uncertainty.names import lookup
from lightning_uncertainty.notices import Notices
from lightning_uncertainty.regularizers import Regularizer, get_regularizer
from lightning_uncertainty.snapshot import Snapshot, TaskSnapshot
from lightning_uncertainty.state import VERSION, read_state
from lightning_uncertainty.tasks import Task, TaskSpecs, check_bounds, check_init, parse_tasks

__all__ = ["UncertaintyWeighting"]


class UncertaintyWeighting:
    r"""Weights losses by learned homoscedastic uncertainty.

    For losses ``L_k`` and log-variances ``s_k = log sigma_k^2`` it returns

    .. math:: \sum_k c_k e^{-r_k s_k} L_k + R(s_k)

    [Kendall, Gal, Cipolla, CVPR 2018, equations (3) to (7)], where ``c`` and ``r`` follow from the likelihood of each
    task (:mod:`~lightning_uncertainty.likelihoods`), and learns ``s`` by its own Adam, one :meth:`step` per optimizer
    step, from the closed-form derivative at the mean of all losses since the last step, over micro-batches and ranks.
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
        self.tasks: dict[str, Task] = {task.name: task for task in parse_tasks(tasks)}
        _check_choice("warmup", warmup, ("initial", "equal"))
        _check_choice("nonfinite", nonfinite, ("skip", "raise"))
        _check_steps("warmup_steps", warmup_steps)
        _check_steps("freeze_after", 0 if freeze_after is None else freeze_after)
        if not 0.0 <= min_variance_ratio < 1.0:
            raise ValueError(f"min_variance_ratio must be at least 0 and less than 1; got {min_variance_ratio}.")
        init, bounds = check_init(init), check_bounds(bounds)
        self.warmup_steps, self.warmup, self.freeze_after = warmup_steps, warmup, freeze_after
        self.nonfinite, self.process_group = nonfinite, process_group
        self.training = True
        self.steps = 0
        self._frozen = False
        self._settled = self._opening = False
        self._host_flag = HostFlag()
        self._notices = Notices()

        size = len(self.tasks)
        inits = [_initial(task, init, task.bounds or bounds) for task in self.tasks.values()]
        self._likelihoods = LikelihoodVector(
            [task.likelihood for task in self.tasks.values()], get_regularizer(regularizer)
        )
        self._log_vars = LogVariances(
            self._likelihoods,
            inits=inits,
            bounds=[task.bounds or bounds for task in self.tasks.values()],
            min_variance_ratio=min_variance_ratio,
            adam=MaskedAdam(size, lr=lr, betas=betas, eps=eps),
        )
        self._raw_loss = torch.full((size,), math.nan, dtype=torch.float32)
        self._lowest_loss = torch.zeros(size, dtype=torch.float32)
        self._nonfinite_count = torch.zeros(size, dtype=torch.long)
        # Since the last step: losses, calls, slopes, refused losses.
        self._window = torch.zeros(4, size, dtype=torch.float32)
        self._zero, self._nan = (torch.tensor(value, dtype=torch.float32) for value in (0.0, math.nan))
        self._half_max = torch.tensor(torch.finfo(torch.float16).max, dtype=torch.float32)
        self._infinity = torch.tensor(math.inf, dtype=torch.float32)
        self._cut = torch.zeros(size, dtype=torch.bool)  # weights that were beyond the range of their loss
        self._settle(all(value is not None for value in inits))
        self._derive()

    # ------------------------------------------------------------------------------------------------ weighing

    def __call__(self, losses: Mapping[str, Tensor | CrossEntropy]) -> Tensor:
        """The weighted total, a scalar of at least single precision, ready for ``backward()``.

        In training (:attr:`training` is True and gradients are enabled) the losses are remembered for the next
        :meth:`step`; otherwise nothing changes. If all tasks sit out, the total is a zero that can be back-propagated.

        Args:
            losses: scalar loss by task name, in any order; ``CrossEntropy(logits, target)`` for an exact softmax.

        Raises:
            TypeError: if a loss is not a tensor, or not of floating point.
            ValueError: if a task is unknown, or a loss is not scalar, on another device, or without a graph while
                training.
            FloatingPointError: if a loss is not finite and ``nonfinite="raise"``.
        """
        check_losses(losses, self.tasks, self.device)
        recording = self.training and torch.is_grad_enabled()
        raw_loss, slope = self._gather(losses)
        if recording:
            self._check_graph(losses, raw_loss)
        weight, offset = self._weights_for(raw_loss.detach(), recording)
        weight = self._within_half(weight, losses)
        terms = weight * raw_loss + offset
        present = torch.isfinite(terms.detach())
        if recording:
            self._record(losses, raw_loss.detach(), slope, present)
        total = torch.where(present, terms, 0.0).sum()
        return total if losses or not recording else total.requires_grad_()

    def _gather(self, losses: Mapping[str, Tensor | CrossEntropy]) -> tuple[Tensor, Tensor | None]:
        """All raw losses as one vector, NaN where a task is absent, and the slopes of exact ones."""
        values: list[Tensor] = []
        slopes: dict[str, Tensor] = {}
        for index, (name, task) in enumerate(self.tasks.items()):
            loss = losses.get(name, self._nan)
            if isinstance(loss, CrossEntropy):
                log_var = self._log_vars.value[index] if task.likelihood.tempered else self._zero
                if task.likelihood.tempered:
                    slopes[name] = loss.slope(log_var).to(torch.float32)
                loss = loss.loss(log_var)
            values.append(loss)
        raw_loss = torch.stack(values)
        # In half precision the total would be rounded; for a few K numbers single precision costs nothing.
        raw_loss = raw_loss.to(torch.promote_types(raw_loss.dtype, torch.float32))
        return raw_loss, torch.stack([slopes.get(name, self._zero) for name in self.tasks]) if slopes else None

    def _weights_for(self, raw_loss: Tensor, recording: bool) -> tuple[Tensor, Tensor]:
        """Weights and regularisers; of a task that has no ``s`` yet, those that this very loss gives it."""
        # Compiled, the branch would be a guard that fails later on, and the general path costs nothing.
        if not torch.compiler.is_compiling():
            if self._settled:
                return self._weight, self._offset
            if recording and self._opening:
                raw_loss = self._mean_over_ranks(raw_loss)
        log_var, fresh = self._log_vars.provisional(raw_loss.to(torch.float32), self._held)
        weight = torch.where(fresh, self._likelihoods.weight(log_var), self._weight)
        return weight, torch.where(fresh, self._likelihoods.offset(log_var), self._offset)

    def _within_half(self, weight: Tensor, losses: Mapping[str, Tensor | CrossEntropy]) -> Tensor:
        """The weights, those of losses in fp16 cut at its largest number: beyond, their gradient would be infinite."""
        half = {n for n, loss in losses.items() if isinstance(loss, Tensor) and loss.dtype == torch.float16}
        if not half:
            return weight
        limit = torch.stack([self._half_max if name in half else self._infinity for name in self.tasks])
        if self.training:
            self._cut |= weight > limit
        return torch.minimum(weight, limit)

    def _mean_over_ranks(self, raw_loss: Tensor) -> Tensor:
        if world_size(self.process_group) == 1:
            return raw_loss
        finite = torch.isfinite(raw_loss)
        stats = torch.stack([torch.where(finite, raw_loss, 0.0), finite.to(raw_loss.dtype)])
        sum_over_ranks(stats, self.process_group)
        return stats[0] / stats[1]

    @torch.no_grad()
    def _record(
        self, losses: Mapping[str, Tensor | CrossEntropy], raw_loss: Tensor, slope: Tensor | None, present: Tensor
    ) -> None:
        refused = ~present
        if len(losses) < len(self.tasks):  # left out is not refused
            refused &= torch.stack([self._zero if name in losses else self._nan for name in self.tasks]) == 0.0
        if self.nonfinite == "raise" and refused.any():
            names = [repr(name) for name, no in zip(self.tasks, refused.tolist(), strict=True) if no]
            raise FloatingPointError(f"The loss of {', '.join(names)} is NaN or infinite in step {self.steps}.")
        self._window[0] += torch.where(present, raw_loss, 0.0)
        self._window[1] += present
        if slope is not None:
            self._window[2] += torch.where(present, slope, 0.0)
        self._window[3] += refused

    def _check_graph(self, losses: Mapping[str, Tensor | CrossEntropy], raw_loss: Tensor) -> None:
        if losses and not raw_loss.requires_grad:
            raise ValueError(
                f"None of the losses {', '.join(map(repr, losses))} carries a graph, so the network would get no "
                "gradient. Pass the losses themselves: `torch.tensor([...])`, `.item()` and `.detach()` cut the graph. "
                "To evaluate, call it under `torch.no_grad()`."
            )
        for name, loss in losses.items():
            if not (loss.logits if isinstance(loss, CrossEntropy) else loss).requires_grad:
                self._notices.warn(
                    f"detached {name}",
                    f"The loss of task {name!r} carries no graph: its sigma is learned, but the network gets no "
                    "gradient from it. If that is not meant, pass the loss itself; if the task has no labels in this "
                    "batch, leave its key out.",
                )

    # ------------------------------------------------------------------------------------------------ learning

    @torch.no_grad()
    def step(self) -> None:
        """Learn from the losses since the last step. Call once after each ``optimizer.step()``, on every rank."""
        sum_over_ranks(self._window, self.process_group)
        losses, calls, slopes, refused = self._window
        present = (calls > 0.0) & torch.isfinite(losses + slopes)
        calls = calls.clamp(min=1.0)
        raw_loss, slope = (torch.where(present, total / calls, 0.0) for total in (losses, slopes))
        self._raw_loss = torch.where(present, raw_loss, self._raw_loss)
        self._lowest_loss = torch.minimum(self._lowest_loss, raw_loss)
        self._nonfinite_count += refused.to(torch.long)
        if not self._settled and not self._warming_up_equal:
            # At the optimum the gradient is zero but for rounding, which Adam would turn into a full step.
            present = present & ~self._log_vars.begin(raw_loss, present)
            self._opening = False
            self._settled = self._host_flag.poll(self._log_vars.started.all())
        if self.learning:
            self._log_vars.learn(raw_loss, slope, present)
        self.discard()
        self.steps += 1
        self._derive()

    @property
    def learning(self) -> bool:
        """Whether the next step moves ``s``: the warm-up is over and nothing is frozen."""
        return self.steps >= self.warmup_steps and not self.frozen

    @property
    def _warming_up_equal(self) -> bool:
        return self.warmup == "equal" and self.steps < self.warmup_steps

    @property
    def frozen(self) -> bool:
        """Whether ``s`` stays as it is: after :meth:`freeze`, or ``freeze_after`` steps."""
        return self._frozen or (self.freeze_after is not None and self.steps >= self.freeze_after)

    def freeze(self) -> None:
        """Keep ``s`` as it is from now on. The losses are still weighed, logged and counted."""
        self._frozen = True

    def unfreeze(self) -> None:
        """Undo :meth:`freeze`."""
        self._frozen = False

    def discard(self) -> None:
        """Forget the losses since the last step, as gradients are forgotten by ``zero_grad()``."""
        self._window.zero_()

    def train(self, mode: bool = True) -> UncertaintyWeighting:
        """Set whether calls remember their losses for the next step. The callback does this."""
        self.training = mode
        return self

    def eval(self) -> UncertaintyWeighting:
        """Calls change nothing, also when gradients are enabled."""
        return self.train(False)

    def _settle(self, settled: bool) -> None:
        """Remember on the host whether every ``s`` has a value.

        Until then each call looks, and in the first window the ranks agree on the mean loss, so that they all start
        with the same weights.
        """
        self._settled = settled
        self._opening = not settled
        self._host_flag = HostFlag()

    def _derive(self) -> None:
        """Everything that follows from the state."""
        self._weight = self._likelihoods.weight(self._log_vars.value)
        self._offset = self._likelihoods.offset(self._log_vars.value)
        self._held = torch.full_like(self._log_vars.started, self._warming_up_equal)
        if self._warming_up_equal:
            self._weight = torch.where(self._likelihoods.learned, 1.0, self._weight)
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

    @property
    def log_vars(self) -> dict[str, float]:
        """``s = log sigma^2`` by name. Assign a dict with some or all learned tasks to set them on purpose."""
        return {name: task.log_var for name, task in self.snapshot().tasks.items()}

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
        return {name: task.weight for name, task in self.snapshot().tasks.items()}

    @weights.setter
    def weights(self, values: Mapping[str, float]) -> None:
        rates = {name: task.likelihood.precision_rate or 1.0 for name, task in self.tasks.items()}
        self._assign({n: -_log("weight", n, value) / rates.get(n, 1.0) for n, value in values.items()})

    def fixed_weights(self) -> dict[str, float]:
        """The factors before the raw losses as they are now, to be used as ``tasks`` of a run that learns none.

        For an exact softmax, which has no such factor, it is that of its approximation, equation (6).

        >>> UncertaintyWeighting(UncertaintyWeighting({"depth": "gaussian"}, init=0.0).fixed_weights()).weights
        {'depth': 0.5}
        """
        tasks = self.snapshot().tasks.items()
        return {n: t.weight if self.tasks[n].likelihood.tempered else t.coefficient for n, t in tasks}

    @torch.no_grad()
    def snapshot(self) -> Snapshot:
        """All there is to know of the weights now: one transfer to the host. Says what needs to be said, once."""
        s = self._log_vars
        columns = (
            s.value,
            self._likelihoods.precision(s.value),
            self._weight,
            self._raw_loss,
            self._lowest_loss,
            self._nonfinite_count,
            s.value <= s.lower,
            s.value >= s.ceiling,
            s.started,
            self._cut,
        )
        rows = torch.stack([column.to(torch.float64) for column in columns], dim=1).tolist()
        tasks = {}
        for (name, task), row in zip(self.tasks.items(), rows, strict=True):
            log_var, precision, weight, raw_loss, lowest, nonfinite, at_lower, at_upper, started, cut = row
            learned = task.likelihood.learned
            tasks[name] = TaskSnapshot(
                likelihood=task.likelihood.name,
                log_var=log_var,
                sigma=math.exp(0.5 * log_var) if learned else None,
                weight=precision,
                coefficient=weight,
                raw_loss=raw_loss,
                nonfinite=int(nonfinite),
                at_bound=("lower" if at_lower else "upper" if at_upper else None) if learned else None,
                started=bool(started),
            )
            self._remark(name, tasks[name], lowest, bool(cut))
        return Snapshot(self.steps, tasks)

    def _remark(self, name: str, task: TaskSnapshot, lowest_loss: float, cut: bool) -> None:
        if task.nonfinite:
            self._notices.warn(
                f"nonfinite {name}",
                f"The loss of task {name!r} was NaN or infinite in {task.nonfinite} calls so far; the task sat them "
                "out. If labels were missing, leave the key out of the losses; if it diverges, find out where with "
                'nonfinite="raise".',
            )
        if lowest_loss < 0.0 and task.sigma is not None and self.tasks[name].likelihood.regularized:
            self._notices.warn(
                f"negative {name}",
                f"The loss of task {name!r} was negative (mean of a step: {lowest_loss:.3g}), which the "
                f"{task.likelihood} likelihood does not allow for: its weight then only grows. If the loss is already "
                f"a log-likelihood, give it a fixed weight: tasks={{{name!r}: 1.0}}.",
            )
        if cut:
            self._notices.warn(
                f"cut {name}",
                f"The loss of task {name!r} is in fp16, and its weight was beyond 65504, the largest number of fp16, "
                "so that its gradient was cut there. Compute that loss in single precision, from `.float()` of what "
                "goes into it.",
            )
        if task.at_bound and task.started:
            self._notices.warn(
                f"bound {name}",
                f"The log-variance of task {name!r} is held by its {task.at_bound} bound ({task.log_var:.3g}), so its "
                "weight no longer follows its loss. That is right for a loss that goes to zero; else set "
                "`min_variance_ratio` or `bounds`.",
            )

    def _assign(self, log_vars: Mapping[str, float]) -> None:
        learned = {name: task for name, task in self.tasks.items() if task.likelihood.learned}
        values = {task.name: 0.0 for task in self.tasks.values()}
        for name, value in log_vars.items():
            lookup("learned task", name, learned)
            if not math.isfinite(value):
                raise ValueError(f"Task {name!r} cannot have a log-variance of {value}.")
            values[name] = value
        chosen = torch.tensor([name in log_vars for name in self.tasks], device=self.device)
        self._log_vars.assign(chosen, torch.tensor(list(values.values()), dtype=torch.float32, device=self.device))
        self._settle(bool(self._log_vars.started.all()))
        self._derive()

    def __repr__(self) -> str:
        tasks = ", ".join(f"{name!r}: {task.likelihood.name!r}" for name, task in self.tasks.items())
        return f"{type(self).__name__}({{{tasks}}}, steps={self.steps})"

    # ------------------------------------------------------------------------------------------------ moving

    def to(self, device: torch.device | str | int) -> UncertaintyWeighting:
        """Move to ``device``, as copies: nothing is shared with other processes afterwards. The dtypes stay."""
        target = torch.device(device)
        for holder in (self, self._likelihoods, self._log_vars, self._log_vars.adam):
            for name, value in vars(holder).items():
                if isinstance(value, Tensor):
                    setattr(holder, name, value.to(target, copy=True))
        return self

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, by task name, on the CPU; loads with ``weights_only=True``.

        The losses since the last step are not part of it, as gradients are not part of a model's.
        """
        return {
            "version": VERSION,
            "tasks": list(self.tasks),
            "likelihoods": [task.likelihood.name for task in self.tasks.values()],
            "steps": self.steps,
            "frozen": self._frozen,
            **{key: tensor.detach().to("cpu", copy=True) for key, tensor in self._state().items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``. Tasks are matched by name: new ones start from the data, vanished ones are dropped.

        Raises:
            ValueError: if ``state`` is not usable; then nothing was loaded.
        """
        own = self._state()
        saved = read_state(state, list(own))
        known = dict(zip(saved.tasks, saved.likelihoods, strict=True))
        matched = [name for name, task in self.tasks.items() if known.get(name) == task.likelihood.name]
        self._report_unmatched(known, matched)
        here = torch.tensor([self.task_names.index(name) for name in matched], dtype=torch.long)
        there = torch.tensor([saved.tasks.index(name) for name in matched], dtype=torch.long)
        for key, tensor in own.items():
            tensor[here.to(tensor.device)] = saved.tensors[key].cpu()[there].to(tensor)
        self.steps, self._frozen = saved.steps, saved.frozen
        self.discard()
        self._settle(bool(self._log_vars.started.all()))
        self._derive()

    def _state(self) -> dict[str, Tensor]:
        return {**self._log_vars.state(), "raw_loss": self._raw_loss, "nonfinite": self._nonfinite_count}

    def _report_unmatched(self, known: Mapping[str, str], matched: list[str]) -> None:
        for name in dict.fromkeys([*known, *self.tasks]):
            if name in matched:
                continue
            if name not in self.tasks:
                what = "is in the checkpoint but not among the tasks: its sigma was dropped"
            elif name not in known:
                what = "is not in the checkpoint: its sigma starts from the beginning"
            else:
                what = (
                    f"was {known[name]!r} in the checkpoint and is {self.tasks[name].likelihood.name!r} now: "
                    "its sigma starts from the beginning"
                )
            self._notices.warn(f"unmatched {name}", f"Task {name!r} {what}.")


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


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def _check_steps(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a number of steps that is not negative; got {value!r}.")


def _log(what: str, name: str, value: float) -> float:
    if not value > 0.0:
        raise ValueError(f"The {what} of task {name!r} must be positive; got {value}.")
    return math.log(value)
