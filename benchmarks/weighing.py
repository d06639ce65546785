"""Tables 1 and 2: the weighted total alone, and the step."""

from __future__ import annotations

import torch

from benchmarks.clock import Contender, take_turns
from benchmarks.contenders import SharedTensor, task_kinds, weighing_contenders
from benchmarks.counting import kernels
from benchmarks.tables import Section, Table, number
from lightning_uncertainty import UncertaintyWeighting

__all__ = ["step_section", "weighing_section"]

SIZES = (1, 3, 10, 30, 100, 300, 1000)
AIMS = {3: 1.1, 30: 1.0, 300: 0.9, 1000: 0.9}


def weighing_section(device: str, seconds: float = 70.0) -> Section:
    """Table 1."""
    section = Section(
        "1. Weighting alone",
        "Forward and backward pass for K scalar losses of one shared tensor, the making of the losses included, one "
        "thread. Microseconds (median over the rounds); then the ratio to `sum`, taken within each round. `stack.dot` "
        "(a dot product with constant weights, which learns nothing and guards against nothing) and `empty Function` "
        "(`stack`, a `torch.autograd.Function` that does nothing, `sum`) are no contenders but floors.",
    )
    micros = Table("Microseconds", [])
    ratios = Table("Ratio to `sum`", [])
    for count in SIZES:
        contenders = weighing_contenders(count, device)
        times = take_turns(contenders, budget=seconds / len(SIZES), device=device, inner=5 if count < 100 else 1)
        for table in (micros, ratios):
            table.header = ["K", *contenders]
        micros.add(count, *(times.micros(name) for name in contenders))
        ratios.add(count, *(times.ratio(name, "sum") for name in contenders))
        if count in AIMS:
            _judge(section, count, times.ratio("ours", "sum"), times.ratio("empty Function", "sum"))
    section.tables = [micros, ratios]
    return section


def _judge(section: Section, count: int, ratio: float, empty: float) -> None:
    section.judge(
        f"at most {AIMS[count]} x `sum` at K = {count}",
        result=f"{ratio:.2f}",
        met=ratio <= AIMS[count],
        reason=f"`sum` of {count} losses is {count} small additions. Ours has a stack, a dot product "
        "and a hook on its backward pass, each some 5 us from Python, whatever its size, and looks at every loss. "
        f"An empty `autograd.Function` alone stands at {empty:.2f}.",
    )


def step_section(device: str, seconds: float = 24.0) -> Section:
    """Table 2."""
    section = Section(
        "2. `step()`",
        "Per optimizer step, microseconds. *After a backward pass*: timed alone, as it comes in training, with caches "
        "full of other things. *In a loop*: weigh, backward, step, and again, less the time without the step. Beside "
        "it what the other way costs: `torch.optim.Adam.step()` on one `nn.Parameter` of K numbers, by default and "
        "with `fused=True`, without its backward pass.",
    )
    columns = ["K", "after a backward pass", "in a loop", "torch Adam, after a backward pass", "torch Adam, fused"]
    table = Table("Microseconds", columns if device == "cpu" else [*columns, "kernels"])
    found: dict[int, float] = {}
    for count in SIZES:
        weighting = UncertaintyWeighting(task_kinds(count)).to(device)
        weighting.expect(1)  # the steps of the guard are soon over
        contenders = _step_contenders(count, weighting, device)
        times = take_turns(contenders, budget=seconds / len(SIZES), device=device)
        found[count] = times.micros("step") - (times.micros("weigh") if device != "cpu" else 0.0)
        loop = times.difference("both", "weigh")
        row: list[object] = [count, found[count], loop, times.micros("adam"), times.micros("fused")]
        if device == "cuda":
            row.append(kernels(contenders["both"].run) - kernels(contenders["weigh"].run))
        table.add(*row)
    section.tables = [table]
    worst = max(found[count] for count in SIZES if count <= 30)
    section.judge(
        "at most 40 us at K <= 30",
        result=f"{number(worst)} us",
        met=worst <= 40.0,
        reason="On a CPU it is 15 us and then, for few tasks, a microsecond of Python for each, half of that when "
        "warm: Adam, the bounds, the scale of the total, last and lowest losses, counts.",
    )
    growth = found[1000] / found[100]
    section.judge(
        "slower than linear to K = 1000",
        result=f"from 100 to 1000 tasks it costs {growth:.2f} times as much",
        met=growth < 10,
    )
    return section


def _step_contenders(count: int, weighting: UncertaintyWeighting, device: str) -> dict[str, Contender]:
    shared = SharedTensor(count, device)
    parameter = torch.nn.Parameter(torch.zeros(count, device=device))
    adam, fused = torch.optim.Adam([parameter]), torch.optim.Adam([parameter], fused=True)
    constant = {name: loss.detach().requires_grad_() for name, loss in shared.losses().items()}

    def weigh() -> None:
        weighting(constant).backward()

    def both() -> None:
        weigh()
        weighting.step()

    def backward() -> None:
        shared.x.grad = None
        weighting.discard()
        weighting(shared.losses()).backward()

    def gradient() -> None:
        backward()
        parameter.grad = torch.ones_like(parameter)

    for _ in range(10):
        both()
    return {
        "step": Contender(weighting.step, backward) if device == "cpu" else Contender(both, weighting.discard),
        "adam": Contender(adam.step, gradient),
        "fused": Contender(fused.step, gradient),
        "weigh": Contender(weigh, weighting.discard),
        "both": Contender(both, weighting.discard),
    }
