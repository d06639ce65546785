"""What the processes of the distributed tests run. Each function returns what its rank has seen."""

import os
import sys
from datetime import timedelta

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

from lightning_uncertainty import UncertaintyMixin
from tests.models import Loader, trainer
from tests.paper import UncertaintyCallback

TASKS = {"a": "gaussian", "b": "laplace", "c": "softmax", "late": "gaussian"}
COUNT, EPOCHS = 12, 3  # batches per epoch
LATE = 15  # the step in which the last task first appears
TIMEOUT = 30.0  # seconds that a rank waits for another

COLLECTIVES = [
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "all_to_all", "all_to_all_single",
    "barrier", "broadcast", "broadcast_object_list", "gather", "gather_object", "isend", "irecv", "monitored_barrier",
    "new_group", "recv", "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list", "send",
]  # fmt: skip


class Collectives:
    """Counts the collectives that the package calls, and where in the run."""

    def __init__(self):
        self.phase, self.calls = "outside", []
        for name in COLLECTIVES:
            setattr(dist, name, self._watched(name, getattr(dist, name)))

    def _watched(self, name, collective):
        def watched(*args, **kwargs):
            if sys._getframe(1).f_globals["__name__"].startswith("lightning_uncertainty"):
                tensor = kwargs.get("tensor", args[0] if args else None)
                numel = tensor.numel() if isinstance(tensor, torch.Tensor) else 0
                self.calls.append((self.phase, name, numel))
            return collective(*args, **kwargs)

        return watched

    def during(self, phase):
        return [(name, numel) for where, name, numel in self.calls if where == phase]


class Phases(Callback):
    """Tells ``collectives`` where the run is; first of the callbacks, so that the phase begins before their hooks."""

    def __init__(self, collectives):
        self.collectives = collectives

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.collectives.phase = f"step {trainer.global_step}"

    def on_validation_start(self, trainer, module):
        self.collectives.phase = "validation"

    def on_train_epoch_end(self, trainer, module):
        self.collectives.phase = "epoch end"


