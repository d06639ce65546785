"""What becomes of the gradients: whether they are there, and when an optimizer has used them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

__all__ = ["Gradients"]


class Gradients:
    """The gradients of the optimizers that are followed.

    An optimizer inside another (of SAM, of Accelerate, of DeepSpeed) is known by its parameters, which are those of the
    other. So the hooks are on all optimizers. Gradients that were set to zero are known by two witnesses: the first
    and the last parameter, whose gradients are looked at as they come, and again when they are to be used.

    Args:
        stepped: A function that is called after each step of one of them; with False if it had no gradients.
    """

    def __init__(self, stepped: Callable[[bool | Tensor], None]) -> None:
        self._stepped = stepped
        self._optimizers: list[Any] = []
        self._handles: list[Any] = []
        self._ours: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
        self._came: dict[Tensor, bool | Tensor] = {}  # by witness, True if its gradient was not 0 when it came
        self.stepping = False

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy starts from: it follows no optimizer."""
        return {"stepped": self._stepped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def follow(self, optimizers: Sequence[Any]) -> None:
        """Follow these optimizers, too.

        Raises:
            TypeError: if one has no ``param_groups``.
        """
        for optimizer in optimizers:
            if not hasattr(optimizer, "param_groups"):
                raise TypeError(
                    f"Expected an optimizer to follow; got an object of type {type(optimizer).__name__}, without "
                    "`param_groups`. Pass the optimizers themselves: `weighting.follow(optimizer)`."
                )
        if not self._handles and optimizers:
            # The hooks of torch would keep an engine alive that nobody needs any more.
            before, after = weakref.WeakMethod(self._before_step), weakref.WeakMethod(self._after_step)
            self._handles.append(register_optimizer_step_pre_hook(lambda optimizer, *_: _call(before, optimizer)))
            self._handles.append(register_optimizer_step_post_hook(lambda optimizer, *_: _call(after, optimizer)))
            weakref.finalize(self, _remove, self._handles)
        came = weakref.WeakMethod(self._gradient_came)
        for optimizer in optimizers:
            if not any(optimizer is other for other in self._optimizers):
                self._optimizers.append(optimizer)
                trained = [p for p in _parameters([optimizer]) if p.requires_grad and p.is_leaf]
                for witness in {*trained[:1], *trained[-1:]}:
                    hook = witness.register_post_accumulate_grad_hook(lambda p: _call(came, p))  # type: ignore[no-untyped-call]
                    self._handles.append(hook)
        self._ours.clear()

    def leave(self) -> None:
        """Follow none any more."""
        _remove(self._handles)
        self.__init__(self._stepped)  # type: ignore[misc]

    @property
    def followed(self) -> bool:
        """True if an optimizer is followed."""
        return bool(self._optimizers)

    @property
    def visible(self) -> bool:
        """True if the gradients can be seen between two steps: a sharded parameter has its own only in the step."""
        plain = all(type(parameter) in (Tensor, torch.nn.Parameter) for parameter in _parameters(self._optimizers))
        return self.followed and plain and all(isinstance(optimizer, Optimizer) for optimizer in self._optimizers)

    def _is_ours(self, optimizer: Optimizer) -> bool:
        if optimizer not in self._ours:
            ours = {id(parameter) for parameter in _parameters(self._optimizers)}
            self._ours[optimizer] = any(id(parameter) in ours for parameter in _parameters([optimizer]))
        return self._ours[optimizer]

    def _before_step(self, optimizer: Optimizer) -> None:
        self.stepping = self.stepping or self._is_ours(optimizer)

    def _after_step(self, optimizer: Optimizer) -> None:
        if self._is_ours(optimizer):
            self.stepping = False
            alive = self.alive([optimizer])
            if (skipped := getattr(optimizer, "found_inf", None)) is not None:  # a fused optimizer skips by itself
                went = skipped == 0.0
                alive = went & alive if went.is_cuda else bool(went) and alive
            self._came.clear()
            self._stepped(alive)

    def _gradient_came(self, witness: Tensor) -> None:
        self._came[witness] = _is_not_zero(witness.grad)

    def alive(self, optimizers: list[Any] | None = None) -> bool | Tensor:
        """Return False if no parameter has a gradient, or those of the witnesses became 0; on the device if need be.

        Args:
            optimizers: The optimizers whose parameters are looked at; by default all that are followed.
        """
        parameters = _parameters(self._optimizers if optimizers is None else optimizers)
        if all(parameter.grad is None for parameter in parameters):
            return False
        became: list[bool | Tensor] = [_is_not_zero(witness.grad) for witness in self._came]
        pairs = list(zip(self._came.values(), became, strict=True))
        if all(isinstance(each, bool) for pair in pairs for each in pair):
            return not pairs or any(now or not before for before, now in pairs)
        flags = [torch.as_tensor(now) | ~torch.as_tensor(before) for before, now in pairs]
        return torch.stack(flags).any()


def _parameters(optimizers: Sequence[Any]) -> Iterator[Tensor]:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]


def _is_not_zero(gradient: Tensor | None) -> bool | Tensor:
    """Return False if a part of a gradient that costs little to look at is 0 everywhere; on the device if need be."""
    if gradient is None:
        return False
    row = gradient.to_local() if hasattr(gradient, "to_local") else gradient.detach()  # this rank's part of a DTensor
    if type(row) is not Tensor or row.layout is not torch.strided:
        return True
    if not row.numel():
        return False
    while row.dim() > 1:
        row = row[0]
    if row.device.type != "cpu":
        return row.any()
    # Without an operation of torch, which costs ten times as much.
    return bool((row.float() if row.dtype == torch.bfloat16 else row).numpy().any())


def _call(method: weakref.WeakMethod[Any], argument: Any) -> None:
    if (found := method()) is not None:
        found(argument)


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()
