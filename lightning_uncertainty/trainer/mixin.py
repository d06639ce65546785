"""The mixin gives a LightningModule one call that weighs its losses, and the engine behind it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_uncertainty.engine.losses import Losses, Masks
from lightning_uncertainty.engine.task_numbers import TaskNumbers
from lightning_uncertainty.tasks import TaskSpecs
from lightning_uncertainty.trainer.attachment import (
    CanWeigh,
    NotAttachedError,
    attach_weighting,
    attached_weighting,
    by_checkpoint_key,
)
from lightning_uncertainty.trainer.names import TAKEN, check_class, check_value
from lightning_uncertainty.weighting import UncertaintyWeighting

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule

    _Base = LightningModule
else:
    _Base = object  # the same mixin serves `lightning` and `pytorch_lightning`, whose modules differ

__all__ = ["UncertaintyMixin"]


def _checked(method: str) -> Any:
    """Return a method of nn.Module that refuses the names of the mixin."""

    def register(self: Any, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Do what nn.Module does, unless the name is one of the mixin's."""
        if name in TAKEN:
            check_value(type(self), name, value)
        getattr(super(UncertaintyMixin, self), method)(name, value, *args, **kwargs)

    return register


class UncertaintyMixin(CanWeigh, _Base):
    """A mixin that gives a LightningModule ``self.weigh(losses)``. Name it before ``LightningModule`` among the bases.

    Attributes:
        tasks: Tasks whose losses are weighed: ``{"depth": "laplace", "class": "softmax"}`` or a list of
            :class:`~lightning_uncertainty.Task`. A class attribute, or set in ``__init__``.

    Raises:
        TypeError: If a class names it after ``LightningModule``.

    Example:
        >>> import lightning as L
        >>> class Net(UncertaintyMixin, L.LightningModule):
        ...     tasks = {"depth": "laplace", "class": "softmax"}
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         losses = {"depth": ..., "class": ...}  # scalars
        ...         return self.weigh(losses)
    """

    tasks: TaskSpecs
    _did_ours = False  # True once our part of a hook is done

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        names = [base.__name__ for base in cls.__mro__]
        if "LightningModule" in names and names.index("LightningModule") < names.index("UncertaintyMixin"):
            raise TypeError(
                f"In `class {cls.__name__}(...)`, LightningModule comes before UncertaintyMixin and hides its hooks. "
                f"Write `class {cls.__name__}(UncertaintyMixin, LightningModule)`."
            )
        # Those of LightningModule are empty, so that nobody who overrides one thinks of calling super().
        for name in ("on_save_checkpoint", "on_load_checkpoint"):
            hook = getattr(cls, name)
            if hook not in [getattr(base, name) for base in cls.__bases__ if issubclass(base, UncertaintyMixin)]:
                setattr(cls, name, _completed(hook, _save_weightings if "save" in name else _load_weightings))
        check_class(cls, UncertaintyMixin)
        # TorchScript compiles all properties and attributes but those named here. A base without LightningModule, which
        # may stand before it, does not know the names of that.
        for kind, name in (("unused_properties", "uncertainty"), ("ignored_attributes", "tasks")):
            theirs = [vars(base).get(f"__jit_{kind}__", ()) for base in cls.__mro__]
            setattr(cls, f"__jit_{kind}__", sorted({name}.union(*theirs)))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in TAKEN:
            check_value(type(self), name, value)
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # their signatures stay; nn.Module keeps what comes in by these past __setattr__
        add_module, register_parameter, register_buffer = map(
            _checked, ("add_module", "register_parameter", "register_buffer")
        )

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if name == "uncertainty":  # which the property has not found; nn.Module would say so in other words
            raise NotAttachedError(
                f"{type(self).__name__} has no weights yet: they are attached when a Trainer starts (fit, validate, "
                "test, predict), by UncertaintyCallback or, without one, by `configure_callbacks` of the mixin. If you "
                "override `configure_callbacks`, add `super().configure_callbacks()` to what it returns. "
                'A module inside another gets them from a callback of its own, `UncertaintyCallback(module="path")`. '
                "Without a Trainer, write `model.uncertainty = UncertaintyWeighting(model.tasks)`."
            )
        return super().__getattr__(name)

    def weigh(
        self,
        losses: Losses,
        *,
        mask: Masks | None = None,
        samples: TaskNumbers | None = None,
        importance: TaskNumbers | None = None,
    ) -> Tensor:
        """Return the weighted total of ``losses``, to be returned from ``training_step``.

        In validation and test steps it gives the total with the weights as they are, and changes nothing.

        Args:
            losses: Scalar loss by task name; a task without labels in this batch is left out, or NaN. Or one tensor of
                all tasks in their order, of shape (K,), or elementwise of shape (..., K).
            mask: True where an elementwise loss has a label.
            samples: Number of samples that the losses are means of, if s and the logged losses are to be means over
                samples and not over batches.
            importance: Factor of the whole term of a task, which ``s`` cannot absorb.

        All are described at :meth:`UncertaintyWeighting.__call__`.

        Raises:
            NotAttachedError: If nothing attached the weights yet.
            TypeError, ValueError, FloatingPointError: See :meth:`UncertaintyWeighting.__call__`.
        """
        if not self.uncertainty.training:
            from lightning_uncertainty.trainer.search import join_search

            join_search(self, self.uncertainty)
        return self.uncertainty(losses, mask=mask, samples=samples, importance=importance)

    @property
    def uncertainty(self) -> UncertaintyWeighting:
        """The engine. The Trainer attaches it; without one, assign it. Reading it before is a NotAttachedError."""
        weighting = attached_weighting(self)
        if weighting is None:
            raise AttributeError  # on which Python calls __getattr__
        return weighting

    @uncertainty.setter
    def uncertainty(self, weighting: UncertaintyWeighting) -> None:
        attach_weighting(self, weighting, given=True)

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Add a default :class:`~lightning_uncertainty.UncertaintyCallback` to a Trainer that has none."""
        # Here, not above: the mixin stays free of Lightning until a Trainer asks.
        from lightning_uncertainty.trainer.callback import UncertaintyCallback
        from lightning_uncertainty.trainer.packages import callbacks_of

        inherited = super().configure_callbacks()
        callbacks = list(inherited) if isinstance(inherited, Sequence) else [inherited]
        if any(isinstance(callback, UncertaintyCallback) for callback in [*callbacks_of(self.trainer), *callbacks]):
            return callbacks
        return [*callbacks, UncertaintyCallback()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the weights, also those of inner modules, for ``save_weights_only`` and ``load_from_checkpoint``."""
        super().on_save_checkpoint(checkpoint)
        _save_weightings(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the weights if the checkpoint has any; without a Trainer, attach an engine that holds them."""
        super().on_load_checkpoint(checkpoint)
        _load_weightings(self, checkpoint)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load the network's weights, and those of the losses if a spawned process sent them home with it."""
        if sent := _load_weightings(self, state_dict):
            state_dict = {key: value for key, value in state_dict.items() if key not in sent}
        return super().load_state_dict(state_dict, *args, **kwargs)


def _completed(hook: Callable[..., None], ours: Callable[..., Any]) -> Callable[..., None]:
    """Return a hook of the user's that is followed by ``ours``, unless it has called that by ``super()``."""

    @functools.wraps(hook)
    def completed(module: Any, checkpoint: dict[str, Any]) -> None:
        module._did_ours = False
        hook(module, checkpoint)
        if not module._did_ours:
            ours(module, checkpoint)

    return completed


def _save_weightings(module: Any, checkpoint: dict[str, Any]) -> None:
    """Save the engines of a module and of those inside it."""
    from lightning_uncertainty.trainer.callback import UncertaintyCallback
    from lightning_uncertainty.trainer.packages import callbacks_around

    for callback in callbacks_around(module):  # whose states are not asked for if only weights are saved
        if isinstance(callback, UncertaintyCallback):
            callback.catch_up()
    for key, inner in by_checkpoint_key(module).items():
        if (weighting := attached_weighting(inner)) is not None:
            checkpoint[key] = weighting.state_dict()
    module._did_ours = True


def _load_weightings(module: Any, states: Mapping[str, Any]) -> set[str]:
    """Load the engines of a module and of those inside it as far as ``states`` has any, and return their keys."""
    found = {key: inner for key, inner in by_checkpoint_key(module).items() if states.get(key) is not None}
    for key, inner in found.items():
        if (weighting := attached_weighting(inner)) is not None:
            weighting.load_state_dict(states[key])
        else:  # the tasks of the class may have changed since
            attach_weighting(inner, UncertaintyWeighting.from_state_dict(states[key], getattr(inner, "tasks", None)))
    module._did_ours = True
    return set(found)
