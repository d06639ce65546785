"""The gradients: they come, are zeroed or taken away, and are used by the step of an optimizer."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from ctypes import c_float
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

__all__ = ["Gradients"]


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
        self._witnesses: dict[int, tuple[weakref.ref[Any], Collection[int] | None]] = {}  # by id of the optimizer
        self._all_witnesses: dict[int, weakref.ref[Tensor]] = {}  # by id
        self._handles: list[Any] = []
        self._tally = _Tally()
        self._unknown: weakref.ref[Any] | None = None  # an optimizer that steps, while searching
        self._stepping: list[Any] = []  # the optimizers that are in their step, the outermost first
        self._gradients_before = -1  # that had come as the step began; -1 if it had no gradients then
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
        for optimizer in optimizers:
            if not any(optimizer is other for other in self.optimizers):
                self.references.append(weakref.ref(optimizer))
                trained = [p for p in _parameters([optimizer]) if p.requires_grad and p.is_leaf]
                pair = {*trained[:1], *trained[-1:]}
                self._all_witnesses |= {id(witness): weakref.ref(witness) for witness in pair}
                for witness in pair:
                    hook = functools.partial(self._tally.gradient_came, [id(each) for each in pair])
                    self._handles.append(witness.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        self._witnesses.clear()
        plain = all(type(parameter) in (Tensor, torch.nn.Parameter) for parameter in _parameters(self.optimizers))
        self._plain = plain and all(isinstance(optimizer, Optimizer) for optimizer in self.optimizers)

    @property
    def visible(self) -> bool:
        """True if gradients can be seen between two steps: a sharded parameter has its own in the step only."""
        return self._plain and (self._tally.reached or not self._searching)

    def listen(self) -> None:
        """Hear of the steps of all optimizers."""
        _register_hooks()
        if not any(each() is self for each in _LISTENERS):
            _LISTENERS.append(weakref.ref(self, _LISTENERS.remove))

    def leave(self) -> None:
        """Hear of nothing any more."""
        for handle in self._handles:
            handle.remove()
        _LISTENERS[:] = [each for each in _LISTENERS if each() is not self]

    def arrive(self) -> None:
        """Note that backward goes through a total."""
        self._tally.totals += 1
        if self._unknown is not None and (optimizer := self._unknown()) is not None:  # which has called a closure
            self._unknown = None
            self.follow([optimizer])
            self.before_step(optimizer)

    def _witnesses_of(self, optimizer: Any) -> Collection[int] | None:
        """Return the witnesses among the parameters of an optimizer, None if none of its parameters is known."""
        known = self._witnesses.get(id(optimizer))
        if known is None or known[0]() is not optimizer:
            followed = {id(parameter) for parameter in _parameters(self.optimizers)}
            shared = followed & {id(parameter) for parameter in _parameters([optimizer])}
            known = weakref.ref(optimizer), self._all_witnesses.keys() & shared if shared else None
            self._witnesses[id(optimizer)] = known
        return known[1]

    def before_step(self, optimizer: Optimizer) -> None:
        """Look at the gradients before the step of any optimizer."""
        if self._witnesses_of(optimizer) is None:
            self._unknown = weakref.ref(optimizer) if self._searching else None
            return
        if self._stepping and any(optimizer is other for other in self._stepping):
            self._stepping.clear()  # its last step ended in an exception
        if (some := _has_any(optimizer)) or not self._stepping:
            self._gradients_before = self._tally.gradients if some else -1
        self._stepping.append(optimizer)

    def after_step(self, optimizer: Optimizer) -> None:
        """Tell of the outermost step of a known optimizer."""
        tally = self._tally
        if self._unknown is not None and self._unknown() is optimizer and tally.totals > tally.totals_before:
            self._unknown = None
            self.follow([optimizer])  # the first that steps after a total has arrived
            self._stepping.append(optimizer)
        if not self._stepping or self._stepping[-1] is not optimizer:
            return
        self._stepping.pop()
        if self._stepping:
            return
        alive = self.alive(optimizer)
        if alive is False and self._gradients_before == tally.gradients and not _has_any(optimizer):
            alive = True  # they were there, and the step itself has set them to None
        if (skipped := getattr(optimizer, "found_inf", None)) is not None:  # a fused optimizer skips by itself
            went = skipped == 0.0
            alive = went & alive if went.is_cuda else bool(went) and alive
        mine = alive is not False or self.alive() is False
        if mine:
            tally.came.clear()
            tally.totals_before = tally.totals
        self._stepped(alive, mine)

    def alive(self, optimizer: Any = None) -> bool | Tensor:
        """Return False if no parameter has a gradient, or those of the witnesses became 0; on the device if need be.

        Args:
            optimizer: The optimizer whose parameters are looked at; by default all that are known.
        """
        if not _has_any(*(self.optimizers if optimizer is None else [optimizer])):
            return False
        here = self._all_witnesses if optimizer is None else self._witnesses_of(optimizer) or ()
        pairs = []
        for key, seen in self._tally.came.items():
            witness = self._all_witnesses[key]() if key in here else None
            if witness is not None and (gradient := witness.grad) is not None:
                now = _is_not_zero(gradient)
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


class _Tally:
    """Counts what has come to the witnesses. Their hooks hold this, and nothing else that they would keep alive.

    Attributes:
        came: The witnesses to which a gradient has come, by id: True if it was not 0.
        gradients: The number of gradients so far.
        totals, totals_before: The number of totals that backward has gone through; and those before the last step.
        reached: True once a gradient of a total has come to a witness.
    """

    def __init__(self) -> None:
        self.came: dict[int, bool | Tensor] = {}
        self.gradients = self.totals = self.totals_before = 0
        self.reached = False

    def gradient_came(self, pair: list[int], witness: Tensor) -> None:
        """Note that the gradient of one of a ``pair`` of witnesses has come."""
        self.gradients += 1
        self.reached = self.reached or self.totals > self.totals_before
        # One whose gradient is not 0 is enough, and looking at it costs as much as five operations of numpy.
        for key in pair:
            if key != id(witness) and self.came.get(key) is True:
                self.came[id(witness)] = True
                return
        self.came[id(witness)] = _is_not_zero(witness.grad)


def _has_any(*optimizers: Any) -> bool:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    return True
    return False


def _is_not_zero(gradient: Tensor | None) -> bool | Tensor:
    """Return False if the first numbers of this rank's part are 0, which costs little to look at; else True.

    It is asked for on the device if need be. A gradient that cannot be looked at is as one of 0.
    """
    if gradient is None:
        return False
    if type(gradient) is not Tensor and hasattr(gradient, "to_local"):
        gradient = gradient.to_local()
    if type(gradient) is not Tensor or gradient.layout is not torch.strided or not gradient.numel():
        return False
    plain = gradient.is_cpu and gradient.dtype is torch.float32 and gradient.is_contiguous()
    if plain and not gradient.is_neg() and (address := gradient.data_ptr()):
        # Read from memory, one after the other: a single operation costs ten times as much.
        return any(c_float.from_address(address + 4 * index).value for index in range(min(4, gradient.numel())))
    while gradient.dim() > 1:
        gradient = gradient[0]
    flag = gradient.detach().any()
    return bool(flag) if flag.device.type == "cpu" else flag


_LISTENERS: list[weakref.ref[Gradients]] = []  # a hook of torch would keep alive what nobody needs


@functools.cache
def _register_hooks() -> None:
    """Register the hooks of all listeners: once, since torch forbids it while an optimizer steps."""
    register_optimizer_step_pre_hook(_before_any_step)
    register_optimizer_step_post_hook(_after_any_step)


def _before_any_step(optimizer: Optimizer, *_: Any) -> None:
    for each in tuple(_LISTENERS):
        if (listener := each()) is not None:
            listener.before_step(optimizer)


def _after_any_step(optimizer: Optimizer, *_: Any) -> None:
    for each in tuple(_LISTENERS):
        if (listener := each()) is not None:
            listener.after_step(optimizer)
