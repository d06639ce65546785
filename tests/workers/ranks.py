"""What the processes of the distributed tests run. Each function returns what its rank has seen."""

import contextlib
import copy
import gc
import os
import pickle
import random
import runpy
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_uncertainty import UncertaintyCallback, UncertaintyMixin, UncertaintyWeighting
from tests.models import Loader, trainer

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
        total = self.weigh(losses)
        if self.touch_all:  # plain DDP wants a gradient for every parameter, with or without this package
            total = total + sum(0.0 * head(features).sum() for head in self.heads.values())
        return total

    def validation_step(self, batch, batch_idx):
        losses, _ = self.losses(batch, dict.fromkeys(TASKS, True))
        self.log("val_loss", self.weigh(losses), sync_dist=False)

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


def engine_steps(weighting, steps, *, tasks=TASKS, losses=None):
    """A loop in plain torch, with losses that differ per rank; the totals of this rank."""
    totals = []
    for step in steps:
        generator = torch.Generator().manual_seed(1000 * step + dist.get_rank())
        here = losses(step) if losses else tasks
        parameters = {name: (torch.rand((), generator=generator) + 0.5).requires_grad_() for name in tasks}
        total = weighting({name: parameters[name] for name in here})
        total.backward()
        weighting.step()
        totals.append(total.item())
    return totals


def late_task_after_a_resume():
    """A task that first appears in the step after the resume, on both ranks."""
    dist.init_process_group("gloo")
    tasks = {"a": "gaussian", "late": "gaussian"}

    def losses(step):
        return ["a"] if step < 3 else ["a", "late"]

    whole, first, rest = (UncertaintyWeighting(tasks) for _ in range(3))
    totals = engine_steps(whole, range(6), tasks=tasks, losses=losses)
    engine_steps(first, range(3), tasks=tasks, losses=losses)
    rest.load_state_dict(first.state_dict())
    resumed = engine_steps(rest, range(3, 6), tasks=tasks, losses=losses)
    return {"whole": totals[3:], "resumed": resumed, "same": torch.equal(whole.log_var, rest.log_var)}


def samples_of_each_rank():
    """Losses that are means over 4 samples on rank 0 and 6 on rank 1; and one process that has all samples."""
    dist.init_process_group("gloo")
    alone = dist.new_group([0]), dist.new_group([1])
    tasks = {"a": "gaussian", "b": "laplace"}
    mine, batches = UncertaintyWeighting(tasks), UncertaintyWeighting(tasks)
    single = UncertaintyWeighting(tasks, process_group=alone[rank()])
    share, totals, totals_alone = slice(0, 4) if rank() == 0 else slice(4, 10), [], []
    for step in range(20):
        values = torch.rand(10, generator=torch.Generator().manual_seed(step)).square()
        parameter = torch.ones((), requires_grad=True)
        for weighting, chosen, samples in ((mine, share, len(values[share])), (batches, share, None)):
            loss = parameter * values[chosen].mean()
            total = weighting({"a": loss, "b": 3.0 * loss}, samples=samples)
            totals += [total.detach()] if weighting is mine else []
            weighting.step()
        loss = parameter * values.mean()
        totals_alone.append(single({"a": loss, "b": 3.0 * loss}).item())
        single.step()
    # The total of all samples is the mean of those of the ranks, weighted by their samples: it is linear in the losses.
    totals = torch.stack(totals) * len(values[share]) / 10
    dist.all_reduce(totals)
    return {
        "s": mine.log_vars,
        "alone": single.log_vars,
        "batches": batches.log_vars,
        "totals": totals.tolist(),
        "totals alone": totals_alone,
    }


def samples_of_some_ranks(where, value, calls):
    """Task b has no samples on the ranks ``where``, with ``value`` for a loss; and one process that never saw those."""
    dist.init_process_group("gloo")
    alone = dist.new_group([0]), dist.new_group([1])
    tasks = {"a": "gaussian", "b": "laplace"}
    mine, single = UncertaintyWeighting(tasks), UncertaintyWeighting(tasks, process_group=alone[rank()])
    for step in range(10):
        for call in range(calls):
            drawn = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(10 * step + call))  # ranks, rows, tasks
            parameter = torch.ones((), requires_grad=True)
            a, b = (parameter * drawn[rank(), :, i].mean() for i in range(2))
            empty = rank() in where
            mine({"a": a, "b": parameter * value if empty else b}, samples={"a": 4, "b": 0 if empty else 4})
            seen = [other for other in range(2) if other not in where]
            single(
                {"a": parameter * drawn[:, :, 0].mean()}
                | ({"b": parameter * drawn[seen, :, 1].mean()} if seen else {}),
                samples=4,
            )
        mine.step()
        single.step()
    return {"s": mine.log_vars, "alone": single.log_vars, "absent": mine.snapshot().tasks["b"].absent}


