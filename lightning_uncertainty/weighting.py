"""The engine: named losses in, one scalar out, and weights that learn beside the model like a GradScaler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_uncertainty._arguments import check_choice
from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.cross_entropy import CrossEntropy
from lightning_uncertainty.engine.guard import Guard
from lightning_uncertainty.engine.held_out import HeldOut
from lightning_uncertainty.engine.learning import Learning
from lightning_uncertainty.engine.losses import CompiledKeys, Losses, Masks, RawLosses
from lightning_uncertainty.engine.named_values import NamedValues
from lightning_uncertainty.engine.portable import Portable
from lightning_uncertainty.engine.predictions import Predictions
from lightning_uncertainty.engine.recorder import Recorder
from lightning_uncertainty.engine.relative_loss import RelativeLoss
from lightning_uncertainty.engine.saved import check_fields
from lightning_uncertainty.engine.scale import Factors, Scale
from lightning_uncertainty.engine.state import EngineState, HostFlags
from lightning_uncertainty.engine.task_numbers import TaskNumbers, importances, sample_counts
from lightning_uncertainty.engine.total import raise_if_refused, weighted_sum, within_half
from lightning_uncertainty.engine.window import Call, mean_over_ranks
from lightning_uncertainty.regularizers import Regularizer, get_regularizer
from lightning_uncertainty.strategies import Equal, Strategy, Uncertainty, check_options, get_strategy
from lightning_uncertainty.strategies.uncertainty import UncertaintyOptions
from lightning_uncertainty.tasks import Likelihoods, TaskSpecs, parse_tasks

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["UncertaintyWeighting", "WeightingOptions"]


class WeightingOptions(UncertaintyOptions, total=False):
    """The options of :class:`UncertaintyWeighting`, for the types of functions that pass them on."""

    strategy: str | Strategy
    warmup_steps: int
    warmup: Literal["initial", "equal"]
    freeze_after: int | None
    scale: str | None
    guard: bool
    likelihood: Likelihoods
    nonfinite: Literal["skip", "raise"]
    sigma_from: Literal["training", "validation"] | None
    process_group: dist.ProcessGroup | None
    compile_step: bool


class UncertaintyWeighting(NamedValues, Predictions, Learning, Portable):
    r"""Weights losses, by default by learned homoscedastic uncertainty.

    For losses ``L_k`` and log-variances ``s_k = log sigma_k^2`` the total of the article is

    .. math:: \sum_k c_k e^{-r_k s_k} L_k + R(s_k)

    [Kendall, Gal, Cipolla, CVPR 2018, equations (3) to (7)], where ``c`` and ``r`` follow from the likelihood of each
    task. :class:`~lightning_uncertainty.strategies.Uncertainty` learns ``s`` from the mean of all losses since the last
    :meth:`step`, over micro-batches and ranks. The network gets the gradient of the formula with ``s`` held constant,
    by default times a common number (``scale``), and after steps of the plain sum (``guard``). A loss counts once
    backward has gone through its total, and is forgotten if its gradients are zeroed before use.

    It is no ``nn.Module``: nothing of it is in ``parameters()``, so weight decay, gradient clipping, schedulers,
    precision plugins and sharding strategies cannot touch it. Its state is fp32 whatever the precision of the model.

    A task whose key is left out of ``losses``, or whose loss is NaN or infinite, sits out: neither its loss, nor its
    regulariser, nor its moments take part.

    Args:
        tasks: The tasks: ``{"depth": "laplace", "class": "softmax", "aux": 0.1}`` or a list of :class:`Task`.
        strategy: The rule that gives each task its factor: ``"uncertainty"``, ``"equal"``, ``"fixed"``, ``"initial"``,
            ``"log_sum"``, ``"geometric_mean"``, ``"uw_so"``, ``"dwa"``, ``"random"``, or a
            :class:`~lightning_uncertainty.strategies.Strategy` with settings of its own.
        warmup_steps: The number of steps before the strategy learns.
        warmup: The weights until then: ``"initial"`` (those of the initial ``s``; with a guard, all 1) or ``"equal"``
            (all 1, the plain sum; with ``init="auto"``, ``s`` then starts from the losses at the end of the warm-up).
        freeze_after: The number of steps after which the weights stay as they are; None for never.
        scale: The common factor of the learned tasks, which no ``s`` sees: with ``"sum"`` the total is as large as the
            plain sum of the losses (with Adam up to twice as large, so that no factor falls below 1), with
            ``"geometric"`` the product of the factors stays what it was at the start, the name of a task makes the
            factor of that task 1; each without the regularisers, which have no gradient. None is the formula above, and
            ``"auto"`` is ``"sum"`` for learned uncertainty and None for other strategies.
        guard: True begins with the plain sum, moves to the weights of the strategy within 400 steps (or a fifth of the
            run), and holds tasks at the plain sum whose loss was small because nothing was learned yet: see
            :class:`~lightning_uncertainty.engine.guard.Guard`. It needs a scale.
        likelihood: The likelihood of tasks that are named only: one for all, or by name for some.
        nonfinite: ``"skip"`` lets a task with a NaN or infinite loss sit out, counts it and warns once; ``"raise"``
            raises at once, at the price of a host synchronisation in every call.
        sigma_from: The data that :meth:`predictive` takes sigma from: ``"validation"`` for that of the last validation
            whose losses were weighed, where there was one; by default that of the module or checkpoint it goes on from,
            else ``"training"``. The weights are learned from training losses in any case.
        process_group: The processes to average over; by default all of ``torch.distributed``.
        compile_step: True compiles the steps that are not taken on a CPU by ``torch.compile``, once the guard has let
            all tasks go: one graph in place of some sixty operations. They are equal to plain ones to rounding, and so
            is a run that was resumed; with several processes, whose bits have to agree, it is of no effect.
        **options: Settings of :class:`~lightning_uncertainty.strategies.Uncertainty`: ``lr``, ``betas``, ``eps``,
            ``init``, ``regularizer``, ``bounds``, ``min_variance_ratio``, ``prior``.

    Raises:
        ValueError: if an argument is not valid.
        TypeError: if ``tasks`` has none of the forms above, or an option is unknown.

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
        strategy: str | Strategy = "uncertainty",
        warmup_steps: int = 0,
        warmup: Literal["initial", "equal"] = "initial",
        freeze_after: int | None = None,
        scale: str | None = "auto",
        guard: bool = True,
        likelihood: Likelihoods = "gaussian",
        nonfinite: Literal["skip", "raise"] = "skip",
        sigma_from: Literal["training", "validation"] | None = None,
        process_group: dist.ProcessGroup | None = None,
        compile_step: bool = False,
        **options: Unpack[UncertaintyOptions],
    ) -> None:
        self.tasks = {task.name: task for task in parse_tasks(tasks, likelihood)}
        self.task_names = tuple(self.tasks)
        check_choice("nonfinite", nonfinite, ("skip", "raise"))
        self._scores = {}
        if sigma_from is not None:
            self.sigma_from = sigma_from
        super().__init__(warmup_steps, warmup, freeze_after)
        self.nonfinite, self.process_group, self.compile_step = nonfinite, process_group, compile_step
        check_options(options, strategy, WeightingOptions.__annotations__)
        self.strategy = Uncertainty(**options) if strategy == "uncertainty" else get_strategy(strategy)
        self.regularizer: Regularizer = getattr(self.strategy, "regularizer", get_regularizer("log_sigma"))
        self._equal = Equal()  # the strategy of a warm-up with equal weights
        for each in (self.strategy, self._equal):
            each.bind(tuple(self.tasks.values()))
        self._foreign: Mapping[str, Any] | None = None  # the state of a strategy that only its own class can read
        self.observers: list[Callable[[Mapping[str, Tensor | CrossEntropy], Tensor], None]] = []  # of recorded calls
        self.searching = False
        self._notices, self._trouble = Notices(), HostFlags()
        self._compiled_keys = CompiledKeys(self._notices)
        self._raw_losses = RawLosses(self.tasks, self._notices)
        scale = self.strategy.default_scale if scale == "auto" else scale
        self._scale = Scale(scale, self.tasks)
        self._state = self._new_state(len(self.tasks))
        for name, switch in (("guard", guard), ("compile_step", compile_step)):
            if not isinstance(switch, bool):
                raise ValueError(f"{name} must be True or False; got {switch!r}.")
        guarded = guard and scale is not None and self.strategy.guarded
        self._guard = Guard(self._state, self._scale.learned) if guarded else None
        check_fields(self._state, self.strategy.state)
        self.relative = RelativeLoss(self._state)
        self.held_out = HeldOut(self._state, self.tasks.values(), self._notices, process_group)
        self.recorder = Recorder(len(self.tasks), process_group, self._learn, self._notices)
        # For graphs of torch.compile, in which a Python bool is a constant.
        self._equal_now, self._frozen_now = torch.tensor(False), torch.tensor(False)
        quick = type(self.strategy) is Uncertainty and self.strategy.quick
        self._has_routine = quick and (self._scale.plain or self._scale.kind == "sum")
        self._choose()
        self._start, self.origin = self.state_dict(), "learned"  # "loaded": its network may follow; "outdated": is gone

    def _new_state(self, size: int) -> EngineState:
        """Return what is remembered of each task; a subclass may remember more."""
        return EngineState.of(size)

    # ------------------------------------------------------------------------------------------------ weighing

    def __call__(
        self,
        losses: Losses,
        *,
        mask: Masks | None = None,
        samples: TaskNumbers | None = None,
        importance: TaskNumbers | None = None,
    ) -> Tensor:
        """Return the weighted total, a scalar of at least single precision, ready for ``backward()``.

        In training (``training`` is True and gradients are enabled) the losses are remembered for the next
        :meth:`step`; otherwise nothing changes. If all tasks sit out, the total is a zero that can be back-propagated.

        Args:
            losses: The scalar loss by task name, in any order; ``CrossEntropy(logits, target)`` for an exact softmax.
                Or one tensor of all tasks in their order: of shape (K,), or elementwise of shape (..., K), whose NaN
                are missing labels.
            mask: bool: True where an elementwise loss has a label, of the shape of the losses (or, for losses by name,
                by name). Each loss is then the mean over its labels, and a task without any sits out. Compute the
                losses from ``target.where(mask, 0.0)``: under ``torch.compile``, errors that are NaN elsewhere make NaN
                of the gradients. Without it, the last six operations before ``losses`` are kept from that.
            samples: The number of samples that the losses are means of, one for all or one for each task. The learned
                and logged mean is then over samples and not over calls, in every micro-batch and on every rank; so
                give it always or never. The total and its gradient are the same. Labels are counted without it.
            importance: The factor ``a`` of the whole term ``a (c e^{-r s} L + R(s))``, one for all or by task,
                multiplied by that of :class:`Task`: as if the task had ``a`` times the samples. The optimum of ``s``
                does not move. Where nothing else tells of samples, the learned mean is weighted by it.

        Raises:
            TypeError: if a loss is not a tensor, or not of floating point, or a mask is not bool, or a number is none.
            ValueError: if a task is unknown, or a loss has a wrong shape, is on another device, or without a graph
                while training; or if a number is missing, negative, not finite or no scalar.
            FloatingPointError: if a loss is not finite and ``nonfinite="raise"``.
        """
        recording = self.training and torch.is_grad_enabled()
        by_name = not isinstance(losses, Tensor)
        empty = by_name and not losses
        if torch.compiler.is_compiling():
            self._compiled_keys.note(tuple(losses) if by_name else (), recording)
        gathered = self._raw_losses.gather(losses, mask, self.strategy.log_var, self._state.trust, recording)
        raw_loss, slope, given, half, counts = gathered
        if samples is not None:
            counts = sample_counts(samples, losses if by_name else self.tasks, self.tasks, self.device)
        emphasis = None if importance is None else importances(importance, self.tasks, self.device)
        counts = emphasis if counts is None else counts
        raw = raw_loss.detach()
        factor, offset = self._factors(raw, recording, counts)
        if emphasis is not None:
            factor, offset = factor * emphasis, offset * emphasis
        if self.searching:  # a finder that compares the total with a multiple of its best value needs it positive
            offset = torch.zeros_like(offset)
        if half is not None:
            factor, cut = within_half(factor, half)
            if recording:
                self._state.cut |= cut
        if raw_loss.dtype != torch.float32:  # s is learned in single precision: what lies beyond sits out
            offset = torch.where(torch.isfinite(raw.to(torch.float32)), offset, torch.nan)
        total, marked = weighted_sum(raw_loss, factor, offset, regularized=self._scale.kind is None)
        if self.nonfinite == "raise":
            raise_if_refused(marked, given, self.tasks, self.steps)
        if recording:
            for observer in self.observers:
                seen: Any = losses if by_name and mask is None else dict(zip(self.tasks, raw_loss, strict=True))
                observer(seen, factor)
            call = Call(raw.to(torch.float32), marked, slope, given, counts, whole=marked is factor)
            total = total.requires_grad_().clone() if empty else total  # no leaf, so that `total += other` works
            return self.recorder.watch(total, call)
        self.held_out.add(Call(raw.to(torch.float32), marked, None, given, counts))
        # A zero here would look like the best validation ever.
        return total if empty else torch.where(marked.isnan().all(), torch.nan, total)

    def _factors(self, raw_loss: Tensor, recording: bool, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return factors and offsets for this call."""
        if torch.compiler.is_compiling():  # a branch would be a guard that fails later on, and one graph costs nothing
            always_settled, single = type(self.strategy).settled, raw_loss.to(torch.float32)
            chosen = self._scaled(Factors(*self.strategy.factors(single)), None if always_settled else single)
            if self.strategy.live:
                chosen = self._where(self._frozen_now, (self._factor, self._offset), chosen)
            if self.warmup == "equal":
                chosen = self._where(self._equal_now, self._scaled(self._equal.now), chosen)
            return chosen
        strategy = self._in_force
        if strategy.settled or (strategy.live and self.frozen):
            return self._factor, self._offset
        single = raw_loss.to(torch.float32)
        if recording and self._opening and not strategy.live:
            single = mean_over_ranks(single, counts, self.process_group)
        return self._scaled(Factors(*strategy.factors(single)), single)

    @staticmethod
    def _where(now: Tensor, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.where(now, one[0], other[0]), torch.where(now, one[1], other[1])

    def _scaled(self, now: Factors, single: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ``now`` with importance and scale, in a call with the losses ``single``."""
        raw_loss = self._state.raw_loss  # the same in all calls of a step, and on all ranks
        if single is not None and now.pull is None:
            raw_loss = single if self.strategy.live else torch.where(raw_loss.isnan(), single, raw_loss)
        return self._scale.apply(now, self._state.trust, raw_loss)

    # ------------------------------------------------------------------------------------------------ learning

    def follow(self, *optimizers: Any) -> UncertaintyWeighting:
        """Step by itself after each real step of one of ``optimizers``, so that :meth:`step` is not needed.

        A step that a GradScaler skips is none. With several processes, the optimizers must step on all of them.

        Raises:
            TypeError: if one is no optimizer.

        >>> weighting, x = UncertaintyWeighting({"depth": "laplace"}), torch.ones((), requires_grad=True)
        >>> optimizer = torch.optim.SGD([x], lr=0.1)
        >>> _ = weighting.follow(optimizer)
        >>> weighting({"depth": x.abs()}).backward()
        >>> optimizer.step()
        >>> weighting.steps
        1
        """
        self.recorder.follow(optimizers)
        self.suit(self.recorder.gradients.optimizers)
        return self

    def step(self) -> None:
        """Learn from the losses that backward went through since the last step.

        Call it after each ``optimizer.step()``, on every rank, unless the engine follows the optimizer.
        """
        self.recorder.step()

    def discard(self) -> None:
        """Forget the losses since the last step, as gradients are forgotten by ``zero_grad()``."""
        self.recorder.clear()
        self.strategy.discard()
        self._sums = None  # of a validation that did not come to its end

    @property
    def waiting(self) -> bool:
        """True if losses were weighed since the last step; costs a transfer to the host."""
        return self.recorder.window.waiting

    # ------------------------------------------------------------------------------------------------ reading

    @property
    def device(self) -> torch.device:
        """The device on which the losses are expected."""
        return self.strategy.factor.device

    def __repr__(self) -> str:
        tasks = ", ".join(f"{name!r}: {task.likelihood.name!r}" for name, task in self.tasks.items())
        strategy = "" if self.strategy.name == "uncertainty" else f", strategy={self.strategy.name!r}"
        return f"{type(self).__name__}({{{tasks}}}{strategy}, steps={self.steps})"


# At run time the options are untyped: jsonargparse then follows them to the signature of Uncertainty, which also has
# their defaults. What it makes of a TypedDict has none (4.53), or cannot be parsed (4.39).
UncertaintyWeighting.__init__.__annotations__["options"] = Any
