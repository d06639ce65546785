"""Timing on a machine that is never quiet: contenders take turns, and are compared within a round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

__all__ = ["Contender", "Times", "take_turns"]


@dataclass(frozen=True)
class Contender:
    """What is timed: ``run``; and what has to be done before each run, untimed."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass
class Times:
    """Seconds by contender, one median per round."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def micros(self, name: str) -> float:
        """Median over the rounds, in microseconds."""
        return 1e6 * statistics.median(self.rounds[name])

    def ratio(self, name: str, base: str) -> float:
        """Median over the rounds of the ratio within a round: what slows the machine down slows both."""
        return statistics.median(a / b for a, b in zip(self.rounds[name], self.rounds[base], strict=True))

    def difference(self, name: str, base: str) -> float:
        """Median over the rounds of the difference within a round, in microseconds."""
        pairs = zip(self.rounds[name], self.rounds[base], strict=True)
        return 1e6 * statistics.median(a - b for a, b in pairs)


def take_turns(
    contenders: Mapping[str, Contender], *, budget: float, device: str = "cpu", inner: int = 10, rounds: int = 400
) -> Times:
    """Rounds in which each contender runs ``inner`` times; at least three, and no new one after ``budget`` seconds.

    The first round is warm-up. The order turns from round to round, so that nobody always follows the same other.
    """
    names = list(contenders)
    times = Times({name: [] for name in names})
    began = time.perf_counter()
    gc.collect()
    gc.disable()  # else whoever is on pays for the garbage of all
    try:
        for turn in range(rounds + 1):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                seconds = _measure(contenders[name], inner, device)
                if turn:
                    times.rounds[name].append(seconds)
            gc.collect()
            if turn >= 3 and time.perf_counter() - began > budget:
                break
    finally:
        gc.enable()
    return times


def _measure(contender: Contender, inner: int, device: str) -> float:
    """The median of single runs; on a GPU each between two events, after the device has done what was prepared."""
    single = _single if device == "cpu" else _single_on_gpu
    return statistics.median(single(contender) for _ in range(inner))


def _single(contender: Contender) -> float:
    contender.prepare()
    began = time.perf_counter()
    contender.run()
    return time.perf_counter() - began


def _single_on_gpu(contender: Contender) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    contender.prepare()
    torch.cuda.synchronize()
    start.record()
    contender.run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3
