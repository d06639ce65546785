"""Whose engine a module has, and under which key a checkpoint holds it."""

from __future__ import annotations

from typing import Any

from lightning_uncertainty.weighting import UncertaintyWeighting

__all__ = [
    "CanWeigh",
    "attach_weighting",
    "attached_weighting",
    "by_checkpoint_key",
    "checkpoint_key",
    "send_with_state_dict",
    "was_given",
]

_CHECKPOINT_KEY = "lightning_uncertainty"


class CanWeigh:
    """A module that can weigh its losses: the mark by which :class:`UncertaintyMixin` is known here."""


def attached_weighting(module: Any) -> UncertaintyWeighting | None:
    """The engine of a module, None if it has none yet."""
    weighting: UncertaintyWeighting | None = getattr(module, "_uncertainty", None)
    return weighting


def was_given(module: Any) -> bool:
    """Whether the user assigned that engine, so that its options count and not those of a callback."""
    return bool(vars(module).get("_uncertainty_given", False))


def attach_weighting(module: Any, weighting: UncertaintyWeighting, *, given: bool = False) -> None:
    """Make ``weighting`` the engine of a module, past ``nn.Module``, which would look for parameters in it."""
    object.__setattr__(module, "_uncertainty", weighting)
    object.__setattr__(module, "_uncertainty_given", given or was_given(module))


def checkpoint_key(path: str) -> str:
    """Under which a module's weights stand in a checkpoint of the module that contains it."""
    return f"{_CHECKPOINT_KEY}.{path}" if path else _CHECKPOINT_KEY


def by_checkpoint_key(module: Any) -> dict[str, Any]:
    """The module itself and the modules inside it that can weigh."""
    modules = module.named_modules(remove_duplicate=False)
    return {checkpoint_key(path): inner for path, inner in modules if isinstance(inner, CanWeigh)}


def send_with_state_dict(module: Any, path: str, weighting: UncertaintyWeighting) -> None:
    """Add the state of ``weighting`` to what ``module.state_dict()`` returns, for a process whose work is done.

    ``load_state_dict`` of the mixin takes it out again; a module without the mixin, or one whose tasks only the
    callback knows, could not.

    Args:
        module: that of the Trainer.
        path: of the module that weighs, inside it; empty for itself.
        weighting: the engine.
    """
    inner: Any = module.get_submodule(path)
    if not isinstance(module, CanWeigh) or not hasattr(inner, "tasks"):
        return
    state_dict: Any = getattr(module, "state_dict")  # noqa: B009

    def with_weighting(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**state_dict(*args, **kwargs), checkpoint_key(path): weighting.state_dict()}

    object.__setattr__(module, "state_dict", with_weighting)
