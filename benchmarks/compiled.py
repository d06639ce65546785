"""Table 7: torch.compile."""

from __future__ import annotations

import warnings

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from benchmarks.clock import Contender, take_turns
from benchmarks.contenders import names_of, task_kinds
from benchmarks.tables import Section, Table
from lightning_uncertainty import UncertaintyWeighting

__all__ = ["compile_section"]


def compile_section(device: str, seconds: float = 16.0) -> Section:
    """Table 7."""
    section = Section(
        "7. `torch.compile`",
        "A perceptron of 8 x 64 x K and its losses in one function, compiled by inductor with `fullgraph=True`: "
        "microseconds for forward, backward and, with the plugin, `step()`, which stays eager.",
    )
    header = ["K", "plain", "plugin", "plugin, without step()", "plain, eager", "plugin, eager", "graphs", "recompiles"]
    table = Table("Microseconds per step", header)
    one = True
    for count in (3, 30):
        torch._dynamo.reset()
        contenders, counter = _contenders(count, device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for contender in contenders.values():
                for _ in range(5):
                    contender.prepare()
                    contender.run()
            times = take_turns(contenders, budget=seconds / 2, device=device)
        table.add(count, *(times.micros(name) for name in contenders), counter.frame_count, counter.frame_count - 1)
        one = one and counter.frame_count == 1
    torch._dynamo.reset()
    torch.set_flush_denormal(False)  # what inductor builds may turn it on for the process
    section.tables = [table]
    section.judge("one graph, no recompilation", result="one graph" if one else "more than one graph", met=one)
    return section


def _contenders(count: int, device: str) -> tuple[dict[str, Contender], CompileCounterWithBackend]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, count)).to(device)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, count, device=device) + 1.0
    names = names_of(count)
    weighting, other = (UncertaintyWeighting(task_kinds(count)).to(device) for _ in range(2))
    weighting.expect(1)  # the steps of the guard are soon over
    other.expect(1)

    def losses() -> dict[str, torch.Tensor]:
        return dict(zip(names, (net(x) - y).square().mean(0).unbind(), strict=True))

    def plain() -> torch.Tensor:
        return sum(losses().values())  # type: ignore[return-value]

    counter = CompileCounterWithBackend("inductor")
    compiled_plain = torch.compile(plain, fullgraph=True)
    compiled_ours = torch.compile(lambda: weighting(losses()), backend=counter, fullgraph=True)

    def clear() -> None:
        net.zero_grad()
        weighting.discard()
        other.discard()

    def step_of(total: object, engine: UncertaintyWeighting | None) -> Contender:
        def run() -> None:
            total().backward()  # type: ignore[operator]
            if engine is not None:
                engine.step()

        return Contender(run, clear)

    return {
        "plain": step_of(compiled_plain, None),
        "plugin": step_of(compiled_ours, weighting),
        "plugin, without step()": step_of(compiled_ours, None),
        "plain, eager": step_of(plain, None),
        "plugin, eager": step_of(lambda: other(losses()), other),
    }, counter
