"""What the processes run in the tests of faults: one rank fails, is killed, or has losses that are not finite."""

import os
import signal
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from tests.models import trainer
from tests.paper import UncertaintyCallback
from tests.workers.ranks import COUNT, Tasks, data, ddp, fit, rank


class Fault(Callback):
    """Something that happens to one rank in one step."""

    def __init__(self, kind, who, step):
        self.kind, self.who, self.step = kind, who, step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if rank() == self.who and trainer.global_step == self.step:
            if self.kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.kind == "infinite":
                batch[0][:] = torch.inf

    def on_after_backward(self, trainer, module):
        # Now the others are on their way into the all-reduce of the plugin.
        if self.kind == "raises" and rank() == self.who and trainer.global_step == self.step:
            raise OSError("the disk of this rank is full")


class Raising(Tasks):
    def __init__(self, who, step):
        super().__init__()
        self.who, self.step = who, step

    def training_step(self, batch, batch_idx):
        if rank() == self.who and self.trainer.global_step == self.step:
            raise OSError("the disk of this rank is full")
        return super().training_step(batch, batch_idx)


def with_fault(folder, kind, who, step):
    """One rank fails; the strategy gives the others a few seconds to notice."""
    module = Raising(who, step) if kind == "raises in training_step" else Tasks()
    callback = UncertaintyCallback(nonfinite="raise" if kind == "infinite" else "skip")
    fit(folder, module, callback, Fault(kind, who, step), strategy=ddp(timeout=5.0))


def newest_checkpoint(folder):
    """The last one that was written to its end."""
    for path in sorted(Path(folder).glob("step=*.ckpt"), key=step_of, reverse=True):
        try:
            torch.load(path, weights_only=True)
        except Exception:  # killed while writing
            continue
        return path
    return None


def step_of(path):
    return int(path.stem.split("=")[1])


def resumable(folder, epochs, kill_at=None, *, module=None, loader=None, every=5, strategy=None):
    """Train, or go on from the newest checkpoint, until the end or until rank 1 kills itself."""
    checkpoints = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    module = module or Tasks()
    callbacks = [UncertaintyCallback(), checkpoints]
    if kill_at is not None:
        callbacks.append(Fault("killed", 1, kill_at))
    runner = trainer(
        folder, *callbacks, strategy=strategy or ddp(), devices=int(os.environ["LOCAL_WORLD_SIZE"]), max_epochs=epochs,
        num_nodes=int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"]), enable_checkpointing=True,
    )  # fmt: skip
    start = newest_checkpoint(folder)
    runner.fit(module, loader or data(rank()), ckpt_path=start)
    return {
        "start": 0 if start is None else step_of(start),
        "step": runner.global_step,
        "engine": module.uncertainty.state_dict(),
        "network": [parameter.detach().clone() for parameter in module.parameters()],
    }


POISONS = ["infinite input", "NaN loss", "NaN gradient"]


class Unweighed(Tasks):
    """The same without the package."""

    configure_callbacks = L.LightningModule.configure_callbacks

    def total(self, losses):
        return sum(losses.values())


def poison(kind, losses, features):
    """Losses whose backward is not finite, or one that is NaN itself."""
    if kind == "NaN loss":
        return {**losses, "a": (-1.0 - losses["a"]).log()}  # its derivative is finite
    return {**losses, "a": losses["a"] + (0.0 * features).sum().sqrt()}  # its derivative is 0 * inf, its value is not


def poisoned(folder, step):
    """With every kind of poison on rank 1 alone, with the package and without: what is left of s and the network."""
    results = {}
    for kind in POISONS:
        for weighed in (True, False):
            module = (Tasks if weighed else Unweighed)("always")

            def losses(batch, here, kind=kind, honest=module.losses, module=module):
                result, features = honest(batch, here)
                if kind != "infinite input" and rank() == 1 and module.trainer.global_step == step:
                    result = poison(kind, result, features)
                return result, features

            module.losses = losses
            faults = [Fault("infinite", 1, step)] if kind == "infinite input" else []
            fit(folder, module, *([UncertaintyCallback()] if weighed else []), *faults, max_epochs=1)
            results[kind, weighed] = {
                "raw": module.raw,
                "engine": module.uncertainty.state_dict() if weighed else None,
                "network": {name: parameter.detach().clone() for name, parameter in module.named_parameters()},
            }
    return results


def uneven(folder, weighed):
    """Twelve batches on rank 0 and ten on rank 1. How far each came is in a file, since it may not end well.

    Without a validation that weighs its losses: there the ranks wait for each other, as for all that is logged there.
    """

    class Steps(Callback):
        def on_train_batch_end(self, trainer, *args):
            Path(folder, f"steps{rank()}").write_text(str(trainer.global_step))

    module = Tasks("always") if weighed else Unweighed("always")
    options = {"strategy": ddp(timeout=5.0), "max_epochs": 1, "loader": data(rank(), count=COUNT - 2 * rank())}
    options["limit_val_batches"] = 0
    fit(folder, module, Steps(), **options)
