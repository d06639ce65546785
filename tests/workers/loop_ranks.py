"""What the processes run without a Trainer: loops in plain torch, groups of processes, and examples."""

import contextlib
import copy
import gc
import os
import pickle
import random
import runpy
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import callbacks as lightning_callbacks
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_uncertainty import CrossEntropy
from lightning_uncertainty import UncertaintyWeighting as Guarded
from tests.models import batches, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.workers.ranks import TASKS, TIMEOUT, Tasks, fit, rank


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


def losses_as_dtensors():
    """Weights in two parts and losses that are sums over them, and the same in one piece."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo")
    mesh, weight = init_device_mesh("cpu", (2,)), torch.arange(1.0, 7.0).reshape(2, 3)
    engines = {}
    for name, parameter in (
        ("", torch.nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)]))),
        (" in one piece", torch.nn.Parameter(weight.clone())),
    ):
        weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace", "c": "softmax_exact"}, init=0.0)
        for _ in range(2):
            target, count = torch.tensor([0, 2]), torch.tensor(3.0)
            if not name:
                target, count = (distribute_tensor(tensor, mesh, [Replicate()]) for tensor in (target, count))
            losses = {"a": parameter.square().mean(), "b": parameter.abs().mean(), "c": CrossEntropy(parameter, target)}
            weighting(losses, samples={"a": count, "b": 1, "c": 1}).backward()
            weighting.step()
        gradient = parameter.grad if name else parameter.grad.full_tensor()
        engines |= {f"s{name}": weighting.log_var.tolist(), f"gradient{name}": gradient.flatten().tolist()}
        kinds = {type(value).__name__ for value in weighting.state_dict().values() if isinstance(value, torch.Tensor)}
        engines["kinds"] = engines.get("kinds", set()) | kinds
    return engines


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
            total.backward()
            totals += [total.detach()] if weighting is mine else []
            weighting.step()
        loss = parameter * values.mean()
        total = single({"a": loss, "b": 3.0 * loss})
        total.backward()
        totals_alone.append(total.item())
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


def masks_of_each_rank():
    """Two columns whose labels lie on the ranks unevenly, at times all on one; and one process that has all rows."""
    dist.init_process_group("gloo")
    alone = dist.new_group([0]), dist.new_group([1])
    tasks = ["a", "b"]
    mine, single = UncertaintyWeighting(tasks), UncertaintyWeighting(tasks, process_group=alone[rank()])
    rows = slice(0, 3) if rank() == 0 else slice(3, 10)
    for step in range(12):
        generator = torch.Generator().manual_seed(step)
        errors, mask = torch.rand(10, 2, generator=generator), torch.rand(10, 2, generator=generator) > 0.6
        mask[:, 0] |= torch.arange(10) == 9  # a label on rank 1 in every step
        parameter = torch.ones((), requires_grad=True)
        mine(parameter * errors[rows], mask=mask[rows]).backward()
        single(parameter * errors, mask=mask).backward()
        mine.step()
        single.step()
    losses = ([task.raw_loss for task in each.snapshot().tasks.values()] for each in (mine, single))
    return {"s": mine.log_vars, "alone": single.log_vars, **dict(zip(("losses", "losses alone"), losses, strict=True))}


def guard_of_each_rank():
    """The defaults over 60 steps, and a task that rises on rank 1 only; and one process that has the means."""
    dist.init_process_group("gloo")
    alone = dist.new_group([0]), dist.new_group([1])
    tasks = {"a": "gaussian", "b": "gaussian", "c": "laplace"}
    mine, single = Guarded(tasks), Guarded(tasks, process_group=alone[rank()])
    found = {"factors": [], "alone": []}
    for weighting in (mine, single):
        weighting.expect(200)
    for step in range(60):
        values = torch.rand(2, 3, generator=torch.Generator().manual_seed(step)) + torch.tensor([10.0, 0.0, 1.0])
        values[:, 1] = torch.tensor([1e-3, 1e-3 * (1.0 + step)])
        for name, weighting, losses in (("factors", mine, values[rank()]), ("alone", single, values.mean(0))):
            losses = losses.clone().requires_grad_()
            weighting(losses).backward()
            weighting.step()
            found[name].append(losses.grad.tolist())
    state = {key: value.tolist() for key, value in mine.state_dict().items() if isinstance(value, torch.Tensor)}
    return {**found, "state": state, "held": state["held"]}


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
            mine({"a": a, "b": parameter * value if empty else b}, samples={"a": 4, "b": 0 if empty else 4}).backward()
            seen = [other for other in range(2) if other not in where]
            single(
                {"a": parameter * drawn[:, :, 0].mean()}
                | ({"b": parameter * drawn[seen, :, 1].mean()} if seen else {}),
                samples=4,
            ).backward()
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

    Returns ``s``, and per tenth: resident bytes, seconds per step, operations in the last step (which has all tasks, as
    the one before), and bytes of all that the engine holds.
    """
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT))
    weighting, chance = UncertaintyWeighting(FIVE), random.Random(rank())
    level = dict(zip(FIVE, (0.1, 3.0, 0.7, 0.3, 50.0), strict=True))
    resident, seconds, operations, held, part = [], [], [], [], steps // 10
    begin = time.perf_counter()
    for step in range(1, steps + 1):
        here = [name for name in FIVE if chance.random() < 0.6 or step % part in (0, part - 1)]
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


def losses_of_a_library(folder, accumulate):
    """A module of a library whose criterion is watched, and one that calls `weigh`: what each rank has at the end."""
    from tests.trainer.test_losses_from import Library, Weighed, split, watching

    left = []
    for kind, callback in ((Library, watching("single", split)), (Weighed, UncertaintyCallback())):
        module = kind()
        runner = trainer(folder, callback, accumulate_grad_batches=accumulate, strategy="ddp", devices=2, max_epochs=1)
        runner.fit(module, batches(seed=rank()))
        left.append({**module.net.state_dict(), "log_var": callback.weighting.log_var})
    return left
