"""Table 8: growth with tasks and processes."""

from __future__ import annotations

import math
import statistics

import torch

from benchmarks.clock import Contender, take_turns
from benchmarks.communication import measure_world
from benchmarks.contenders import names_of, task_kinds
from benchmarks.tables import Section, Table, number
from lightning_uncertainty import UncertaintyWeighting

__all__ = ["scale_section"]

SIZES = (10, 100, 1000, 10_000)
BYTES = 6 * 4  # per task: six fp32 numbers


def scale_section(device: str, seconds: float = 24.0) -> Section:
    """Table 8."""
    section = Section(
        "8. Scale",
        "Losses that are there already, parts of one vector: what is timed is the weighted total with its backward "
        "pass up to them, then `step()`. Microseconds.",
    )
    tasks = Table(
        "Against the number of tasks", ["K", "weigh and backward", "per task", "`sum` and backward", "step()"]
    )
    found: dict[str, list[float]] = {"weigh": [], "step": []}
    for count in SIZES:
        times = take_turns(_contenders(count, device), budget=seconds / len(SIZES), device=device, inner=3)
        weigh, plain, step = (times.micros(name) for name in ("weigh", "sum", "step"))
        tasks.add(f"{count:,}", weigh, weigh / count, plain, step)
        found["weigh"].append(weigh)
        found["step"].append(step)
    section.tables = [tasks]
    slopes = {name: _slope(values) for name, values in found.items()}
    section.verdicts.append(
        f"Growth: weighing as K^{slopes['weigh']:.2f} between 100 and 10,000 tasks (a walk over K Python objects: "
        f"linear, as `sum` is, at a lower price), step() as K^{slopes['step']:.2f} (the same operations whatever K is)."
    )
    if device == "cpu":
        section.tables.append(_world_table())
    section.tables.append(_paper())
    section.verdicts.append(PAPER)
    return section


def _contenders(count: int, device: str) -> dict[str, Contender]:
    weighting, names = UncertaintyWeighting(task_kinds(count)).to(device), names_of(count)
    weighting.expect(1)  # the steps of the guard are soon over
    values = torch.ones(count, device=device).requires_grad_()
    losses = dict(zip(names, [value.detach().requires_grad_() for value in values.unbind()], strict=True))

    def weigh() -> None:
        weighting(losses).backward()

    def plain() -> None:
        sum(losses.values()).backward()  # type: ignore[union-attr]

    def clear() -> None:
        weighting.discard()
        for loss in losses.values():
            loss.grad = None

    def ready() -> None:
        clear()
        weigh()

    for _ in range(10):
        weigh()
        weighting.step()
    return {"weigh": Contender(weigh, clear), "sum": Contender(plain, clear), "step": Contender(weighting.step, ready)}


def _slope(values: list[float]) -> float:
    """Exponent of K over the last three sizes."""
    return math.log(values[-1] / values[-3]) / math.log(SIZES[-1] / SIZES[-3])


def _world_table() -> Table:
    header = ["processes", "plain", "plugin", "plugin adds", "all-reduce alone"]
    table = Table("Against the number of gloo processes, K = 100, on this machine's cores: milliseconds", header)
    for world in (1, 2, 4):
        _, times = measure_world(world, [100])[100]
        ms = {way: 1e3 * statistics.median(values) for way, values in times.items()}
        added = 1e3 * statistics.median(a - b for a, b in zip(times["plugin"], times["plain"], strict=True))
        table.add(world, ms["plain"], ms["plugin"], added, ms["alone"])
    return table


def _paper() -> Table:
    """The all-reduce of 6 K fp32 numbers by T = 2 log2(nodes) a + 2 log2(nodes) b N, plus the step inside a node."""
    table = Table(
        "On paper: one all-reduce per optimizer step, microseconds",
        ["GPUs, K", "bytes", "2 log2(nodes) hops", "latency of the hops", "bytes on the wire", "inside a node", "all"],
    )
    for gpus, count in ((16, 100), (1000, 100), (1000, 1000), (10_000, 100)):
        size, hops = BYTES * count, 2 * math.ceil(math.log2(gpus / 8))
        latency, wire, inside = 5.0 * hops, 1e6 * hops * size / 25e9, 20.0
        table.add(f"{gpus:,}, {count}", f"{size:,}", hops, latency, wire, inside, latency + wire + inside)
    return table


PAPER = (
    "On paper, 1,000 GPUs in nodes of 8 and 100 tasks: 6 x 100 fp32 numbers are 2,400 bytes. A tree over 125 nodes is "
    "7 deep, so 14 hops up and down. With 5 us a hop (InfiniBand, 2 to 5 us published [1]), 25 GB/s per rail, and 20 "
    "us inside the node (10 us is the published floor of a small NVLink all-reduce [1]; 6 us for two H100 and more for "
    "eight [2]) that is 14 x 5 + 14 x 2,400 B / 25 GB/s + 20 = 70 + 1.3 + 20, about "
    f"{number(14 * 5 + 1e6 * 14 * 2400 / 25e9 + 20)} us. It is latency: ten times the tasks cost 8 us more. Beside it, "
    "the gradients of 100 million fp32 parameters are 400 MB, at 25 GB/s 32 ms: 0.3 %. NCCL runs it on the stream of "
    "the device, so the host does not wait. Not measured here. "
    "[1] factryze.ai/scale-atlas/collectives/tree-reduce-latency; [2] github.com/NVIDIA/nccl/issues/1259."
)
