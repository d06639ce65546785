"""What becomes of the gradients: whether they are there, and when an optimizer has used them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

__all__ = ["Gradients"]


class _Came(NamedTuple):
    """The gradient of a witness as it came.

    Attributes:
        seen: True if it was not 0.
        arrivals: The number of totals that backward had gone through.
        place: Its address in memory; another one later means that it was set to None in between.
        ours: True if such a total is a part of it.
    """

    seen: bool | Tensor
    arrivals: int
    place: int
    ours: bool


class Gradients:
    """The gradients of the optimizers that are known.

    An optimizer inside another (of SAM, of Accelerate, of DeepSpeed) is known by its parameters, which are those of the
    other. So the hooks are on all optimizers. Two witnesses, the first and the last parameter, tell of each optimizer
    whose losses its gradients are from, and whether they were set to 0 afterwards: theirs are looked at as they come,
    and again when they are to be used.

    Args:
        stepped: A function that is called after each outermost step of a known optimizer, with two flags: whether it
            had gradients (on the device if need be), and whether they were from totals that arrived.
        searching: True takes each optimizer that steps for known.
    """

    def __init__(self, stepped: Callable[[bool | Tensor, bool], None], *, searching: bool = False) -> None:
        self._stepped, self._searching = stepped, searching
        self.references: list[weakref.ref[Any]] = []  # to the known optimizers
        self._witnesses: weakref.WeakKeyDictionary[Any, set[int] | None] = weakref.WeakKeyDictionary()
        self._all_witnesses: set[int] = set()  # by id
        self._handles: list[Any] = []
        self._came: dict[Tensor, _Came] = {}
        self._unknown: weakref.ref[Any] | None = None  # an optimizer that steps, while searching
        self._reached = False  # True once a gradient of a total has come to a witness
        self._stepping: list[Any] = []  # the optimizers that are in their step, the outermost first
        self._comings = 0  # of totals and gradients
        self._comings_before = -1  # as the step began; -1 if it had no gradients then
        self.arrivals = self._arrivals_before = 0  # totals that backward has gone through; those before the last step
        self._plain = False
        if searching:
            self.listen()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy starts from: it knows no optimizer."""
        return {"stepped": self._stepped, "searching": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def optimizers(self) -> list[Any]:
        """The known optimizers."""
        return [found for each in self.references if (found := each()) is not None]

    @property
    def stepping(self) -> bool:
        """True while a known optimizer steps, as when it calls a closure."""
        return bool(self._stepping)

    def follow(self, optimizers: Sequence[Any]) -> None:
        """Know these optimizers, too.

        Raises:
            TypeError: if one has no ``param_groups``.
        """
        for optimizer in optimizers:
            if not hasattr(optimizer, "param_groups"):
                raise TypeError(
                    f"Expected an optimizer to follow; got an object of type {type(optimizer).__name__}, without "
                    "`param_groups`. Pass the optimizers themselves: `weighting.follow(optimizer)`."
                )
        self.listen()
        came = weakref.WeakMethod(self._gradient_came)
        for optimizer in optimizers:
            if not any(optimizer is other for other in self.optimizers):
                self.references.append(weakref.ref(optimizer))
                trained = [p for p in _parameters([optimizer]) if p.requires_grad and p.is_leaf]
                for witness in {*trained[:1], *trained[-1:]}:
                    self._all_witnesses.add(id(witness))
                    hook = witness.register_post_accumulate_grad_hook(lambda p: _call(came, p))  # type: ignore[no-untyped-call]
                    self._handles.append(hook)
        self._witnesses.clear()
        plain = all(type(parameter) in (Tensor, torch.nn.Parameter) for parameter in _parameters(self.optimizers))
        self._plain = plain and all(isinstance(optimizer, Optimizer) for optimizer in self.optimizers)

    @property
    def visible(self) -> bool:
        """True if gradients can be seen between two steps: a sharded parameter has its own in the step only."""
        return self._plain and (self._reached or not self._searching)

    def listen(self) -> None:
        """Hear of the steps of all optimizers."""
        _register_hooks()
        _LISTENERS.add(self)

    def leave(self, *, searching: bool = False) -> None:
        """Know no optimizer any more; ``searching`` as at the start."""
        for handle in self._handles:
            handle.remove()
        _LISTENERS.discard(self)
        self.__init__(self._stepped, searching=searching)  # type: ignore[misc]

    def arrive(self) -> None:
        """Note that backward goes through a total."""
        self.arrivals += 1
        if self._unknown is not None and (optimizer := self._unknown()) is not None:  # which has called a closure
            self._unknown = None
            self.follow([optimizer])
            self.before_step(optimizer)

    def _witnesses_of(self, optimizer: Any) -> set[int] | None:
        """Return the witnesses among the parameters of an optimizer, None if none of its parameters is known."""
        if optimizer not in self._witnesses:
            known = {id(parameter) for parameter in _parameters(self.optimizers)}
            shared = known & {id(parameter) for parameter in _parameters([optimizer])}
            self._witnesses[optimizer] = self._all_witnesses & shared if shared else None
        return self._witnesses[optimizer]

    def before_step(self, optimizer: Optimizer) -> None:
        """Look at the gradients before the step of any optimizer."""
        if self._searching and self._witnesses_of(optimizer) is None:
            self._unknown = weakref.ref(optimizer)
        if self._witnesses_of(optimizer) is not None:
            if any(optimizer is other for other in self._stepping):  # its last step ended in an exception
                self._stepping.clear()
            if _has_any(optimizer) or not self._stepping:
                self._comings_before = self._comings if _has_any(optimizer) else -1
            self._stepping.append(optimizer)

    def after_step(self, optimizer: Optimizer) -> None:
        """Tell of the outermost step of a known optimizer."""
        unknown, self._unknown = self._unknown, None
        if unknown is not None and unknown() is optimizer and self.arrivals > self._arrivals_before:
            self.follow([optimizer])  # the first that steps after a total has arrived
            self._stepping.append(optimizer)
        if not self._stepping or self._stepping[-1] is not optimizer:
            return
        self._stepping.pop()
        if self._stepping:
            return
        alive = self.alive(optimizer)
        if alive is False and self._comings_before == self._comings and not _has_any(optimizer):
            alive = True  # they were there, and the step itself has set them to None
        if (skipped := getattr(optimizer, "found_inf", None)) is not None:  # a fused optimizer skips by itself
            went = skipped == 0.0
            alive = went & alive if went.is_cuda else bool(went) and alive
        mine = self._uses_ours(optimizer) and (alive is not False or self.alive() is False)
        if mine:
            self._came.clear()
            self._arrivals_before = self.arrivals
        self._stepped(alive, mine)

    def _uses_ours(self, optimizer: Optimizer) -> bool:
        """Return False if totals have arrived since the last step, and none of its witnesses has a gradient of them."""
        here = self._witnesses_of(optimizer) or ()
        came = [each.ours for witness, each in self._came.items() if id(witness) in here]
        return self.arrivals == self._arrivals_before or not came or any(came)

    def _gradient_came(self, witness: Tensor) -> None:
        self._comings += 1
        last, row = self._came.get(witness), _row(witness.grad)
        place = 0 if row is None else row.data_ptr()
        ours = self.arrivals > (self._arrivals_before if last is None else last.arrivals)
        ours = ours or (last is not None and last.ours and last.place == place)
        self._reached = self._reached or ours
        self._came[witness] = _Came(_is_not_zero(row), self.arrivals, place, ours)

    def alive(self, optimizer: Any = None) -> bool | Tensor:
        """Return False if no parameter has a gradient, or those of the witnesses became 0; on the device if need be.

        Args:
            optimizer: The optimizer whose parameters are looked at; by default all that are known.
        """
        if not _has_any(*([optimizer] if optimizer else self.optimizers)):
            return False
        here = (self._witnesses_of(optimizer) or ()) if optimizer else self._all_witnesses
        came = [(w.grad, each.seen) for w, each in self._came.items() if id(w) in here and w.grad is not None]
        pairs = [(seen, _is_not_zero(_row(gradient))) for gradient, seen in came]
        flags = [flag for pair in pairs for flag in pair if isinstance(flag, Tensor)]
        if not flags:
            return not any(seen for seen, _ in pairs) or any(now for _, now in pairs)
        seen, now = (
            torch.stack([torch.full_like(flags[0], f) if isinstance(f, bool) else f.to(flags[0].device) for f in row])
            for row in zip(*pairs, strict=True)
        )
        return ~seen.any() | now.any()


def _parameters(optimizers: Sequence[Any]) -> Iterator[Tensor]:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]


