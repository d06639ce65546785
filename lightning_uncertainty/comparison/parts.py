"""The parts of one run, its seeds, and the source that makes them in Python."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

from lightning_uncertainty._arguments import lookup
from lightning_uncertainty.comparison.arms import ComparisonError
from lightning_uncertainty.comparison.fingerprint import code_of, describe, describe_data, digest, digest_weights
from lightning_uncertainty.trainer.callback import UncertaintyCallback
from lightning_uncertainty.trainer.packages import CallbackBase

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = [
    "Evaluation",
    "Parts",
    "PythonSource",
    "Source",
    "Start",
    "lightning_of",
    "random_state_kept",
    "seed_everything",
]

Evaluation = Literal["validate", "test"]
_LOADERS = {"validate": "val", "test": "test"}
_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
_BATCHES = 3  # of each run whose fingerprints are taken


@dataclass
class Parts:
    """A fresh module, a Trainer and the data.

    Attributes:
        module: The module that is trained.
        trainer: The Trainer that trains it.
        data: A LightningDataModule, loaders by name, or None if the module has its own.
    """

    module: LightningModule
    trainer: Trainer
    data: Any

    def fit(self) -> None:
        """Train.

        Raises:
            KeyboardInterrupt: if the user interrupts, in the Lightnings that do not end the process then.
        """
        if isinstance(self.data, Mapping):
            self.trainer.fit(self.module, self.data["train"], self.data.get("val"))
        else:
            self.trainer.fit(self.module, datamodule=self.data)
        if self.trainer.interrupted:
            raise KeyboardInterrupt

    def evaluate(self, how: Evaluation, *, best: bool = False) -> dict[str, float]:
        """Return all scalar metrics of ``trainer.validate`` or ``trainer.test``."""
        # Their signatures agree but for the type checker.
        evaluate: Any = self.trainer.validate if how == "validate" else self.trainer.test
        which = {"ckpt_path": "best"} if best else {}
        if isinstance(self.data, Mapping):
            evaluate(self.module, self.data[_LOADERS[how]], verbose=False, **which)
        else:
            evaluate(self.module, datamodule=self.data, verbose=False, **which)
        return {name: float(value) for name, value in self.trainer.callback_metrics.items() if value.numel() == 1}

    def check_data(self, how: Evaluation) -> None:
        """Raise ``ComparisonError`` unless there is something to train and to evaluate on."""
        for name in ("train", _LOADERS[how]):
            self._check_loader(name)

    def _check_loader(self, name: str) -> None:
        if isinstance(self.data, Mapping):
            found = self.data.get(name) is not None
        else:
            hook = f"{name}_dataloader"
            holders = [self.module] if self.data is None else [self.module, self.data]
            found = any(not _is_lightnings(getattr(type(holder), hook, None)) for holder in holders)
        if not found:
            raise ComparisonError(
                f"There is no data for {name!r}: neither {type(self.module).__name__} nor the data has a "
                f"`{name}_dataloader`. Give a LightningDataModule that has one, or loaders by name: "
                '{"train": ..., "val": ..., "test": ...}.'
            )


class Source(Protocol):
    """A source makes the parts of each run."""

    def build(self, seed: int, folder: Path, *, rehearsal: bool) -> Parts:
        """Make fresh parts, that log to ``folder``; for a rehearsal, of one batch and without logs."""

    def module(self, seed: int) -> LightningModule:
        """Make a fresh module alone."""

    def settings(self, *, learned: bool) -> Any:
        """Return all settings but those of the module, as plain data.

        Args:
            learned: True if the callbacks that learn weights count.
        """


class PythonSource:
    """A source that holds the arguments of :func:`~lightning_uncertainty.compare`."""

    def __init__(
        self,
        make_module: Callable[[], LightningModule],
        data: Any,
        trainer: Mapping[str, Any] | Callable[[Path], Mapping[str, Any]],
    ) -> None:
        if not callable(make_module) or _is_module(make_module):
            raise TypeError(
                f"Expected a class or function that makes a new module for each run; got {_of_type(make_module)}. "
                "Write `compare(lambda: Net(width=64), ...)`."
            )
        if not (callable(trainer) or isinstance(trainer, Mapping)):
            raise TypeError(
                f"Expected the Trainer's options, for example trainer={{'max_epochs': 10}}; got {_of_type(trainer)}."
            )
        self.make_module, self.data, self.trainer = make_module, data, trainer
        self._made: LightningModule | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": None}  # a module may not be possible to send to a worker, and need not be

    def build(self, seed: int, folder: Path, *, rehearsal: bool) -> Parts:
        module = self.module(seed)
        lightning = lightning_of(type(module))
        options = {
            "logger": False if rehearsal else lightning.loggers.CSVLogger(folder, name="", version="logs"),
            "default_root_dir": folder,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **self._options(folder),
        }
        if not any(isinstance(callback, lightning.callbacks.Checkpoint) for callback in options["callbacks"]):
            options.setdefault("enable_checkpointing", False)
        if rehearsal:
            options.update(fast_dev_run=1)
        return Parts(module, lightning.Trainer(**options), self._make_data())

    def module(self, seed: int) -> LightningModule:
        module = self.make_module()
        if not _is_module(module):
            raise TypeError(f"Expected the function to make a LightningModule; it made {_of_type(module)}.")
        if module is self._made:
            raise ComparisonError("The function gave the same module twice. It has to make a new one in each call.")
        self._made = module
        return module

    def settings(self, *, learned: bool) -> Any:
        options = self._options(Path("run"))  # any: where a run logs does not define it
        if not learned:
            options["callbacks"] = [c for c in options["callbacks"] if not isinstance(c, UncertaintyCallback)]
        options = {name: option for name, option in options.items() if name not in ("logger", "default_root_dir")}
        made_by = code_of(self.make_module) if inspect.isroutine(self.make_module) else {}
        return {"trainer": describe(options), "data": describe_data(self.data), "made by": made_by}

    def _options(self, folder: Path) -> dict[str, Any]:
        """Copy the user's options: callbacks have a state, which no two runs should share."""
        options = dict(self.trainer(folder)) if callable(self.trainer) else copy.deepcopy(dict(self.trainer))
        callbacks = options.get("callbacks") or []
        return {**options, "callbacks": list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]}

    def _make_data(self) -> Any:
        data = self.data() if callable(self.data) else self.data
        if isinstance(data, Mapping):
            for name in data:
                lookup("kind of data", name, dict.fromkeys(("train", "val", "test")))
        elif data is not None and not any(kind.__name__ == "LightningDataModule" for kind in type(data).__mro__):
            raise TypeError(
                'Expected a LightningDataModule, loaders by name ({"train": ..., "val": ..., "test": ...}), or a '
                f"function that makes one of them; got {_of_type(data)}."
            )
        return data


