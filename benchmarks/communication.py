"""Table 5: processes that talk with gloo."""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.contenders import names_of, task_kinds
from benchmarks.counting import collectives
from benchmarks.tables import Section, Table, number
from lightning_uncertainty import UncertaintyWeighting
from lightning_uncertainty.engine import window as window_module

__all__ = ["communication_section", "measure_world"]

ROUNDS, INNER = 15, 20


class Step:
    """One training step of a perceptron under DistributedDataParallel, with one of three ways to sum losses."""

    def __init__(self, count: int, way: str, hidden: Sequence[int] = (256,)) -> None:
        torch.manual_seed(0)
        self.names, self.way = names_of(count), way
        layers: list[torch.nn.Module] = []
        for size, following in pairwise((64, *hidden, count)):
            layers += [torch.nn.Linear(size, following), torch.nn.ReLU()]
        self.net = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers[:-1]))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3)
        self.weighting = UncertaintyWeighting(task_kinds(count))
        self.weighting.expect(1)  # past the guard, where all but the first steps of a run are
        self.x, self.y = torch.randn(64, 64), torch.randn(64, count) + 1.0
        self._work: Any = None

    def __call__(self) -> None:
        losses = dict(zip(self.names, (self.net(self.x) - self.y).square().mean(0).unbind(), strict=True))
        if self.way == "overlapped":
            self._finish()
        total = sum(losses.values()) if self.way == "plain" else self.weighting(losses)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        if self.way == "plugin":
            self.weighting.step()
        elif self.way == "overlapped":
            self._start()

    def _start(self) -> None:
        """The trial: the sums travel while the next forward pass runs."""
        self.weighting.recorder.window.flush()
        self._work = dist.all_reduce(self.weighting.recorder.window.sums, async_op=True)

    def _finish(self) -> None:
        if self._work is not None:
            self._work.wait()
            arrived, window_module.sum_over_ranks = window_module.sum_over_ranks, lambda *_: None  # it has been done
            try:
                self.weighting.step()
            finally:
                window_module.sum_over_ranks = arrived


def _worker(
    rank: int, world: int, port: int, folder: str, counts: Sequence[int], hidden: Sequence[int], inner: int
) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    found = {}
    for count in counts:
        steps = {way: Step(count, way, hidden) for way in ("plain", "plugin", "overlapped")}
        for step in steps.values():
            for _ in range(5):
                step()
        with collectives() as seen:
            steps["plugin"]()
        times: dict[str, list[float]] = {way: [] for way in (*steps, "alone")}
        for _ in range(ROUNDS):
            for way, step in steps.items():
                times[way].append(_per_call(step, inner))
            numbers = torch.zeros(6, count)
            times["alone"].append(_per_call(lambda numbers=numbers: dist.all_reduce(numbers), inner))
        found[count] = (seen, times)
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    dist.destroy_process_group()


def _per_call(call: Any, inner: int) -> float:
    dist.barrier()
    began = time.perf_counter()
    for _ in range(inner):
        call()
    return (time.perf_counter() - began) / inner


def measure_world(
    world: int, counts: Sequence[int], hidden: Sequence[int] = (256,), inner: int = INNER
) -> dict[int, Any]:
    """Collectives of one step and times by way, for each K, in rank 0 of ``world`` processes."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        mp.spawn(_worker, (world, port, folder, counts, hidden, inner), nprocs=world)
        return torch.load(Path(folder) / "found.pt", weights_only=False)


def _shares() -> Table:
    """What part of a step it is in networks of some size."""
    table = Table(
        "Its share of a step, K = 3, 64 rows on each of two processes",
        ["parameters", "plain", "plugin adds", "share [%]"],
    )
    for width, inner in ((1000, 10), (5000, 1)):
        _, times = measure_world(2, [3], (width, width), inner)[3]
        plain = statistics.median(times["plain"])
        added = statistics.median(a - b for a, b in zip(times["plugin"], times["plain"], strict=True))
        size = sum(a * b + b for a, b in pairwise((64, width, width, 3)))
        table.add(f"{size / 1e6:.1f} M", 1e3 * plain, 1e3 * added, 100.0 * added / plain)
    return table


def communication_section() -> Section:
    """Table 5."""
    section = Section(
        "5. Communication",
        "Two gloo processes on this machine, a perceptron of 64 x 256 x K under DistributedDataParallel. Collectives "
        "of the plugin in one step (those of the network's gradients are DDP's own). Milliseconds per step, median "
        f"over {ROUNDS} rounds of {INNER} steps that take turns. *Overlapped* is a trial that is not in the package: "
        "the all-reduce starts at the end of a step, and is waited for after the next forward pass.",
    )
    header = ["K", "collectives", "bytes", "plain", "plugin", "overlapped", "plugin adds", "overlapped adds"]
    table = Table("Two processes", [*header, "all-reduce alone"])
    gains = []
    for count, (seen, times) in measure_world(2, [3, 30, 300]).items():
        ms = {way: 1e3 * statistics.median(values) for way, values in times.items()}
        added = [
            1e3 * statistics.median(a - b for a, b in zip(times[way], times["plain"], strict=True))
            for way in ("plugin", "overlapped")
        ]
        gains.append(added[0] - added[1])
        volume = sum(size for _, size in seen)
        table.add(count, len(seen), volume, ms["plain"], ms["plugin"], ms["overlapped"], *added, ms["alone"])
    section.tables = [table, _shares()]
    section.verdicts.append(
        "Overlapping gives "
        + ", ".join(f"{number(1e3 * gain)} us" for gain in gains)
        + " at K = 3, 30, 300, on two cores that the four threads of gloo share with the computation. It is **not "
        "kept**: between the start and the wait there are unfinished sums, so every checkpoint, every validation, "
        "every read of a weight, `discard()`, `to()`, a deep copy and the end of training would each have to wait on "
        "all ranks in the same order, or hang. What it could gain at most is the column *all-reduce alone*; whoever "
        "logs or saves on one rank only would get a deadlock for it. The one collective of 6 K numbers stays."
    )
    return section