def _has_any(*optimizers: Any) -> bool:
    return any(parameter.grad is not None for parameter in _parameters(optimizers))


def _row(gradient: Tensor | None) -> Tensor | None:
    """Return a part of a gradient that costs little to look at; None if there is none."""
    if gradient is None:
        return None
    row = gradient.to_local() if hasattr(gradient, "to_local") else gradient.detach()  # this rank's part of a DTensor
    if type(row) is not Tensor or row.layout is not torch.strided or not row.numel():
        return None
    while row.dim() > 1:
        row = row[0]
    return row


def _is_not_zero(row: Tensor | None) -> bool | Tensor:
    if row is None or row.device.type != "cpu":
        return False if row is None else row.any()
    # Without an operation of torch, which costs ten times as much.
    plain = row.resolve_conj().resolve_neg()
    return bool((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy().any())


def _call(method: weakref.WeakMethod[Any], argument: Any) -> None:
    if (found := method()) is not None:
        found(argument)


_LISTENERS: weakref.WeakSet[Gradients] = weakref.WeakSet()  # a hook of torch would keep alive what nobody needs


@functools.cache
def _register_hooks() -> None:
    """Register the hooks of all listeners: once, since torch forbids it while an optimizer steps."""
    register_optimizer_step_pre_hook(_before_any_step)
    register_optimizer_step_post_hook(_after_any_step)


def _before_any_step(optimizer: Optimizer, *_: Any) -> None:
    for listener in list(_LISTENERS):
        listener.before_step(optimizer)


def _after_any_step(optimizer: Optimizer, *_: Any) -> None:
    for listener in list(_LISTENERS):
        listener.after_step(optimizer)
