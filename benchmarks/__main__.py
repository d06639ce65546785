"""``python -m benchmarks``: prints the tables and writes RESULTS.md next to this file.

``--device cuda`` runs tables 1 to 4 and 7 to 10 on a GPU, and writes RESULTS-cuda.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.communication import communication_section
from benchmarks.compiled import compile_section
from benchmarks.memory import memory_section
from benchmarks.scale import scale_section
from benchmarks.snippet import snippet_section
from benchmarks.tables import Section
from benchmarks.targets import targets_section
from benchmarks.training import reads_section, training_section
from benchmarks.weighing import step_section, weighing_section

HERE = Path(__file__).parent
PACKAGES = ("torch", "lightning", "torchjd", "tensorboard")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of sections; then nothing is written")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here")
    torch.set_num_threads(1)
    console, began, sections = Console(width=140), time.perf_counter(), []
    for index, make in sections_for(options.device).items():
        if options.only and index not in options.only:
            continue
        started = time.perf_counter()
        section = make()
        sections.append(section)
        show(console, section)
        console.print(f"[dim]{time.perf_counter() - started:.0f} s[/dim]\n")
    if not options.only:
        target = HERE / ("RESULTS.md" if options.device == "cpu" else "RESULTS-cuda.md")
        target.write_text(page(sections, options.device, time.perf_counter() - began), encoding="utf-8")
        console.print(f"Written: benchmarks/{target.name}")


def sections_for(device: str) -> dict[int, Callable[[], Section]]:
    """What can be measured there, by number."""
    everywhere: dict[int, Callable[[], Section]] = {
        1: lambda: weighing_section(device),
        2: lambda: step_section(device),
        3: lambda: training_section(device),
        4: lambda: reads_section(device),
        7: lambda: compile_section(device),
        8: lambda: scale_section(device),
        9: lambda: targets_section(device),
        10: lambda: snippet_section(device),
    }
    if device == "cpu":
        everywhere |= {5: communication_section, 6: memory_section}
    return dict(sorted(everywhere.items()))


def show(console: Console, section: Section) -> None:
    """On the terminal."""
    console.rule(section.title, align="left")
    for table in section.tables:
        console.print(table.rich())
    for verdict in section.verdicts:
        console.print(f"- {verdict}", markup=False)


def page(sections: list[Section], device: str, seconds: float) -> str:
    """RESULTS.md."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    gpu = f"; {torch.cuda.get_device_name()}" if device == "cuda" else ""
    head = f"""# What it costs

Written by `make bench` ({seconds / 60:.0f} minutes) on {datetime.date.today()}: Python {platform.python_version()}, \
{versions}; {_processor()}, {os.cpu_count()} cores{gpu}; one thread. Contenders take turns; numbers are medians over \
rounds, ratios and differences are taken within a round and then their median. Absolute times of a small shared \
machine vary by half from day to day; the ratios hold.

{"" if device == "cuda" else "Not run on a GPU: `python -m benchmarks --device cuda` is ready for one."}"""
    profile = (HERE / "what_took_the_time.md").read_text(encoding="utf-8")
    return "\n\n".join([head.rstrip(), *(section.markdown() for section in sections), profile.rstrip()]) + "\n"


def _processor() -> str:
    """Its model, if the system tells."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
