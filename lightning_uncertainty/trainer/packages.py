"""The place for both Lightning packages, and for every access to Lightning or torch that is not public.

``lightning.pytorch.Callback`` and ``pytorch_lightning.Callback`` are different classes with the same content. Trainers
take either, but each package's LightningCLI accepts only its own: a callback that is both works everywhere. The import
of a package redirects the log of the other, so only what the user has imported is imported here.

What is not public may change in any release. So each such access stands here (or, if it attaches something to a module,
in ``attachment.py``) with its reason, and ``tests/trainer/test_packages.py`` has a test of it.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.engine.recorder import HIDDEN
from lightning_uncertainty.engine.window import world_size

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = [
    "CallbackBase",
    "brings_state_home",
    "callbacks_around",
    "callbacks_being_checked",
    "callbacks_of",
    "check_processes",
    "is_compiled",
    "is_silent",
    "lightning",
    "log_row",
    "logged_step",
    "logs_now",
    "optimizers_of",
    "publish",
    "quiet_lightning",
    "trainer_around",
]


_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def lightning() -> Any:
    """Return the Lightning package that is imported, else the one that is installed; the first of two."""
    installed = (package for package in _PACKAGES if find_spec(package.partition(".")[0]))
    package = next((package for package in _PACKAGES if package in sys.modules), None) or next(installed, None)
    if package is None:
        raise ModuleNotFoundError("UncertaintyCallback needs Lightning: `pip install lightning`.")
    return import_module(package)


def _callback_classes() -> tuple[type, ...]:
    """Return the class Callback of each package that is imported so far."""
    modules = (sys.modules.get(f"{package}.callbacks.callback") for package in _PACKAGES)
    return tuple(vars(module)["Callback"] for module in modules if hasattr(module, "Callback"))


if TYPE_CHECKING:
    from lightning.pytorch import Callback as CallbackBase
else:
    import_module(f"{lightning().__name__}.callbacks.callback")
    CallbackBase = type("CallbackBase", _callback_classes(), {"__doc__": "A callback for all imported Lightnings."})


class _Newcomer:
    """A finder that finds nothing: it sees when a package is imported after ours, and makes our callbacks its own.

    The command line of that package may ask for their class next, and nothing of ours is called before it does.
    """

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        """Look for a new class Callback when something else of its package is imported."""
        if name.startswith(_PACKAGES):
            new = [base for base in _callback_classes() if not issubclass(CallbackBase, base)]
            CallbackBase.__bases__ += tuple(new)


sys.meta_path.insert(0, _Newcomer())


# ------------------------------------------------------------------------------------------ what connectors set
# `callbacks`, `fast_dev_run`, `barebones` and `log_every_n_steps` are documented, but connectors set them and the class
# does not declare them, so that type checkers do not know them.


def callbacks_of(trainer: Trainer) -> list[Any]:
    """Return the Trainer's own list of callbacks, which may be changed."""
    return trainer.callbacks  # type: ignore[attr-defined, no-any-return]


def trainer_around(module: Any) -> Any:
    """Return the Trainer that a module is attached to, None without one."""
    try:
        return getattr(module, "trainer", None)
    except RuntimeError:  # there is no public way to ask first
        return None


def callbacks_being_checked() -> list[Any]:
    """Return the callbacks of the Trainer that is being made if it asks for a ``state_key`` just now, else none."""
    # It refuses two of one key there, before any hook, in words that do not say what to write instead.
    asking = sys._getframe(2)
    return asking.f_locals.get("callbacks", []) if asking.f_code.co_name == "_validate_callbacks_list" else []


def callbacks_around(module: Any) -> list[Any]:
    """Return the callbacks of the Trainer that a module is attached to, none without one."""
    # With Fabric, something without callbacks stands in for a Trainer.
    return getattr(trainer_around(module), "callbacks", [])


def is_silent(trainer: Trainer) -> bool:
    """Return True if Lightning itself writes and prints nothing: in a trial run, and in barebones mode."""
    return bool(trainer.fast_dev_run or trainer.barebones)  # type: ignore[attr-defined]


