"""What became of the clients: a table in Markdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.clients.client import Client
from lightning_uncertainty.comparison.statistics import relative_gain, t_interval
from lightning_uncertainty.reporting.tables import Table

__all__ = ["Run", "results_table", "write_results"]

HEADER = ["Client", "Library", "Metric", "Arm", "Plain", "With the callback", "Gain (95 %)", "Verdict", "Seconds"]
ABOUT = """# Other people's models, with and without learned weights

Written by `python -m experiments.clients` on {date}: Python {python}, {versions}; one thread. Each training is the
library's own tutorial, made small; the whole difference between the arms is one callback. Every model is written to a
file, read back by the library's own loader and measured on held-out data, by the library's own metric or, where it has
none (molecules, waves, speech), by the distance to the truth. Means and standard deviations over {seeds} seeds; the
gain is that of pairs of one seed, in percent of the plain run and positive where the callback is better, with the 95 %
interval of Student. Arms other than "learned" are what the documentation advises against. Arrows: less or more is
better. Seconds: one training without the callback, and with it, on a machine that did other work too.

"""


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        arm: "plain", or the arm of the client.
        seed: The seed.
        metrics: The metrics on held-out data.
        seconds: The time of the training and of the measurement.
    """

    arm: str
    seed: int
    metrics: Mapping[str, float]
    seconds: float


def write_results(path: Path, found: Mapping[str, tuple[Client, Sequence[Run]]]) -> None:
    """Write the page; ``found`` has each client with its runs, by name."""
    packages = ["torch", "lightning", *dict.fromkeys(client.package for client, _ in found.values())]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    seeds = max(len({run.seed for run in runs}) for _, runs in found.values())
    about = ABOUT.format(date=datetime.date.today(), python=platform.python_version(), versions=versions, seeds=seeds)
    path.write_text(about + results_table(found).markdown(), encoding="utf-8")


def results_table(found: Mapping[str, tuple[Client, Sequence[Run]]]) -> Table:
    """Return a row for each metric of each arm.

    >>> runs = [Run("plain", seed, {"error": 2.0 + seed}, 10.0) for seed in range(3)]
    >>> runs += [Run("learned", seed, {"error": 1.0 + 0.6 * seed}, 11.0) for seed in range(3)]
    >>> client = Client("Toys", "torch", {"error": "min"}, lambda *_: {}, {})
    >>> results_table({"toys": (client, runs)}).rows[0][2:]
    ['error ↓', 'learned', '3 ± 1', '1.6 ± 0.6', '+47.2 (+40.9 to +53.5)', 'better', '10, 11']
    """
    rows = []
    for name, (client, runs) in found.items():
        arms = {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}
        plain = arms.pop("plain")
        for arm, weighed in arms.items():
            for metric, direction in client.metrics.items():
                before, after = ([run.metrics[metric] for run in each] for each in (plain, weighed))
                pairs = zip(after, before, strict=True)
                gains = [relative_gain(new, old, higher_is_better=direction == "max") for new, old in pairs]
                took = ", ".join(f"{statistics.fmean(run.seconds for run in each):.0f}" for each in (plain, weighed))
                arrow = "↓" if direction == "min" else "↑"
                cells = [name, client.package, f"{metric} {arrow}", arm, _spread(before), _spread(after)]
                rows.append([*cells, *_verdict(gains), took])
    return Table(HEADER, rows, left=range(4))


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{deviation}"


def _verdict(gains: Sequence[float]) -> tuple[str, str]:
    """Return the gain in words: its mean and interval, and whether that leaves out zero."""
    interval = t_interval(gains)
    if interval is None:
        return f"{gains[0]:+.1f}", "one seed"
    verdict = "cannot tell" if not interval.excludes_zero else "better" if interval.mean > 0 else "worse"
    return f"{interval.mean:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})", verdict