FIVE = {"a": "gaussian", "b": "laplace", "c": "softmax", "d": "bernoulli", "e": "gaussian"}


class Operations(TorchDispatchMode):
    """Counts the operations on tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def soak(steps):
    """Five tasks missing at random, on each rank in its own way; what a step takes after each tenth of the way.

    Returns ``s``, and per tenth: resident bytes, seconds per step, operations in the last step (which has all tasks),
    and bytes of all that the engine holds.
    """
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT))
    weighting, chance = UncertaintyWeighting(FIVE), random.Random(rank())
    level = dict(zip(FIVE, (0.1, 3.0, 0.7, 0.3, 50.0), strict=True))
    resident, seconds, operations, held, part = [], [], [], [], steps // 10
    begin = time.perf_counter()
    for step in range(1, steps + 1):
        here = [name for name in FIVE if chance.random() < 0.6 or step % part == 0]
        losses = {name: torch.tensor(level[name] * chance.expovariate(1.0), requires_grad=True) for name in here}
        with Operations() if step % part == 0 else contextlib.nullcontext() as counted:
            weighting(losses).backward()
            weighting.step()
        if step % part == 0:
            operations.append(counted.count)
            held.append(len(pickle.dumps(weighting)))
            seconds.append((time.perf_counter() - begin) / part)
            gc.collect()
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            begin = time.perf_counter()
    return {
        "engine": weighting.state_dict(),
        "resident": resident,
        "seconds": seconds,
        "operations": operations,
        "held": held,
    }


def example(path, *args):
    """The engines that an example of the documentation ends with."""
    result = runpy.run_path(str(path))["main"](*args)
    engines = result if isinstance(result, tuple) else (result,)
    return [engine.state_dict() for engine in engines]


def groups():
    """Ranks 0 and 1 in one group, rank 2 in another: what each learns, and what copies and checkpoints keep."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT))
    mine = [dist.new_group([0, 1]), dist.new_group([2])][rank() // 2]
    weighting = UncertaintyWeighting(FIVE, process_group=mine)
    engine_steps(weighting, range(5), tasks=FIVE)
    twin, loaded = copy.deepcopy(weighting), UncertaintyWeighting(FIVE, process_group=mine)
    loaded.load_state_dict(pickle.loads(pickle.dumps(weighting.state_dict())))
    engine_steps(weighting, range(5, 9), tasks=FIVE)
    before = twin.log_var
    engine_steps(twin, range(5, 9), tasks=FIVE)
    engine_steps(loaded, range(5, 9), tasks=FIVE)
    return {
        "s": weighting.log_var,
        "moved": not torch.equal(before, twin.log_var),
        "twin": twin.log_var,
        "loaded": loaded.log_var,
        "same group": twin.process_group is mine,
    }


def averaged(folder):
    """A callback that copies the module for its moving average, and a group that was given by the user."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT))
    module = Tasks()
    callback = UncertaintyCallback(process_group=dist.new_group([0, 1]))
    if hasattr(lightning_callbacks, "EMAWeightAveraging"):  # since Lightning 2.6
        average = lightning_callbacks.EMAWeightAveraging(decay=0.9)
    else:  # which copies the module too
        average = lightning_callbacks.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    fit(folder, module, callback, average, max_epochs=2)
    return {"s": module.uncertainty.log_var, "steps": module.uncertainty.steps}


POISONS = ["infinite input", "NaN loss", "NaN gradient"]


class Unweighed(Tasks):
    """The same without the package."""

    configure_callbacks = L.LightningModule.configure_callbacks

    def weigh(self, losses):
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
            fit(folder, module, *faults, max_epochs=1)
            results[kind, weighed] = {
                "raw": module.raw,
                "engine": module.uncertainty.state_dict() if weighed else None,
                "network": {name: parameter.detach().clone() for name, parameter in module.named_parameters()},
            }
    return results


def uneven(folder, weighed):
    """Twelve batches on rank 0 and ten on rank 1. How far each came is in a file, since it may not end well."""

    class Steps(Callback):
        def on_train_batch_end(self, trainer, *args):
            Path(folder, f"steps{rank()}").write_text(str(trainer.global_step))

    module = Tasks("always") if weighed else Unweighed("always")
    options = {"strategy": ddp(timeout=5.0), "max_epochs": 1, "loader": data(rank(), count=COUNT - 2 * rank())}
    fit(folder, module, Steps(), **options)
