"""What only a GPU can prove: `python benchmarks/gpu_checks.py`, a table of checks with machine and versions.

Without a GPU the rows that need one say so, and the others run on the CPU. Ends with status 1 if a check fails.
Times are measured, not judged.
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
from lightning.pytorch.plugins import MixedPrecision
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.counting import kernels
from lightning_uncertainty import UncertaintyCallback, UncertaintyMixin, UncertaintyWeighting, __version__

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
TASKS = {"a": "gaussian", "b": "laplace"}
STEPS = 40
ARTICLE: Any = {"scale": None, "lr": 0.01}  # what does not depend on how long a run is known to be


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
        ours = UncertaintyCallback(summary=False, report=False, **ARTICLE)
        L.Trainer(callbacks=[ours, *callbacks], **{**defaults, **options}).fit(module, data())
    return getattr(module, "_orig_mod", module)


def distance(one: UncertaintyWeighting, other: UncertaintyWeighting) -> float:
    """The largest difference of two log-variances."""
    return max(abs(s - other.log_vars[name]) for name, s in one.log_vars.items())


def check(condition: bool, what: str) -> str:
    """The result of a check, or an ``AssertionError`` that says it."""
    if not condition:
        raise AssertionError(what)
    return what


# Of the numbers that a precision computes the losses in; s is their logarithm, or twice that for Laplace.
EPS = {
    "32-true": torch.finfo(torch.float32).eps,
    "64-true": torch.finfo(torch.float32).eps,
    "16-mixed": torch.finfo(torch.float16).eps,
    "16-true": torch.finfo(torch.float16).eps,
    "bf16-mixed": torch.finfo(torch.bfloat16).eps,
    "bf16-true": torch.finfo(torch.bfloat16).eps,
}


def scaled(init_scale: float) -> MixedPrecision:
    """fp16 with a scaler of this device; Lightning makes one by itself only on a GPU."""
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=init_scale)
    return MixedPrecision("16-mixed", device=DEVICE.type, scaler=scaler)


def precision(name: str) -> str:
    """``s`` is fp32 and as close to that of a run in single precision as the rounding of losses and layers allows."""
    options = {"plugins": scaled(2.0**10)} if name == "16-mixed" else {"precision": name}
    weighting = train(**options).uncertainty
    difference, bound = distance(weighting, train().uncertainty), 16.0 * EPS[name]
    ok = weighting.log_var.dtype == torch.float32 and weighting.steps == STEPS and difference < bound
    return check(ok, f"{weighting.steps} steps, |ds| = {difference:.1e} < {bound:.1e}")


def own_scaler() -> str:
    """With the scaler that Lightning makes, whose first scale skips steps of the network and none of ``s``."""
    if not CUDA:
        raise NeedsGpuError
    weighting = train(precision="16-mixed").uncertainty
    finite = bool(torch.isfinite(weighting.log_var).all())
    ok = finite and weighting.log_var.dtype == torch.float32 and weighting.steps == STEPS
    return check(ok, f"{weighting.steps} steps, s = {[round(s, 3) for s in weighting.log_vars.values()]}")


OVERFLOWS = (4, 7)


class Overflowing(Net):
    """The squared error of ``a`` is taken in fp16 and overflows in some batches."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        losses = self.losses(batch)
        error = (self.net(batch[0])[:, 0] - batch[1][:, 0]).half() * (1e3 if batch_idx in OVERFLOWS else 1.0)
        return self.weigh({**losses, "a": (error * error).mean()})


