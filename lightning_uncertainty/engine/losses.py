"""Losses by name, checked and made into one vector in the order of the tasks."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_uncertainty._arguments import listed, lookup, suggest
from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.cross_entropy import CrossEntropy, plain
from lightning_uncertainty.engine.masked import MaskedMeans, masked_means
from lightning_uncertainty.likelihoods import SOFTMAX
from lightning_uncertainty.tasks import Task

__all__ = ["CompiledKeys", "Gathered", "Losses", "Masks", "RawLosses", "check_graph", "check_losses"]

Losses = Tensor | Mapping[str, Tensor | CrossEntropy]
"""The losses by task; or as one tensor of shape (K,), or elementwise of shape (..., K), in the order of the tasks."""

Masks = Tensor | Mapping[str, Tensor]
"""Bools that tell where there is a label: of the shape of elementwise losses, by task or as one tensor."""


_DTYPE, _REQUIRES_GRAD = operator.attrgetter("dtype"), operator.attrgetter("requires_grad")


class Gathered(NamedTuple):
    """The losses of one call, each of shape (K,).

    Attributes:
        raw_loss: The losses with the graph of the network, of at least single precision; NaN where left out.
        slope: The derivatives of the losses themselves with respect to ``s``; None for all 0.
        given: bool: True if the loss was passed; None for all.
        half: bool: True if the loss was in fp16; None for none.
        counts: The number of labels that each loss is the mean of, fp32; None where nothing tells.
    """

    raw_loss: Tensor
    slope: Tensor | None = None
    given: Tensor | None = None
    half: Tensor | None = None
    counts: Tensor | None = None


class RawLosses:
    """Gathers losses; by a short way if nothing about them is out of the ordinary."""

    def __init__(self, tasks: Mapping[str, Task], notices: Notices) -> None:
        self._tasks, self._notices = tasks, notices
        self.classes: dict[str, int] = {}  # as far as logits have told
        self._tempered = [task for task in tasks.values() if task.likelihood.tempered]
        self.zero, self.nan = torch.tensor([0.0, math.nan], dtype=torch.float32)

    def gather(self, losses: Losses, mask: Masks | None, log_var: Tensor, trust: Tensor, recording: bool) -> Gathered:
        """Return ``losses`` as vectors, checked; also for a graph if they are to be trained on (``recording``).

        An exact softmax is tempered by ``s`` times its ``trust``, of shape (K,): not at all in the plain sum.

        Raises:
            TypeError, ValueError: if there is anything wrong with them.
        """
        if isinstance(losses, Tensor):
            check_tensor(losses, mask, self._tasks, log_var.device)
            for task in self._tempered:
                _check_loss(task, losses, log_var.device)
            if recording:
                check_graph({"of all tasks": losses}, self._notices)
            return self._gather_tensor(losses, mask)  # type: ignore[arg-type]
        raw_loss = self._stack_ordinary(losses, log_var.device) if mask is None else None
        if raw_loss is not None:
            return Gathered(raw_loss)
        means: dict[str, MaskedMeans] = {}
        if mask is not None:
            means = check_masks(losses, mask, self._tasks)
            losses = {**losses, **{name: mean.raw_loss[0] for name, mean in means.items()}}
        check_losses(losses, self._tasks, log_var.device)
        if recording:
            check_graph(losses, self._notices)
        return self._gather_any(losses, log_var, trust, means)

    def _stack_ordinary(self, losses: Any, device: torch.device) -> Tensor | None:
        """Return the vector of the usual case, all tasks in fp32 with a graph; None for anything else."""
        ordinary = type(losses) is dict and len(losses) == len(self._tasks) and not self._tempered
        if not ordinary or torch.compiler.is_compiling():  # which cannot read the next lines, and needs no short way
            return None
        values: list[Any] = [losses.get(name) for name in self._tasks]
        # Not isinstance: a subclass may mean something else by the same operations.
        if set(map(type, values)) != {Tensor} or set(map(_DTYPE, values)) != {torch.float32}:
            return None
        if not all(map(_REQUIRES_GRAD, values)):
            return None
        try:
            raw_loss = torch.stack(values)
        except RuntimeError:  # of shapes or devices, which are named by those who check each
            return None
        return raw_loss if raw_loss.ndim == 1 and raw_loss.device == device else None

    def _gather_tensor(self, losses: Tensor, mask: Tensor | None) -> Gathered:
        cut = losses.dtype == torch.float16
        half = torch.ones(losses.shape[-1:], dtype=torch.bool, device=losses.device) if cut else None
        if losses.dim() == 1:
            return Gathered(losses.to(torch.promote_types(losses.dtype, torch.float32)), half=half)
        means = masked_means(losses, mask)
        return Gathered(means.raw_loss, None, means.given, half, means.counts)

    def _gather_any(
        self,
        losses: Mapping[str, Tensor | CrossEntropy],
        log_var: Tensor,
        trust: Tensor,
        masked: Mapping[str, MaskedMeans],
    ) -> Gathered:
        values: list[Tensor] = []
        slopes: dict[str, Tensor] = {}
        for index, (name, task) in enumerate(self._tasks.items()):
            loss = losses.get(name, self.nan)
            if isinstance(loss, CrossEntropy):
                if not torch.compiler.is_compiling():
                    self.classes[name] = loss.logits.shape[1 if loss.logits.dim() > 1 else 0]
                if task.likelihood.tempered:
                    slopes[name] = loss.slope(log_var[index]).to(torch.float32)
                loss = loss.loss(log_var[index] * trust[index] if task.likelihood.tempered else self.zero)
            values.append(plain(loss))
        raw_loss = torch.stack(values)
        # In half precision the total would be rounded; for a few K numbers single precision costs nothing.
        raw_loss = raw_loss.to(torch.promote_types(raw_loss.dtype, torch.float32))
        slope = torch.stack([slopes.get(name, self.zero) for name in self._tasks]) if slopes else None
        half = [n for n, loss in losses.items() if isinstance(loss, Tensor) and loss.dtype == torch.float16]
        given = None if len(losses) == len(self._tasks) else self._flags(losses)
        counts = None
        if masked:
            ones = torch.ones_like(self.zero)
            counts = torch.stack([masked[name].counts[0] if name in masked else ones for name in self._tasks])
            given = (counts > 0.0) if given is None else given & (counts > 0.0)
        return Gathered(raw_loss, slope, given, self._flags(half) if half else None, counts)

    def _flags(self, names: Any) -> Tensor:
        """Return bools of shape (K,), made on the device: copying them there would make the host wait."""
        return torch.stack([self.zero if name in names else self.nan for name in self._tasks]) == 0.0


def check_tensor(losses: Tensor, mask: Any, tasks: Mapping[str, Task], device: torch.device) -> None:
    """Raise unless ``losses`` has an entry for each task, in floating point, on ``device``, and ``mask`` is for it."""
    if losses.dim() == 0 or losses.shape[-1] != len(tasks):
        raise ValueError(
            f"Got losses as a tensor of shape {tuple(losses.shape)}. Expected one for each of {len(tasks)} tasks "
            f"in their order: of shape ({len(tasks)},), or elementwise of shape (..., {len(tasks)}); or losses by name."
        )
    if mask is not None and losses.dim() == 1:
        raise ValueError("Got a mask for losses of which the mean was taken. Pass them elementwise, or no mask.")
    first = next(iter(tasks.values()))
    _check_number(f"Task {first.name!r}", losses)
    _check_device(first, losses, device)


def check_masks(losses: Any, mask: Any, tasks: Mapping[str, Task]) -> dict[str, MaskedMeans]:
    """Return the means of those ``losses`` by name that have a mask.

    Raises:
        TypeError, ValueError: if losses or masks are not what is expected.
    """
    if not isinstance(mask, Mapping) or not isinstance(losses, Mapping):
        raise TypeError(
            'Expected the mask as the losses: by name, `mask={"depth": mask}`, for losses by name, or one tensor for '
            f"one tensor; got an object of type {type(mask).__name__} for one of type {type(losses).__name__}."
        )
    means = {}
    for name, each in mask.items():
        lookup("task", name, tasks)
        if not isinstance(loss := losses.get(name), Tensor):
            raise ValueError(f"Task {name!r} has a mask and no elementwise loss: pass a tensor of the mask's shape.")
        if not isinstance(each, Tensor) or each.shape != loss.shape:
            found = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(
                f"The mask of task {name!r} is {found}, and its loss has shape {tuple(loss.shape)}. Expected one bool "
                "for each element: pass the loss before its mean is taken (`reduction='none'`)."
            )
        means[name] = masked_means(loss.reshape(-1, 1), each.reshape(-1, 1), cut=True)
    return means


def check_losses(losses: Any, tasks: Mapping[str, Task], device: torch.device) -> None:
    """Raise unless ``losses`` maps known tasks to scalar, floating point losses on ``device``."""
    if not isinstance(losses, Mapping):
        raise TypeError(
            f'Expected losses by name, for example {{"depth": loss}}, or one tensor of shape ({len(tasks)},) or '
            f"(..., {len(tasks)}); got an object of type {type(losses).__name__}."
        )
    for name, loss in losses.items():
        if name not in tasks:
            raise ValueError(
                f"There is no task {name!r}. {suggest(name, tasks)} "
                "A loss that is not to be weighed belongs into the tasks too, with a number as its fixed weight."
            )
        _check_loss(tasks[name], loss, device)


def _check_loss(task: Task, loss: Any, device: torch.device) -> None:
    if isinstance(loss, CrossEntropy):
        if task.likelihood.learned and not task.likelihood.tempered and task.likelihood != SOFTMAX:
            raise ValueError(
                f"Task {task.name!r} got a CrossEntropy, but its likelihood is {task.likelihood.name!r}. "
                "Declare the task as 'softmax_exact' or 'softmax', or pass a scalar loss."
            )
        _check_device(task, loss.logits, device)
        return
    if not isinstance(loss, Tensor):
        kind = type(loss).__name__
        found = "None" if loss is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
        raise TypeError(
            f"Task {task.name!r} got {found}. Expected a scalar tensor that still carries its graph. "
            + _instead(task.name, loss)
        )
    if task.likelihood.tempered:
        raise ValueError(
            f"Task {task.name!r} is 'softmax_exact', which acts on logits: pass "
            "`CrossEntropy(logits, target)` instead of a loss, or choose 'softmax' for the approximation on losses."
        )
    if loss.dim() != 0:
        raise ValueError(
            f"Task {task.name!r} got a loss of shape {tuple(loss.shape)}. Expected a scalar: reduce it first, "
            "for example `loss.mean()`; or pass a mask of that shape."
        )
    _check_number(f"Task {task.name!r}", loss)
    _check_device(task, loss, device)


def _check_number(what: str, loss: Tensor) -> None:
    if not loss.is_floating_point():
        raise TypeError(
            f"{what} got a loss of dtype {loss.dtype}. Expected a real floating point number: "
            + (
                "take its real part or its absolute value."
                if loss.is_complex()
                else "for example `loss.float()`; or, if its head is off, leave its key out."
            )
        )


def _instead(name: str, found: Any) -> str:
    """Return what to write instead of something that is no tensor."""
    leave_out = "If its head is off, or it has no labels in this batch, leave its key out: "
    if found is None:
        return leave_out + "`self.weigh({name: loss for name, loss in losses.items() if loss is not None})`."
    if isinstance(found, (list, tuple, Mapping)) and found:
        parts = f"losses[{name!r}]" + (".values()" if isinstance(found, Mapping) else "")
        return f"Add or average its parts, `sum({parts})` or `torch.stack([*{parts}]).mean()`, or make each a task."
    if callable(found):
        return "Call it, for example `criterion(prediction, target)`."
    return f"Pass the loss itself, neither `.item()` nor `float(...)` of it. {leave_out}`del losses[{name!r}]`."


def _check_device(task: Task, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(
            f"Task {task.name!r} got a loss on {tensor.device}, but the weights are on {device}. "
            f"Compute it on the model's device, or move the weights with `weighting.to({str(tensor.device)!r})`."
        )


def check_graph(losses: Mapping[str, Tensor | CrossEntropy], notices: Notices) -> None:
    """Raise ``ValueError`` if no loss carries a graph, and warn of a single one that does not."""
    tensors = {n: loss.logits if isinstance(loss, CrossEntropy) else loss for n, loss in losses.items()}
    detached = [name for name, tensor in tensors.items() if not tensor.requires_grad]
    if detached and len(detached) == len(losses):
        raise ValueError(
            f"None of the losses {listed(losses)} carries a graph, so the network would get no "
            "gradient. Pass the losses themselves: `torch.tensor([...])`, `.item()` and `.detach()` cut the graph. "
            "To evaluate, call it under `torch.no_grad()`."
        )
    text = (
        "The loss of task {!r} carries no graph, so the network gets no gradient from it. If that is not meant, pass "
        "the loss itself; if the task has no labels in this batch, leave its key out."
    )
    notices.warn_of_tasks(tuple(("detached", name, text.format(name)) for name in detached))


class CompiledKeys:
    """Warns before changing sets of tasks exhaust the recompile limit of torch.compile.

    It makes a graph for each set of names, in training and in evaluation. Beyond its limit it makes no more, and
    silently runs eagerly, or refuses if ``fullgraph=True``.
    """

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._seen: set[tuple[frozenset[str], bool]] = set()
        # Called while the graph is made, with constants; the graph itself does not contain it.
        torch.compiler.assume_constant_result(CompiledKeys.note)  # type: ignore[no-untyped-call]

    def note(self, names: tuple[str, ...], recording: bool) -> None:
        """Take note that a graph is being made for ``names``; warn at the last but one that there may be."""
        self._seen.add((frozenset(names), recording))
        limit = _recompile_limit()
        if len(self._seen) >= max(limit - 1, 2):
            self._notices.warn(
                "compiled keys",
                "torch.compile makes one graph for each set of tasks among the losses, in training and in evaluation. "
                f"It has made {len(self._seen)}, and after {limit} it falls back to eager execution. Pass all tasks in "
                "every batch, with NaN as the loss of those without labels: one graph serves them all. Or raise "
                "`torch.compiler.config.recompile_limit`.",
            )


def _recompile_limit() -> int:
    # Older versions of torch, such as 2.5, have no public name for it; it is 8 there unless somebody changed it.
    return int(getattr(getattr(torch.compiler, "config", None), "recompile_limit", 8))