def logs_now(trainer: Trainer, stepped: bool) -> bool:
    """Return True if Lightning logs the batch that ends now, in which it has ``stepped`` or not."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if not every or not (stepped or not trainer.lightning_module.automatic_optimization):
        return False
    return (logged_step(trainer) + 1) % every == 0 or trainer.should_stop


def logged_step(trainer: Trainer) -> int:
    """Return the step under which Lightning logs: optimizer steps, or batches where the user steps by hand."""
    automatic = trainer.lightning_module.automatic_optimization
    return trainer.global_step - 1 if automatic else trainer.fit_loop.epoch_loop.total_batch_idx


def log_row(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Give numbers to every logger, with the epoch beside the step, as rows of Lightning have it."""
    row = {**metrics, "epoch": trainer.current_epoch}
    for logger in trainer.loggers:
        logger.log_metrics(metrics=row, step=max(logged_step(trainer), 0))


def optimizers_of(trainer: Trainer, module: Any, notices: Notices) -> list[Any]:
    """Return the optimizers that train parameters of ``module``; none, with a warning, if a strategy hides them."""
    inside = {id(parameter) for parameter in module.parameters()}
    found = []
    for optimizer in trainer.optimizers:
        if not isinstance(optimizer, Optimizer):  # DeepSpeed steps flat copies of the parameters
            notices.warn("hidden optimizer", f"{type(trainer.strategy).__name__} hides its optimizer, {HIDDEN}")
            return []
        if any(id(parameter) in inside for group in optimizer.param_groups for parameter in group["params"]):
            found.append(optimizer)
    return found


# ------------------------------------------------------------------------------------------ what is not public


def publish(trainer: Trainer, metrics: Mapping[str, float], progress: Mapping[str, float] | None = None) -> None:
    """Put ``metrics`` where ModelCheckpoint and EarlyStopping look, and ``progress`` into the progress bar."""
    # The properties are public; that what they return may be changed is not said. The public way, `self.log`, costs
    # 0.3 ms per key and step whether it logs or not, and copies each value to the device.
    tensors = {key: torch.tensor(value) for key, value in metrics.items()}
    trainer.callback_metrics.update(tensors)
    trainer.logged_metrics.update(tensors)
    if progress:  # reading that property computes what the user logs for the bar
        trainer.progress_bar_metrics.update(progress)


def brings_state_home(trainer: Trainer) -> bool:
    """Return True if the processes that train were spawned or forked and end with the fit."""
    # Of all that such a process holds, its launcher brings home only the module's state_dict and some metrics. That
    # launcher's class is private; the hook by which it collects the results is what tells it from others.
    return hasattr(trainer.strategy.launcher, "get_extra_results")


def is_compiled(module: Any, *, inside: bool = True) -> bool:
    """Return True if the module, or (``inside``) one inside it, went through ``torch.compile``."""
    # No public function tells. `_compiler_ctx` is Lightning's, of a module that was compiled as a whole;
    # `_compiled_call_impl` is that of `module.compile()`; `torch.compile(module)` returns an OptimizedModule, whose
    # class is in a private module.
    return any(
        getattr(each, "_compiler_ctx", None) is not None
        or each._compiled_call_impl is not None
        or type(each).__name__ == "OptimizedModule"
        for each in (module.modules() if inside else [module])
    )


# ------------------------------------------------------------------------------------------ processes and messages


def check_processes(trainer: Trainer, pl_module: LightningModule, group: dist.ProcessGroup | None) -> None:
    """Refuse a strategy in which the mean over all processes, or over ``group``, would be wrong, or there is none."""
    strategy = type(trainer.strategy).__name__
    if trainer.world_size > 1 and world_size() == 1:
        raise ValueError(
            f"{strategy} runs {trainer.world_size} processes without torch.distributed, so that sigma would differ "
            "from one to the other. Use a strategy that has it: DDP, FSDP, ModelParallel or DeepSpeed; or train with "
            "one process."
        )
    dimensions = getattr(pl_module.device_mesh, "mesh_dim_names", None) or ()
    stages = [name for name in dimensions if name.startswith(("pp", "pipe"))]
    if stages and group is None:
        raise ValueError(
            f"{strategy} has pipeline stages (mesh dimension {stages[0]!r}), and only the last one sees the losses. "
            "Give UncertaintyCallback the processes of that stage: process_group=..."
        )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning below warnings, and one deprecation inside torch; then restore its log levels."""
    # Where both packages are installed, the one that was imported last speaks for both.
    names = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
