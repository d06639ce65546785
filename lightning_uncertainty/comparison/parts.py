"""The parts of one run, its seeds, and the source that makes them in Python."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lightning_uncertainty._arguments import lookup
from lightning_uncertainty.comparison.arms import ComparisonError
from lightning_uncertainty.comparison.fingerprint import code_of, describe, digest, digest_weights, is_a
from lightning_uncertainty.trainer.callback import UncertaintyCallback
from lightning_uncertainty.trainer.packages import CallbackBase, lightning

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from lightning_uncertainty.comparison.config_source import ConfigSource

Source: TypeAlias = "PythonSource | ConfigSource"
"""A source of the parts of each run: Python code, or a configuration."""
Evaluation = Literal["validate", "test"]
Options = Mapping[str, Any] | Callable[[Path], Mapping[str, Any]]
"""Options of a Trainer, or a function that makes them from the folder of a run."""
_LOADERS = {"validate": "val", "test": "test"}
_PACKAGES = ("lightning", "pytorch_lightning")
_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
_BATCHES = 3  # of each run whose fingerprints are taken


@dataclass
class Parts:
    """A fresh module, its Trainer, and the data: a LightningDataModule, loaders by name, or None for its own."""

    module: LightningModule
    trainer: Trainer
    data: Any

    def fit(self) -> None:
        """Train; raise ``KeyboardInterrupt`` if the user interrupts, also in Lightnings that go on then."""
        if isinstance(self.data, Mapping):
            self.trainer.fit(self.module, self.data["train"], self.data.get("val"))
        else:
            self.trainer.fit(self.module, datamodule=self.data)
        if self.trainer.interrupted:
            raise KeyboardInterrupt

    def evaluate(self, how: Evaluation, *, best: bool = False) -> dict[str, float]:
        """Return all scalar metrics of ``trainer.validate`` or ``trainer.test``."""
        evaluate = getattr(self.trainer, how)
        loaders = isinstance(self.data, Mapping)
        data = {"dataloaders": self.data[_LOADERS[how]]} if loaders else {"datamodule": self.data}
        evaluate(self.module, **data, verbose=False, ckpt_path="best" if best else None)
        return {name: float(value) for name, value in self.trainer.callback_metrics.items() if value.numel() == 1}

    def check_data(self, how: Evaluation) -> None:
        """Raise ``ComparisonError`` unless there is something to train and to evaluate on."""
        for name in ("train", _LOADERS[how]):
            # Those of Lightning's base classes are placeholders.
            hooks = [getattr(type(part), f"{name}_dataloader", None) for part in (self.module, self.data)]
            own = [hook for hook in hooks if hook and hook.__module__.split(".")[0] not in _PACKAGES]
            if (self.data.get(name) if isinstance(self.data, Mapping) else own or None) is None:
                raise ComparisonError(
                    f"There is no data for {name!r}: neither {type(self.module).__name__} nor the data has a "
                    f"`{name}_dataloader`. Give a LightningDataModule that has one, or loaders by name: "
                    '{"train": ..., "val": ..., "test": ...}.'
                )


class PythonSource:
    """A source that holds the arguments of :func:`~lightning_uncertainty.compare`."""

    def __init__(self, make_module: Callable[[], LightningModule], data: Any, trainer: Options) -> None:
        if not callable(make_module) or is_a("LightningModule", make_module):
            advice = "Write `compare(lambda: Net(width=64), ...)`."
            raise _unexpected(make_module, "a class or function that makes a new module for each run", advice)
        if not (callable(trainer) or isinstance(trainer, Mapping)):
            raise _unexpected(trainer, "the Trainer's options", "Write `trainer={'max_epochs': 10}`.")
        self.make_module, self.data, self.trainer = make_module, data, trainer

    def build(self, seed: int, folder: Path, *, rehearsal: bool) -> Parts:
        """Make fresh parts, that log to ``folder``; for a rehearsal, of one batch and without logs."""
        module = self.module(seed)
        lightning = lightning_of(type(module))
        logger = False if rehearsal else lightning.loggers.CSVLogger(folder, name="", version="logs")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        options = {"logger": logger, "default_root_dir": folder, **quiet, **self._options(folder)}
        if not any(isinstance(callback, lightning.callbacks.Checkpoint) for callback in options["callbacks"]):
            options.setdefault("enable_checkpointing", False)
        if rehearsal:
            options.update(fast_dev_run=1)
        return Parts(module, lightning.Trainer(**options), self._make_data())

    def module(self, seed: int) -> LightningModule:
        """Make a fresh module alone."""
        module = self.make_module()
        if not is_a("LightningModule", module):
            raise _unexpected(module, "a function that makes a LightningModule", "Return the module from it.")
        return module

    def settings(self, *, learned: bool) -> Any:
        """Return all settings but those of the module, as plain data; of callbacks that learn only if ``learned``."""
        options = self._options(Path("run"))  # any: where a run logs does not define it
        if not learned:
            options["callbacks"] = [c for c in options["callbacks"] if not isinstance(c, UncertaintyCallback)]
        options = {name: option for name, option in options.items() if name not in ("logger", "default_root_dir")}
        made_by = code_of(self.make_module) if inspect.isroutine(self.make_module) else {}
        return {"trainer": describe(options), "data": describe(self.data), "made by": made_by}

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
        elif data is not None and not is_a("LightningDataModule", data):
            advice = 'Write `{"train": ..., "val": ..., "test": ...}`, or a function that makes it.'
            raise _unexpected(data, "a LightningDataModule or loaders by name", advice)
        return data


def lightning_of(module_class: type) -> Any:
    """Return the package the class was made with, ``lightning.pytorch`` or ``pytorch_lightning``."""
    names = [base.__module__.split(".")[0] for base in module_class.__mro__ if base.__name__ == "LightningModule"]
    return import_module("pytorch_lightning" if "pytorch_lightning" in names else "lightning.pytorch")


def _unexpected(value: Any, expected: str, advice: str) -> TypeError:
    return TypeError(f"Expected {expected}; got an object of type {type(value).__name__}. {advice}")


class Start(CallbackBase):
    """A callback that takes the fingerprints of the initial weights and of the first batches, by name, in ``seen``."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen["initial weights"] = digest_weights(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 0 and batch_idx < _BATCHES:
            self.seen[f"batch {batch_idx}"] = digest(describe(batch))


def seed_everything(seed: int) -> None:
    """Seed Python, numpy, torch and the workers of loaders."""
    lightning().seed_everything(seed, workers=True, verbose=False)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give the caller's random state back afterwards, so that everything random goes on as if nothing had been."""
    before = {name: os.environ[name] for name in _SEED_VARIABLES if name in os.environ}
    try:
        with import_module(f"{lightning().__name__}.utilities.seed").isolate_rng():
            yield
    finally:
        for name in _SEED_VARIABLES:
            os.environ.pop(name, None)
        os.environ.update(before)