class Moved(Callback):
    """The batches that moved each ``s`` and the network. To be listed after UncertaintyCallback."""

    def __init__(self) -> None:
        self.batches: dict[str, list[int]] = {"a": [], "b": [], "net": []}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before = self.look(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for name, value in self.look(pl_module).items():
            if value != self.before[name]:
                self.batches[name].append(batch_idx)

    @staticmethod
    def look(pl_module: Any) -> dict[str, Any]:
        return {**pl_module.uncertainty.log_vars, "net": pl_module.net.weight.tolist()}


def overflow(name: str) -> str:
    """An fp16 loss that is infinite leaves its ``s``; the other task and the network go on."""
    options = {"plugins": scaled(2.0**4)} if name == "16-mixed" else {"precision": name}
    moved = Moved()
    module = train(Overflowing(), moved, **options)
    every = list(range(STEPS))
    expected = {"a": [batch for batch in every if batch not in OVERFLOWS], "b": every, "net": every}
    ok = moved.batches == expected and module.uncertainty.steps == STEPS
    still = {key: sorted(set(every) - set(batches)) for key, batches in moved.batches.items()}
    return check(ok, f"batches that moved nothing: {still}")


def grad_scaler() -> str:
    """A plain loop with autocast and a GradScaler."""
    model, weighting = Net().to(DEVICE), UncertaintyWeighting(TASKS, **ARTICLE).to(DEVICE)
    optimizer = model.configure_optimizers()
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=2.0**10)
    for batch in data():
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.float16):
            total = weighting(model.losses([tensor.to(DEVICE) for tensor in batch]))
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        weighting.step()
    difference, bound = distance(weighting, train().uncertainty), 16.0 * EPS["16-mixed"]
    ok = difference < bound and weighting.steps == STEPS
    return check(ok, f"scale {scaler.get_scale():.0f}, |ds| = {difference:.1e} < {bound:.1e}")


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
    model, weighting = Net().to(DEVICE), UncertaintyWeighting(TASKS, **ARTICLE).to(DEVICE)
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


def compiled_step() -> str:
    """``compile_step``: the steps of plain ones, with fewer launches."""
    if not CUDA:
        raise NeedsGpuError
    engines = [UncertaintyWeighting(TASKS, compile_step=yes, **ARTICLE).to(DEVICE) for yes in (False, True)]
    launches = [0, 0]
    for step in range(STEPS):
        for index, weighting in enumerate(engines):
            weighting(
                torch.rand(2, generator=torch.Generator().manual_seed(step)).to(DEVICE).requires_grad_()
            ).backward()
            launches[index] = kernels(weighting.step)
    difference = (engines[0].log_var - engines[1].log_var).abs().max().item()
    ok = difference < 1e-5 and launches[1] < launches[0]
    return check(ok, f"{launches[0]} launches plain, {launches[1]} compiled, |ds| = {difference:.1e}")


def cost() -> str:
    """Microseconds of a call and a step, beside the plain sum."""
    model, weighting = Net().to(DEVICE), UncertaintyWeighting(TASKS, **ARTICLE).to(DEVICE)
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
    "Trainer, 32-true": lambda: precision("32-true"),
    "Trainer, 64-true": lambda: precision("64-true"),
    "Trainer, 16-mixed (autocast, GradScaler)": lambda: precision("16-mixed"),
    "Trainer, 16-mixed, Lightning's scaler": own_scaler,
    "Trainer, 16-true": lambda: precision("16-true"),
    "Trainer, bf16-mixed": lambda: precision("bf16-mixed"),
    "Trainer, bf16-true": lambda: precision("bf16-true"),
    "fp16 overflow of one task, 16-mixed": lambda: overflow("16-mixed"),
    "fp16 overflow of one task, 16-true": lambda: overflow("16-true"),
    "plain loop, autocast and GradScaler": grad_scaler,
    "no synchronisation, Trainer": no_synchronisation_in_the_trainer,
    "no synchronisation, engine": no_synchronisation_in_the_engine,
    "torch.compile, inductor": inductor,
    "compile_step": compiled_step,
}

MEASUREMENTS: dict[str, Callable[[], str]] = {"time of a step": cost}


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
    for name, run in {**CHECKS, **MEASUREMENTS}.items():
        with quiet():
            try:
                result, remark = "ok" if name in CHECKS else "measured", run()
            except NeedsGpuError:
                result, remark = "not run", "needs a GPU"
            except Exception as error:  # one failed check should not hide the next
                result, remark, failed = "FAILED", f"{type(error).__name__}: {error}".splitlines()[0], failed + 1
        print(f"{name:<42} {result:<8} {remark}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