class Recorder(Callback):
    """Keeps what this rank holds at the end of each epoch."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, module):
        engine = module.uncertainty
        self.epochs.append(
            {
                "engine": engine.state_dict(),
                "metrics": {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("uncertainty")},
                "network": [parameter.detach().clone() for parameter in module.parameters()],
            }
        )


def rank():
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def present(pattern, rank, step):
    """Which tasks have labels in this rank and step: on one rank, on the other, on both, on none, in changing turns."""
    if pattern == "always":
        return {"a": True, "b": True, "c": True, "late": True}
    return {
        "a": True,
        "b": (step + rank) % 3 != 0,
        "c": step % 4 != 1 and (step // 2 + rank) % 2 == 0,
        "late": rank == 1 and step >= LATE,
    }


def data(rank, *, same_size=False, count=COUNT, seed=0):
    """Batches of 4 samples on rank 0 and of 6 on rank 1, of other data."""
    size = 4 if same_size else 4 + 2 * rank
    generator = torch.Generator().manual_seed(100 * seed + rank)
    x = torch.randn(count * size, 4, generator=generator)
    y = x @ torch.linspace(-1.0, 1.0, 12).reshape(4, 3) + 0.3 * torch.randn(count * size, 3, generator=generator)
    return Loader(x, y, size=size)


class Tasks(UncertaintyMixin, L.LightningModule):
    """Four tasks with heads of their own, missing by a pattern: their keys are left out, or their losses are NaN."""

    tasks = TASKS

    def __init__(self, pattern="changing", *, missing="left out", touch_all=True, optimizer=None):
        super().__init__()
        torch.manual_seed(1)
        self.trunk = torch.nn.Linear(4, 5)
        self.heads = torch.nn.ModuleDict({name: torch.nn.Linear(5, 2) for name in TASKS})
        self.pattern, self.missing, self.touch_all = pattern, missing, touch_all
        self.optimizer = optimizer or torch.optim.Adam
        self.raw = []

    def losses(self, batch, here):
        x, y = batch
        features = torch.tanh(self.trunk(x))
        losses = {}
        for name in TASKS:
            if not here[name] and self.missing == "left out":
                continue
            chosen = slice(None) if here[name] else slice(0, 0)  # the mean over nothing is NaN
            output, target = self.heads[name](features)[chosen], y[chosen]
            if name == "b":
                losses[name] = (10.0 * (output[:, 0] - target[:, 1])).abs().mean()
            elif name == "c":
                losses[name] = torch.nn.functional.cross_entropy(output, (target[:, 2] > 0.0).long())
            else:
                losses[name] = (output[:, 0] - target[:, 0]).square().mean()
        return losses, features

    def training_step(self, batch, batch_idx):
        losses, features = self.losses(batch, present(self.pattern, rank(), self.trainer.global_step))
        self.raw.append({name: loss.item() for name, loss in losses.items()})
        total = self.total(losses)
        if self.touch_all:  # plain DDP wants a gradient for every parameter, with or without this package
            total = total + sum(0.0 * head(features).sum() for head in self.heads.values())
        return total

    def total(self, losses):
        return self.weigh(losses)

    def validation_step(self, batch, batch_idx):
        losses, _ = self.losses(batch, dict.fromkeys(TASKS, True))
        self.log("val_loss", self.total(losses), sync_dist=False)

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.05)


def ddp(timeout=TIMEOUT, **options):
    return DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=timeout), **options)


def fit(folder, module, *callbacks, loader=None, strategy=None, devices=2, **options):
    """Train in this rank of a job that is already started."""
    defaults = {"max_epochs": EPOCHS, "log_every_n_steps": 1, "num_sanity_val_steps": 1}
    runner = trainer(folder, *callbacks, strategy=strategy or ddp(), devices=devices, **{**defaults, **options})
    runner.fit(module, data(rank()) if loader is None else loader, data(rank(), seed=1, count=2))
    return runner


def seen(module, runner, recorder, collectives):
    return {
        "epochs": recorder.epochs,
        "raw": module.raw,
        "calls": collectives.calls,
        "steps": runner.global_step,
        "world": runner.world_size,
    }


STRATEGIES = {
    "ddp": lambda: (Tasks(), ddp()),
    "ddp_find_unused_parameters_true": lambda: (Tasks(touch_all=False), ddp(find_unused_parameters=True)),
    "static_graph": lambda: (Tasks(missing="NaN", touch_all=False), ddp(static_graph=True)),
    "gradient_as_bucket_view": lambda: (Tasks(), ddp(gradient_as_bucket_view=True)),
}


def train_with_every_strategy(folder):
    """All flavours of DDP one after the other in one process group."""
    collectives, everything = Collectives(), {}
    for name, build in STRATEGIES.items():
        collectives.phase, collectives.calls = "outside", []
        module, strategy = build()
        recorder = Recorder()
        logger = CSVLogger(folder, name)
        runner = fit(
            folder, module, Phases(collectives), UncertaintyCallback(), recorder, strategy=strategy, logger=logger
        )
        everything[name] = {**seen(module, runner, recorder, collectives), "log_dir": logger.log_dir}
    return everything


def halves(folder, accumulate=1, warmup="initial"):
    """Both ranks together on one data set, or one process on all of it: the same samples per optimizer step."""
    world = int(os.environ["WORLD_SIZE"])
    whole = data(0, same_size=True, count=2 * COUNT)
    batches = list(zip(*[iter(whole.batches)] * 2, strict=True))  # pairs: one for each rank
    mine = [[pair[rank()]] if world == 2 else [tuple(map(torch.cat, zip(*pair, strict=True)))] for pair in batches]
    loader = Loader.__new__(Loader)
    loader.batches, loader.position, loader.start = [batch for part in mine for batch in part], 0, 0
    module = Tasks("always", optimizer=torch.optim.SGD)
    callback = UncertaintyCallback(warmup=warmup, warmup_steps=2 if warmup == "equal" else 0)
    fit(
        folder,
        module,
        callback,
        loader=loader,
        strategy=ddp() if world == 2 else "auto",
        devices=world,
        accumulate_grad_batches=accumulate,
    )
    return {"log_vars": module.uncertainty.log_vars, "network": [p.detach() for p in module.parameters()]}


class Counted(Tasks):
    def weigh(self, losses):
        return super().weigh(losses, samples=4 + 2 * rank())


def accumulate_means_over_samples(folder):
    """Windows of five batches, the last of an epoch of two, with batches of 4 samples on rank 0 and of 6 on rank 1."""
    module, recorder = Counted(), Recorder()
    fit(folder, module, UncertaintyCallback(), recorder, accumulate_grad_batches=5)
    return {"raw": module.raw, "s": module.uncertainty.log_vars, "metrics": recorder.epochs[-1]["metrics"]}


def warm_up_with_equal_weights(folder):
    collectives = Collectives()
    module = Tasks("always")
    callback = UncertaintyCallback(warmup="equal", warmup_steps=4)
    fit(folder, module, Phases(collectives), callback, max_epochs=1)
    return {"calls": collectives.calls, "log_var": module.uncertainty.log_var}


def first_steps(folder):
    """The collectives of a run with accumulation, started from the data or from given values."""

    results = {}
    collectives = Collectives()
    for name, init, accumulate in [("auto", "auto", 3), ("given", 0.0, 3)]:
        collectives.phase, collectives.calls = "outside", []
        module = Tasks()
        options = {"max_epochs": 1, "accumulate_grad_batches": accumulate}
        fit(folder, module, Phases(collectives), UncertaintyCallback(init=init), **options)
        results[name] = collectives.calls
    return results
