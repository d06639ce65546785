"""Table 10: what the weighting adds to the step of a small network, beside the lines that people copy."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.clock import Contender, take_turns
from benchmarks.contenders import TorchJD, Vectorised, names_of, task_kinds
from benchmarks.tables import Section, Table
from lightning_uncertainty import UncertaintyWeighting

__all__ = ["snippet_section"]

SIZES = (1, 3, 10, 30, 100, 300, 1000)
PEERS = ("snippet", "TorchJD", "LibMTL")


class LibMTL(nn.Module):
    """``UW`` of LibMTL, which calls ``backward()`` itself.

    Raises:
        ImportError: if it is not installed; it is no part of the dev extra.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        if "LibMTL" not in sys.modules:
            found = importlib.util.find_spec("LibMTL")
            if found is None:
                raise ImportError("LibMTL is not installed.")
            for name, *inner in (("LibMTL",), ("LibMTL.weighting", "weighting")):  # their own imports want torchvision
                sys.modules[name] = package = types.ModuleType(name)
                package.__path__ = [str(Path(folder, *inner)) for folder in found.submodule_search_locations or ()]
        self.rule = importlib.import_module("LibMTL.weighting.UW").UW()
        self.rule.task_num, self.rule.device = count, "cpu"
        self.rule.init_param()

    def forward(self, losses: dict[str, Tensor]) -> Tensor:
        self.rule.backward(torch.stack(list(losses.values())))
        return torch.zeros((), requires_grad=True)  # whose backward pass is nothing


def snippet_section(device: str, seconds: float = 100.0) -> Section:
    """Table 10."""
    section = Section(
        "10. Against the lines that people copy",
        "A whole training step of a small network (16, 64, K; 32 rows; Adam), one thread: microseconds that are added "
        "to the same step with `torch.stack(losses).sum()`, and their ratio to what the snippet adds, both within each "
        "round. *Snippet*: an `nn.Parameter` of K log-variances in the network's own Adam, "
        "`(exp(-s) * torch.stack(losses) + s / 2).sum()`, nothing logged, no task that sits out, no accumulation, one "
        "process. *TorchJD* and *LibMTL*: their `UW`, whose parameters lie in that Adam, too (`-`: not installed). "
        "First with the default Adam, then with `fused=True`.",
    )
    for fused in (False, True):
        table = Table(
            "Adam, fused" if fused else "Adam",
            ["K", "plain step", "ours adds", *(f"{peer} adds" for peer in PEERS), "ours / snippet"],
        )
        worst: tuple[float, int] = (0.0, 0)
        for count in SIZES:
            contenders = _contenders(count, device, fused)
            times = take_turns(contenders, budget=seconds / 2 / len(SIZES), device=device, inner=5)
            added = {name: times.difference(name, "plain") for name in contenders if name != "plain"}
            ratio = added["ours"] / added["snippet"]
            worst = max(worst, (ratio, count))
            table.add(count, times.micros("plain"), added["ours"], *(added.get(peer, "-") for peer in PEERS), ratio)
        section.tables.append(table)
        section.judge(
            f"at most 1.0 x what the snippet adds at every K ({table.title})",
            result=f"at most {worst[0]:.1f} x (K = {worst[1]})",
            met=worst[0] <= 1.0,
            reason="The snippet is ten operations of C++ and two more of Adam. Ours looks which tasks take part, which "
            "calls an optimizer has really used, and takes a step of its own: some 200 lines of Python, which run cold "
            "after the network's own step.",
        )
    return section


def _contenders(count: int, device: str, fused: bool) -> dict[str, Contender]:
    names, generator = names_of(count), torch.Generator().manual_seed(0)
    rows, target = (torch.randn(32, size, generator=generator).to(device) for size in (16, count))

    def contender(total: Callable[[dict[str, Tensor]], Tensor], after: Callable[[], object] | None) -> Contender:
        net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, count)).to(device)
        own = list(total.parameters()) if isinstance(total, nn.Module) else []
        optimizer = torch.optim.Adam([*net.parameters(), *own], fused=fused)

        def step() -> None:
            losses = (net(rows) - target).square().mean(0).unbind()
            optimizer.zero_grad()
            total(dict(zip(names, losses, strict=True))).backward()
            optimizer.step()
            if after is not None:
                after()

        return Contender(step)

    weighting = UncertaintyWeighting(task_kinds(count)).to(device)
    weighting.expect(1)
    found = {
        "plain": contender(lambda losses: torch.stack(list(losses.values())).sum(), None),
        "ours": contender(weighting, weighting.step),
        "snippet": contender(Vectorised(count).to(device), None),
        "TorchJD": contender(TorchJD(count).to(device), None),
    }
    if device == "cpu" and (peer := _libmtl(count)) is not None:
        found["LibMTL"] = contender(peer, None)
    return found


def _libmtl(count: int) -> Any:
    try:
        return LibMTL(count)
    except ImportError:
        return None
