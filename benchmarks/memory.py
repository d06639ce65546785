"""Table 6: memory over a long run."""

from __future__ import annotations

import gc
import resource
import weakref
from pathlib import Path

import torch

from benchmarks.contenders import names_of, task_kinds
from benchmarks.tables import Section, Table
from lightning_uncertainty import UncertaintyWeighting

__all__ = ["memory_section"]

STEPS = 20_000


class _Square(torch.autograd.Function):
    """Its node can be watched."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        return 2.0 * ctx.saved_tensors[0] * gradient


def memory_section() -> Section:
    """Table 6."""
    section = Section(
        "6. Memory",
        f"{STEPS:,} steps, losses of one vector. Resident memory and live tensors after 2,000 steps and at the end; "
        "peak of the whole process, sections before included. *Alive after backward*: how many of K losses and their "
        "graph nodes still exist once `backward()` has run and the caller has dropped them, before `step()`.",
    )
    header = ["K", "resident at 2,000", "at the end, MB", "growth", "live tensors", "at the end", "peak", "alive"]
    table = Table("Megabytes", header)
    flat, alive = True, 0
    for count in (3, 300):
        x, weighting = torch.ones(count, requires_grad=True), UncertaintyWeighting(task_kinds(count))
        names = names_of(count)
        early = (0.0, 0)
        for step in range(STEPS):
            x.grad = None
            weighting(dict(zip(names, (x * x).unbind(), strict=True))).backward()
            weighting.step()
            if step == 2_000:
                early = _resident(), _tensors()
        late = _resident(), _tensors()
        left = _alive_after_backward(weighting, names)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        table.add(count, early[0], late[0], late[0] - early[0], early[1], late[1], peak, left)
        flat = flat and late[0] - early[0] < 1.0 and late[1] <= early[1]
        alive += left
    section.tables = [table]
    section.judge("flat", result="less than 1 MB and no tensor more" if flat else "it grows", met=flat)
    section.judge("no graph is kept alive after backward", result=f"{alive} objects alive", met=alive == 0)
    return section


def _alive_after_backward(weighting: UncertaintyWeighting, names: list[str]) -> int:
    x = torch.ones((), requires_grad=True)
    losses = {name: _Square.apply(x) for name in names}
    references = [weakref.ref(thing) for loss in losses.values() for thing in (loss, loss.grad_fn)]
    weighting(losses).backward()
    del losses
    gc.collect()
    return sum(reference() is not None for reference in references)


def _resident() -> float:
    """Megabytes."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.read_text(encoding="utf-8").split()[1]) * resource.getpagesize() / 2**20


def _tensors() -> int:
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
