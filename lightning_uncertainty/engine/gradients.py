"""The gradients: they come, are zeroed or taken away, and are used by the step of an optimizer."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

__all__ = ["Gradients"]

_OF_NUMPY = (torch.float32, torch.float64, torch.float16, torch.complex64, torch.complex128)


class Gradients:
    """The gradients of the optimizers that are known.

    An optimizer inside another (of SAM, of Accelerate, of DeepSpeed) is known by its parameters, which are those of the
    other. So the hooks are on all optimizers. Two witnesses, the first and the last parameter, tell whether the
    gradients of an optimizer were set to 0: theirs are looked at as they come, and again when they are to be used.

    Args:
        stepped: A function that is called after each outermost step of a known optimizer, with two flags: whether it
            had gradients (on the device if need be); and False if it had none, while another one has.
        searching: True takes each optimizer that steps for known.
    """

    def __init__(self, stepped: Callable[[bool | Tensor, bool], None], *, searching: bool = False) -> None:
        self._stepped, self._searching = stepped, searching
        self.references: list[weakref.ref[Any]] = []  # to the known optimizers
        self._witnesses: weakref.WeakKeyDictionary[Any, set[int] | None] = weakref.WeakKeyDictionary()
        self._all_witnesses: set[int] = set()  # by id
        self._handles: list[Any] = []
        self._came: dict[Tensor, bool | Tensor] = {}  # by witness, True if its gradient was not 0 when it came
        self._unknown: weakref.ref[Any] | None = None  # an optimizer that steps, while searching
        self._reached = False  # True once a gradient of a total has come to a witness
        self._stepping: list[Any] = []  # the optimizers that are in their step, the outermost first
        self._comings = 0  # of totals and gradients
        self._comings_before = -1  # as the step began; -1 if it had no gradients then
        self.arrivals = self._arrivals_before = 0  # totals that backward has gone through; those before the last step
        self._plain = False
        if searching:
            self.listen()

    def __reduce__(self) -> Any:
        """Return how a copy is made: it knows no optimizer."""
        return functools.partial(Gradients, searching=True), (self._stepped,)

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
                pair = {*trained[:1], *trained[-1:]}
                self._all_witnesses |= {id(witness) for witness in pair}
                for witness in pair:
                    hook = functools.partial(_call, came, [other for other in pair if other is not witness])
                    self._handles.append(witness.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
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

    def leave(self) -> None:
        """Hear of nothing any more."""
        for handle in self._handles:
            handle.remove()
        _LISTENERS.discard(self)

    def arrive(self) -> None:
        """Note that backward goes through a total."""
        self.arrivals += 1
        if self._unknown is not None and (optimizer := self._unknown()) is not None:  # which has called a closure
            self._unknown = None
            self.follow([optimizer])
            self.before_step(optimizer)

    def _witnesses_of(self, optimizer: Any) -> set[int] | None:
        """Return the witnesses among the parameters of an optimizer, None if none of its parameters is known."""
        found = self._witnesses.get(optimizer, self._all_witnesses)  # the latter if it has not been looked up
        if found is self._all_witnesses:
            known = {id(parameter) for parameter in _parameters(self.optimizers)}
            shared = known & {id(parameter) for parameter in _parameters([optimizer])}
            found = self._witnesses[optimizer] = self._all_witnesses & shared if shared else None
        return found

    def before_step(self, optimizer: Optimizer) -> None:
        """Look at the gradients before the step of any optimizer."""
        if self._witnesses_of(optimizer) is None:
            self._unknown = weakref.ref(optimizer) if self._searching else None
            return
        if any(optimizer is other for other in self._stepping):  # its last step ended in an exception
            self._stepping.clear()
        if (some := _has_any(optimizer)) or not self._stepping:
            self._comings_before = self._comings if some else -1
        self._stepping.append(optimizer)

    def after_step(self, optimizer: Optimizer) -> None:
        """Tell of the outermost step of a known optimizer."""
        if self._unknown is not None and self._unknown() is optimizer and self.arrivals > self._arrivals_before:
            self._unknown = None
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
        mine = alive is not False or self.alive() is False
        if mine:
            self._came.clear()
            self._arrivals_before = self.arrivals
        self._stepped(alive, mine)

    def _gradient_came(self, others: list[Tensor], witness: Tensor) -> None:
        self._comings += 1
        self._reached = self._reached or self.arrivals > self._arrivals_before
        # One whose gradient is not 0 is enough, and looking at it costs as much as five operations of numpy.
        enough = any(self._came.get(other) is True for other in others)
        self._came[witness] = True if enough else _is_not_zero(_local(witness.grad))

    def alive(self, optimizer: Any = None) -> bool | Tensor:
        """Return False if no parameter has a gradient, or those of the witnesses became 0; on the device if need be.

        Args:
            optimizer: The optimizer whose parameters are looked at; by default all that are known.
        """
        if not _has_any(*(self.optimizers if optimizer is None else [optimizer])):
            return False
        here = self._all_witnesses if optimizer is None else self._witnesses_of(optimizer) or ()
        came = [(w.grad, seen) for w, seen in self._came.items() if id(w) in here and w.grad is not None]
        pairs = []
        for gradient, seen in came:
            now = _is_not_zero(_local(gradient))
            if now is True:
                return True
            pairs.append((seen, now))
        flags = [flag for pair in pairs for flag in pair if isinstance(flag, Tensor)]
        if not flags:
            return not any(seen for seen, _ in pairs)
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


def _local(gradient: Tensor | None) -> Tensor | None:
    """Return this rank's part of a gradient, None if there is none that could be looked at."""
    if gradient is None:
        return None
    local = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return local if type(local) is Tensor and local.layout is torch.strided and local.numel() else None


def _is_not_zero(gradient: Tensor | None) -> bool | Tensor:
    """Return False if its first numbers are 0, which costs little to look at; on the device if need be."""
    if gradient is None:
        return False
    if gradient.device.type == "cpu" and gradient.dtype in _OF_NUMPY and not (gradient.is_conj() or gradient.is_neg()):
        return any(gradient.detach().numpy().flat[:4].tolist())  # an operation of torch costs ten times as much
    while gradient.dim() > 1:
        gradient = gradient[0]
    flag = gradient.detach().any()
    return bool(flag) if flag.device.type == "cpu" else flag


def _call(method: weakref.WeakMethod[Any], *arguments: Any) -> None:
    if (found := method()) is not None:
        found(*arguments)


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
