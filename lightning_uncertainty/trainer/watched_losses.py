"""Losses by name, made of watched calls, and what ``training_step`` adds to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from lightning_uncertainty.cross_entropy import plain
from lightning_uncertainty.trainer.watched_calls import STEP, NoLossesError, logged_names, offer, watch_calls
from lightning_uncertainty.weighting import UncertaintyWeighting

__all__ = ["LossSource", "WatchedLosses"]

_ARGUMENTS = tuple(signature(UncertaintyWeighting.__call__).parameters)[1:]  # losses, samples, ...


class LossSource:
    """The calls that make the losses, and the function that finds these in a call.

    Args:
        losses_from: The path of a submodule or of a method, or one path for each task.
        split: A function that makes named losses of a call at that path; None if its output is such.

    Raises:
        TypeError, ValueError: If an argument is not valid.
    """

    def __init__(self, losses_from: str | Mapping[str, str], split: Callable[..., Any] | None) -> None:
        self.paths = dict(losses_from) if isinstance(losses_from, Mapping) else {"": losses_from}
        if not self.paths or not all(isinstance(path, str) for path in self.paths.values()):
            raise TypeError(
                "losses_from must be the path of a submodule or of a method, or one such path for each task; got "
                f'{losses_from!r}. Write `losses_from="criterion"` or `losses_from={{"depth": "losses.0"}}`.'
            )
        if split is not None and not (callable(split) and isinstance(losses_from, str)):
            raise ValueError(
                f"split must be a function, for one path that all losses come from; got {split!r} for "
                f'{losses_from!r}. Write `losses_from="criterion", split=function`.'
            )
        self.split = split

    def __str__(self) -> str:
        return ", ".join(map(repr, self.paths.values()))

    @contextmanager
    def watch(self, module: Any, weighting: UncertaintyWeighting) -> Iterator[WatchedLosses]:
        """Watch the calls that are made in this context; that of ``training_step`` itself is to be noted after it."""
        watched = WatchedLosses(self, module, weighting)
        with ExitStack() as stack:
            for task, path in self.paths.items():
                if path != STEP:
                    stack.enter_context(watch_calls(module, path, partial(watched.note, task, path)))
            yield watched


class WatchedLosses:
    """What was seen while one ``training_step`` ran.

    Attributes:
        arguments: The arguments for the engine; none before a call.
    """

    def __init__(self, source: LossSource, module: Any, weighting: UncertaintyWeighting) -> None:
        self._source, self._module, self._weighting = source, module, weighting
        self.arguments: dict[str, Any] = {}
        self._others: list[str] = []  # names that are no tasks
        self._replaced: dict[tuple[Any, int], tuple[Any, Tensor]] = {}  # what losses stand for, by place in the graph

    def note(self, task: str, path: str, owner: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Take the losses of one call. Its output stays as it is; what the caller does to it later changes no loss.

        Raises:
            NoLossesError: If there are no losses by name, or a task has one already.
        """
        split, tasks = self._source.split, self._weighting.tasks
        if path == "log":  # which returns nothing
            output = _logged(*args, **kwargs)
        if split is None and isinstance(output, Mapping) and "losses" not in output:
            self._others += [name for name in output if name not in tasks]
            output = {name: loss for name, loss in output.items() if name in tasks}
        seen = {id(tensor): (tensor, tensor if path == STEP else plain(tensor).clone()) for tensor in _tensors(output)}
        for tensor, copy in seen.values():
            edge = get_gradient_edge(tensor)
            self._replaced[edge.node, edge.output_nr] = edge, copy
        if split is not None:
            output = split(owner, output, *args, **kwargs)
        found = {"losses": {task: output} if task else output}
        if isinstance(output, Mapping) and "losses" in output:
            found = {name: output[name] for name in _ARGUMENTS if name in output}
        losses = found["losses"]
        if isinstance(losses, Mapping):
            found["losses"] = {name: seen.get(id(loss), (loss, loss))[1] for name, loss in losses.items()}
        elif isinstance(losses, Tensor) and losses.ndim:
            found["losses"] = seen.get(id(losses), (losses, losses))[1]
        else:
            raise self._error(path, f"{'split of ' if split else ''}{path} returned {type(losses).__name__}")
        self.arguments = self._merged(path, found) if self.arguments else found

    def _merged(self, path: str, found: dict[str, Any]) -> dict[str, Any]:
        before, now = self.arguments["losses"], found["losses"]
        if not (isinstance(before, Mapping) and isinstance(now, Mapping) and {*self.arguments, *found} == {"losses"}):
            trouble = "only losses by name can be put together"
        elif double := [name for name in now if name in before]:
            trouble = f"task {double[0]!r} has two losses"
        else:
            return {"losses": {**before, **now}}
        raise NoLossesError(
            f"{path!r} was called more than once in one training_step, and {trouble}. Expected one loss for each task. "
            "Watch a method that is called once; or give a split that tells the calls apart by their arguments and "
            "returns other names for each, or {} for those that do not count."
        )

    def check(self) -> None:
        """Raise ``NoLossesError`` if no losses were seen."""
        for path in self._source.paths.values():
            if not self.arguments:
                raise self._error(path, f"{path} was not called in training_step")
            if self._others and len(self.arguments["losses"]) == 0:
                verb = "was called with" if path == "log" else "returned"
                raise self._error(path, f"{path} {verb} {', '.join(map(repr, dict.fromkeys(self._others)))}")

    def _error(self, path: str, found: str) -> NoLossesError:
        """Return what to say and what to write instead when there are no losses."""
        seen = {"log": logged_names(self._module, self._weighting.snapshot().metrics(""))}
        if path == STEP:
            seen[STEP] = [name for name in dict.fromkeys(self._others) if name != "loss"]
            instead = (
                'Return `{"losses": {"depth": loss, ...}}`; or derive the module from UncertaintyMixin and return '
                "`self.weigh(losses)`. In code that is not yours:"
            )
        else:
            names = ", ".join(f"{name!r}: ..." for name in self._weighting.tasks)
            instead = (
                f'Write `losses_from="{path}", split=split` with `def split(module, output, *args, **kwargs): return '
                f"{{{names}}}`, which gets the arguments of the call. Calls from inside compiled or scripted modules "
                "are not seen, nor those past the attribute, as in `super().loss(...)`."
            )
        return NoLossesError(
            f"UncertaintyCallback needs the losses by name, and {found}. {instead} {offer(self._module, seen)}"
        )

    def rest(self, returned: Any) -> Tensor | None:
        """Return what ``training_step`` adds to the watched losses; None for nothing that trains.

        That is ``returned`` less its linear part in the watched tensors: the gradient that went through them is gone,
        and all others are as they were. Where it is not finite, it is zero.

        Raises:
            NoLossesError: If ``returned`` does not depend on the watched tensors.
        """
        if not isinstance(returned, Tensor) or not self._goes_past(returned):
            return None
        edges = [edge for edge, _ in self._replaced.values()]
        # Where a total stands beside its parts, the derivative by a part is that at a constant total.
        handles = [edge.node.register_prehook(partial(_stop, edge.output_nr)) for edge in edges]
        slopes = torch.autograd.grad(returned, edges, retain_graph=True, allow_unused=True) if edges else ()
        for handle in handles:
            handle.remove()
        watched = zip(slopes, self._replaced.values(), strict=True)
        parts = [(slope * tensor).sum() for slope, (_, tensor) in watched if slope is not None]
        if not parts:
            raise NoLossesError(
                f"What training_step returns does not depend on what was seen at {self._source}, whose place the "
                "weighted losses should take. Expected the call that makes the loss, found one beside it, as that of a "
                "metric is. Give `losses_from` the path of the loss, whose value must not be detached before its use."
            )
        rest = returned - torch.stack(parts).sum()
        return torch.where(torch.isfinite(rest), rest, torch.zeros_like(rest))

    def _goes_past(self, returned: Tensor) -> bool:
        """Return True if a parameter has a way to ``returned`` past the watched tensors."""
        seen = {*self._replaced}
        edge = get_gradient_edge(returned) if returned.requires_grad else None
        ways: list[Any] = [(edge.node, edge.output_nr)] if edge else []
        while ways:
            way = ways.pop()
            if way not in seen and way[0] is not None:
                if not way[0].next_functions:  # a leaf
                    return True
                seen.add(way)
                ways.extend(way[0].next_functions)
        return False


def _logged(name: str, value: Any, *_: Any, **__: Any) -> dict[str, Any]:
    """Return what ``self.log`` is called with."""
    return {name: value}


def _stop(output_nr: int, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Let no gradient pass one output of a node of the graph."""
    zeroed = enumerate(gradients)
    return tuple(None if nr == output_nr else gradient for nr, gradient in zeroed)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Return the tensors with a graph in what a call returned, also those in attributes of objects."""
    todo, seen = [value], set()
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, nn.Module):
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            if each.requires_grad:
                yield each
        elif isinstance(each, (list, tuple)):
            todo += each
        else:
            todo += (each if isinstance(each, Mapping) else getattr(each, "__dict__", {})).values()
