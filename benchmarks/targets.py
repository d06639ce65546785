"""Table 9: many targets with missing labels in one tensor, beside a masked mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.clock import Contender, take_turns
from benchmarks.tables import Section, Table
from lightning_uncertainty import UncertaintyWeighting

__all__ = ["targets_section"]

SIZES = (19, 600, 10_000)
ROWS = 64


def targets_section(device: str, seconds: float = 45.0) -> Section:
    """Table 9."""
    section = Section(
        "9. Many targets",
        f"A whole training step of a linear net with T outputs on {ROWS} rows, three labels in ten missing, Adam, one "
        "thread; microseconds (median over the rounds), and the ratio to the masked mean, taken within each round. "
        "`masked mean` is `where(mask, errors, 0).sum(0) / mask.sum(0)`, summed over the targets. `NaN labels` are "
        "`weigh(errors)` with NaN where labels are missing; `snippet` weighs the masked means by an `nn.Parameter` in "
        "the same Adam, which is the least that learned weights can cost; `by name` is a dict of T scalars.",
    )
    table = Table("Microseconds; ratio", ["T", "masked mean", "weigh with a mask", "NaN labels", "snippet", "by name"])
    for count in SIZES:
        contenders = _contenders(count, device)
        times = take_turns(contenders, budget=seconds / len(SIZES), device=device, inner=1 if count > 1000 else 5)
        cells = [f"{times.micros(name):,.0f} ({times.ratio(name, 'masked mean'):.2f})" for name in contenders]
        table.add(count, *cells, *(["-"] if len(cells) < 5 else []))
        ratio, snippet = (times.ratio(name, "masked mean") for name in ("weigh with a mask", "snippet"))
        section.judge(
            f"a step with T = {count} as fast as with a masked mean (at most 1.05)",
            result=f"{ratio:.2f}",
            met=ratio <= 1.05,
            reason="The engine's own call and step cost about the same whatever T is, and show beside so small a net. "
            f"The bare snippet stands at {snippet:.2f}.",
        )
    section.tables = [table]
    return section


def _contenders(count: int, device: str) -> dict[str, Contender]:
    generator = torch.Generator().manual_seed(0)
    rows, target = (torch.randn(ROWS, size, generator=generator).to(device) for size in (32, count))
    mask = (torch.rand(ROWS, count, generator=generator) > 0.3).to(device)
    missing = torch.where(mask, target, torch.nan)
    names = [f"target{index}" for index in range(count)]

    def contender(weigh: str) -> Contender:
        net, log_var = nn.Linear(32, count, device=device), nn.Parameter(torch.zeros(count, device=device))
        optimizer = torch.optim.Adam([*net.parameters(), *([log_var] if weigh == "snippet" else [])])
        weighting = UncertaintyWeighting(names).to(device)
        weighting.expect(1)

        def total() -> Tensor:
            errors = (net(rows) - (missing if weigh == "NaN labels" else target)).square()
            if weigh == "weigh with a mask":
                return weighting(errors, mask=mask)
            if weigh == "NaN labels":
                return weighting(errors)
            means = torch.where(mask, errors, 0.0).sum(0) / mask.sum(0)
            if weigh == "snippet":
                return (torch.exp(-log_var) * means + 0.5 * log_var).sum()
            return means.sum() if weigh == "masked mean" else weighting(dict(zip(names, means, strict=True)))

        def step() -> None:
            optimizer.zero_grad()
            total().backward()
            optimizer.step()
            if weigh not in ("masked mean", "snippet"):
                weighting.step()

        return Contender(step)

    kinds = ["masked mean", "weigh with a mask", "NaN labels", "snippet", *(["by name"] if count < 1000 else [])]
    return {kind: contender(kind) for kind in kinds}