def lightning_of(module_class: type) -> Any:
    """Return the package the class was made with, ``lightning.pytorch`` or ``pytorch_lightning``."""
    names = [base.__module__.split(".")[0] for base in module_class.__mro__ if base.__name__ == "LightningModule"]
    return import_module("pytorch_lightning" if "pytorch_lightning" in names else "lightning.pytorch")


def _is_module(value: Any) -> bool:
    return any(base.__name__ == "LightningModule" for base in type(value).__mro__)


def _is_lightnings(hook: Any) -> bool:
    """Return True if a hook is missing, or only the placeholder in Lightning's base class."""
    return hook is None or hook.__module__.split(".")[0] in ("lightning", "pytorch_lightning")


def _of_type(value: Any) -> str:
    return f"an object of type {type(value).__name__}"


class Start(CallbackBase):
    """A callback that takes the fingerprints of the initial weights and of the first batches.

    They prove that the arms of one seed differ in nothing but their weights.

    Attributes:
        seen: Fingerprints by the names of what they were taken of.
    """

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen["initial weights"] = digest_weights(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 0 and batch_idx < _BATCHES:
            self.seen[f"batch {batch_idx}"] = digest([digest(tensor) for tensor in _tensors(batch)])


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from _tensors(value)


def _lightning() -> Any:
    return import_module("lightning.pytorch" if find_spec("lightning") else "pytorch_lightning")


def seed_everything(seed: int) -> None:
    """Seed Python, numpy, torch and the workers of loaders."""
    _lightning().seed_everything(seed, workers=True, verbose=False)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give the caller's random state back afterwards, so that everything random goes on as if nothing had been."""
    before = {name: os.environ.get(name) for name in _SEED_VARIABLES}
    try:
        with import_module(f"{_lightning().__name__}.utilities.seed").isolate_rng():
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
