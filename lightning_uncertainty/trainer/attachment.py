"""The engine of a module: where it is attached, which one it is, and its key in a checkpoint."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lightning_uncertainty._arguments import listed, suggest
from lightning_uncertainty.engine.saved import read_state, short_forms
from lightning_uncertainty.weighting import UncertaintyWeighting

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    from lightning_uncertainty._warnings import Notices
    from lightning_uncertainty.tasks import Task
    from lightning_uncertainty.trainer.callback import UncertaintyCallback
    from lightning_uncertainty.weighting import WeightingOptions

__all__ = [
    "CanWeigh",
    "NotAttachedError",
    "attach_weighting",
    "attached_weighting",
    "by_checkpoint_key",
    "check_apart",
    "check_names",
    "module_at",
    "nothing_learned",
    "renew_with_network",
    "send_with_state_dict",
    "start_from",
    "was_given",
    "weighting_for",
]


class CanWeigh:
    """A module that can weigh its losses: the mark by which :class:`UncertaintyMixin` is known here."""


class NotAttachedError(AttributeError, RuntimeError):
    """There are no weights yet: to ``hasattr``, and to frameworks that probe, an attribute that is not there."""


def attached_weighting(module: Any) -> UncertaintyWeighting | None:
    """Return the engine of a module, None if it has none yet."""
    weighting: UncertaintyWeighting | None = getattr(module, "_lightning_uncertainty", None)
    return weighting


def was_given(module: Any) -> bool:
    """Return True if the user assigned that engine, so that its options count and not those of a callback."""
    return bool(vars(module).get("_lightning_uncertainty_given", False))


def attach_weighting(module: Any, weighting: UncertaintyWeighting | None, *, given: bool = False) -> None:
    """Make ``weighting`` the engine of a module, ``given`` by the user or not; None takes the present one away."""
    if "_lightning_uncertainty" not in vars(module):
        module.register_load_state_dict_post_hook(_note_other_network)
    # Past nn.Module, which would look for parameters in it.
    object.__setattr__(module, "_lightning_uncertainty", weighting)
    object.__setattr__(module, "_lightning_uncertainty_given", given or was_given(module))


def _note_other_network(module: Any, _: Any) -> None:
    """Note that a module got other weights than those with which its engine has learned."""
    # Unless a state of the engine was loaded just before: then these are the weights that go with it.
    if (weighting := attached_weighting(module)) is not None:
        weighting.origin = "learned" if weighting.origin == "loaded" else "outdated"


def renew_with_network(module: Any, notices: Notices) -> bool:
    """Reset the engine if the network got other weights since it was last trained; tell of it, and return True.

    An engine that the user gave is not reset, but told of.
    """
    weighting: Any = attached_weighting(module)
    renewed = False
    if weighting.origin == "outdated" and weighting.steps:
        keep, engine = "callback.load_state_dict(former_callback.state_dict())", "callback.weighting"
        if isinstance(module, CanWeigh):
            keep, engine = "model.uncertainty.load_state_dict(model.uncertainty.state_dict())", "model.uncertainty"
        renewed = not was_given(module)
        does = "starts anew with it" if renewed else "does not start anew with it, because you gave the engine"
        notices.warn(
            "other network",
            f"{type(module).__name__} got other weights by `load_state_dict` since it was trained. Its sigma {does}. "
            f"Write which you want after `load_state_dict`: `{engine}.reset()` to start anew, or `{keep}` to keep it. "
            "`ckpt_path` and `load_from_checkpoint` bring sigma along.",
        )
        if renewed:
            weighting.reset()
    weighting.origin = "learned"
    return renewed


# ------------------------------------------------------------------------------------------ which engine, whose


def module_at(pl_module: LightningModule, callback: UncertaintyCallback) -> Any:
    """Return the module whose losses ``callback`` weighs, or raise ValueError if there is none that can."""
    modules = dict(pl_module.named_modules(remove_duplicate=False))  # one module may have several paths
    found = modules.get(callback.module)
    if found is None:
        raise ValueError(
            f"UncertaintyCallback {callback.name!r} has no module {callback.module!r} to weigh for in "
            f"{type(pl_module).__name__}. {suggest(callback.module, filter(None, modules))}"
        )
    if callback.module and not isinstance(found, CanWeigh):
        raise ValueError(
            f"UncertaintyCallback {callback.name!r} weighs for the module {callback.module!r}, whose class "
            f"{type(found).__name__} lacks `self.weigh`: derive it from UncertaintyMixin."
        )
    return found


def check_names(callback: UncertaintyCallback, others: Iterable[Any]) -> None:
    """Refuse two callbacks whose states would have one key in a checkpoint."""
    if any(
        isinstance(other, type(callback)) and other.name == callback.name for other in others if other is not callback
    ):
        raise ValueError(
            f"Two UncertaintyCallbacks of this Trainer have the name {callback.name!r}; expected one for each module "
            "that weighs. Name all tasks in one of them and drop the other. For inner modules, say which: "
            '`UncertaintyCallback(module="path")`, each without `name=` or with another one.'
        )


def check_apart(pl_module: LightningModule, callback: UncertaintyCallback, others: Iterable[Any]) -> None:
    """Refuse two callbacks that would weigh the same losses, or log under the same keys."""
    for other in others:
        names = f"The UncertaintyCallbacks {callback.name!r} and {other.name!r} of this Trainer"
        if module_at(pl_module, other) is module_at(pl_module, callback):
            raise ValueError(
                f"{names} would both weigh the losses of the same module. "
                'Name all tasks in one of them. For inner modules, say which: `UncertaintyCallback(module="...")`. '
                "For several totals of one module, give each its own UncertaintyWeighting and call its `step()`."
            )
        if other.log_prefix == callback.log_prefix:
            raise ValueError(
                f"{names} would log under the same keys: give one of them another log_prefix than "
                f"{callback.log_prefix!r}."
            )


def weighting_for(
    module: Any, tasks: Sequence[Task] | None, options: WeightingOptions, last: UncertaintyWeighting | None
) -> UncertaintyWeighting:
    """Return the engine that the user gave to the module; or that of the last fit; or a new one with its state.

    Args:
        module: The module that weighs.
        tasks: Tasks of the callback, None for those of the module.
        options: Options of a new engine.
        last: The engine that the callback had so far.

    Raises:
        ValueError: If both the callback and the module were given tasks of their own, or neither has any.
    """
    present, name = attached_weighting(module), type(module).__name__
    given = present is not None and was_given(module)
    if given and tasks is not None:
        raise ValueError(
            f"{name} was given an UncertaintyWeighting, and UncertaintyCallback was given tasks for another. Drop one "
            "of the two."
        )
    if present is not None and (given or present is last):
        return present
    specs: Any = tasks if tasks is not None else getattr(module, "tasks", None)
    if specs is None:
        raise ValueError(
            f"Neither UncertaintyCallback nor {name} says which tasks there are. "
            'Write `UncertaintyCallback({"depth": "laplace"})`, or `tasks = {"depth": "laplace"}` in the module. '
            '(Tasks of a module inside it count if it has a callback: `UncertaintyCallback(module="path")`.)'
        )
    weighting = UncertaintyWeighting(specs, **options)
    if present is not None:
        weighting.sigma_asked = weighting.sigma_asked or present.sigma_asked
        weighting.load_state_dict(present.state_dict())
        weighting.origin = present.origin
    return weighting


def start_from(weighting: UncertaintyWeighting, source: Any, name: str, notices: Notices) -> None:
    """Start the sigmas of a new engine where another run left them, as if they were the ``init`` of its tasks.

    Tasks are matched by name. Those that are not there, or have another likelihood there, start from the data.

    Args:
        weighting: The new engine.
        source: The path of a checkpoint, what is in it, the state of an engine, or something that has such a state.
        name: The name of the callback, whose state in a checkpoint is looked for first.
        notices: What was told already.

    Raises:
        ValueError: If there is no usable state, or no sigma of any task in it.
    """
    strategy = weighting.strategy
    saved = read_state(_state_in(source, name), strategy=(strategy.name, strategy.state))
    forms = short_forms(weighting.tasks)
    notices.warn_of_tasks(saved.differences(forms, strategy.name, weighting.regularizer.name))
    values = zip(saved.tasks.items(), saved.tensors.get("log_var", ()), saved.tensors.get("started", ()), strict=False)
    same = {task: value.item() for (task, form), value, started in values if started and forms.get(task) == form}
    learned = {task: value for task, value in same.items() if weighting.tasks[task].likelihood.learned}
    if not learned:
        raise ValueError(
            f"start_from has no sigma for any task. Expected some of {', '.join(map(repr, weighting.tasks))}, with the "
            f"same likelihoods; found {', '.join(map(repr, saved.tasks))}, saved by strategy={saved.strategy!r}. Leave "
            "it out to start from the data."
        )
    weighting.log_vars = learned


def _state_in(source: Any, name: str) -> Any:
    """Return the state of an engine in what :func:`start_from` takes."""
    if isinstance(source, (str, os.PathLike)):
        try:
            source = torch.load(source, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"start_from={str(source)!r} holds more than tensors, and loading that may run code. If you trust the "
                f"file: `start_from=torch.load({str(source)!r}, weights_only=False)`."
            ) from error
    elif hasattr(source, "state_dict"):
        source = source.state_dict()
    if not isinstance(source, Mapping) or "log_var" in source:
        return source
    kept = {key: state for key, state in source.get("callbacks", {}).items() if key.startswith("UncertaintyCallback(")}
    found = [kept.get(f"UncertaintyCallback({name})"), source.get("lightning_uncertainty"), *kept.values()]
    return next((state for state in found if state is not None), source)


def nothing_learned(weighting: UncertaintyWeighting) -> str:
    """Return a warning for an epoch from which the engine learned nothing."""
    if weighting.waiting:
        return (
            "Losses were weighed in this epoch, but of those that `configure_optimizers` returns no optimizer has "
            "stepped on them, so sigma does not learn. Under manual optimisation step these, or call "
            "`self.uncertainty.step()` after each step of an optimizer of your own."
        )
    return (
        f"No loss of {listed(weighting.tasks)} reached UncertaintyCallback in this epoch. "
        "Does training_step return `self.weigh(losses)`?"
    )


# ------------------------------------------------------------------------------------------ checkpoints


def _checkpoint_key(path: str) -> str:
    return f"lightning_uncertainty.{path}" if path else "lightning_uncertainty"


def by_checkpoint_key(module: Any) -> dict[str, Any]:
    """Return the module itself and the modules inside it that can weigh, by their keys."""
    modules = module.named_modules(remove_duplicate=False)
    return {_checkpoint_key(path): inner for path, inner in modules if isinstance(inner, CanWeigh)}


def send_with_state_dict(module: Any, path: str, weighting: UncertaintyWeighting) -> None:
    """Add the state of the engine of the module at ``path`` to what ``module.state_dict()`` returns from now on.

    For a process whose work is done: ``load_state_dict`` of the mixin takes it out again. A module without the mixin,
    or one whose tasks only the callback knows, could not, and sends nothing.
    """
    if not isinstance(module, CanWeigh) or not hasattr(module.get_submodule(path), "tasks"):  # type: ignore[attr-defined]
        return
    # A launcher that spawns has no hook for what else should come home, and a buffer would stay in the module.
    state_dict: Any = getattr(module, "state_dict")  # noqa: B009

    def with_weighting(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**state_dict(*args, **kwargs), _checkpoint_key(path): weighting.state_dict()}

    object.__setattr__(module, "state_dict", with_weighting)
