"""What only a GPU can prove: `python benchmarks/gpu_checks.py`, a table of checks with machine and versions.

Without a GPU the rows that need one say so, and the others run on the CPU. Ends with status 1 if a check fails.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader, TensorDataset

from lightning_uncertainty import UncertaintyCallback, UncertaintyMixin, UncertaintyWeighting, __version__

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
TASKS = {"a": "gaussian", "b": "laplace"}
STEPS = 40


class NeedsGpuError(Exception):
    """This check means nothing on a CPU."""


class Net(UncertaintyMixin, L.LightningModule):
    """Two linear regressions."""

    tasks = TASKS

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Linear(4, 2)

    def losses(self, batch: Any) -> dict[str, torch.Tensor]:
        x, y = batch
        error = self.net(x) - y
        return {"a": error[:, 0].square().mean(), "b": error[:, 1].abs().mean()}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weigh(self.losses(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02)


def data() -> DataLoader[Any]:
    """Targets that are linear in the inputs, with noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8 * STEPS, 4, generator=generator)
    y = x @ torch.randn(4, 2, generator=generator) + 0.5 * torch.randn(8 * STEPS, 2, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=8)


def train(module: Any = None, *callbacks: Callback, **options: Any) -> Net:
    """One epoch on the device."""
    module = Net() if module is None else module
    with tempfile.TemporaryDirectory() as folder:
        defaults: dict[str, Any] = {
            "max_epochs": 1,
            "accelerator": "gpu" if CUDA else "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
        }
        L.Trainer(callbacks=[UncertaintyCallback(), *callbacks], **{**defaults, **options}).fit(module, data())
    return getattr(module, "_orig_mod", module)


def distance(one: UncertaintyWeighting, other: UncertaintyWeighting) -> float:
    """The largest difference of two log-variances."""
    return max(abs(s - other.log_vars[name]) for name, s in one.log_vars.items())


def check(condition: bool, what: str) -> str:
    """The result of a check, or an ``AssertionError`` that says it."""
    if not condition:
        raise AssertionError(what)
    return what


def precision(name: str, tolerance: float) -> str:
    """``s`` is fp32 and close to that of a run in single precision."""
    if name == "16-mixed" and not CUDA:
        raise NeedsGpuError
    weighting = train(precision=name).uncertainty
    difference = distance(weighting, train().uncertainty)
    ok = weighting.log_var.dtype == torch.float32 and weighting.steps > 0 and difference < tolerance
    return check(ok, f"{weighting.steps} steps, |ds| = {difference:.1e}")


def grad_scaler() -> str:
    """A plain loop with autocast and a GradScaler that first has to find its scale."""
    if not CUDA:
        raise NeedsGpuError
    model, weighting = Net().to(DEVICE), UncertaintyWeighting(TASKS).to(DEVICE)
    optimizer = model.configure_optimizers()
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**20)
    for batch in data():
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            total = weighting(model.losses([tensor.to(DEVICE) for tensor in batch]))
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        weighting.step()
    difference = distance(weighting, train().uncertainty)
    return check(difference < 0.05, f"scale {scaler.get_scale():.0f}, |ds| = {difference:.1e}")


class NoSync(Callback):
    """Any synchronisation in a step that does not log is an error: forward, backward, and the hooks of ours.

    To be listed after UncertaintyCallback, whose ``on_train_batch_end`` then still stands under the guard.
    """

    def __init__(self, every: int) -> None:
        self.every, self.guarded = every, 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if 2 <= batch_idx < STEPS - 1 and (batch_idx + 1) % self.every:
            torch.cuda.set_sync_debug_mode("error")
            self.guarded += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("default")


def no_synchronisation_in_the_trainer() -> str:
    """``torch.cuda.set_sync_debug_mode("error")`` in a real Trainer."""
    if not CUDA:
        raise NeedsGpuError
    guard = NoSync(every=10)
    try:
        train(None, guard, log_every_n_steps=10)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return check(guard.guarded > 20, f"{guard.guarded} of {STEPS} steps guarded")


def no_synchronisation_in_the_engine() -> str:
    """From the very first call, which finds no ``s``."""
    if not CUDA:
        raise NeedsGpuError
    model, weighting = Net().to(DEVICE), UncertaintyWeighting(TASKS).to(DEVICE)
    batches = [[tensor.to(DEVICE) for tensor in batch] for batch in data()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            weighting(model.losses(batch)).backward()
            weighting.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return check(weighting.steps == STEPS, f"{STEPS} calls and steps")


def inductor() -> str:
    """The whole module compiled: one graph, the result of eager code."""
    counter = CompileCounterWithBackend("inductor")
    compiled = train(torch.compile(Net(), backend=counter, fullgraph=True)).uncertainty
    difference = distance(compiled, train().uncertainty)
    ok = counter.frame_count == 1 and difference < 1e-4
    return check(ok, f"{counter.frame_count} graph, |ds| = {difference:.1e}")


def cost() -> str:
    """Microseconds of a call and a step, beside the plain sum."""
    model, weighting = Net().to(DEVICE), UncertaintyWeighting(TASKS).to(DEVICE)
    batch = [tensor.to(DEVICE) for tensor in next(iter(data()))]

    def once(total: Callable[[dict[str, torch.Tensor]], torch.Tensor], step: Callable[[], None]) -> float:
        for repeat in range(220):
            if repeat == 20:
                synchronize()
                start = time.perf_counter()
            total(model.losses(batch)).backward()
            step()
        synchronize()
        return (time.perf_counter() - start) / 200 * 1e6

    plain = once(lambda losses: losses["a"] + losses["b"], lambda: None)
    ours = once(weighting, weighting.step)
    return f"plain {plain:.0f} us, weighed {ours:.0f} us"


def synchronize() -> None:
    """Wait for the device."""
    if CUDA:
        torch.cuda.synchronize()


CHECKS: dict[str, Callable[[], str]] = {
    "Trainer, 32-true": lambda: precision("32-true", 1e-5),
    "Trainer, 16-mixed (autocast, GradScaler)": lambda: precision("16-mixed", 0.05),
    "Trainer, bf16-mixed": lambda: precision("bf16-mixed", 0.05),
    "Trainer, bf16-true": lambda: precision("bf16-true", 0.2),
    "plain loop, autocast and GradScaler": grad_scaler,
    "no synchronisation, Trainer": no_synchronisation_in_the_trainer,
    "no synchronisation, engine": no_synchronisation_in_the_engine,
    "torch.compile, inductor": inductor,
    "time of a step": cost,
}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of Lightning and torch about this machine."""
    import logging

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> int:
    """Run all checks and print the table."""
    device = torch.cuda.get_device_name() if CUDA else f"CPU ({platform.processor() or platform.machine()}), no GPU"
    print(f"machine: {device}")
    print(
        f"versions: lightning_uncertainty {__version__}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"lightning {L.__version__}, Python {platform.python_version()}\n"
    )
    failed = 0
    for name, run in CHECKS.items():
        with quiet():
            try:
                result, remark = "ok", run()
            except NeedsGpuError:
                result, remark = "not run", "needs a GPU"
            except Exception as error:  # one failed check should not hide the next
                result, remark, failed = "FAILED", f"{type(error).__name__}: {error}".splitlines()[0], failed + 1
        print(f"{name:<42} {result:<8} {remark}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
