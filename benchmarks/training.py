"""Tables 3 and 4: whole steps of a Trainer, and what the host reads in them."""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any
from unittest import mock

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn

from benchmarks.contenders import Vectorised, names_of, task_kinds
from benchmarks.counting import host_reads
from benchmarks.tables import Section, Table, number
from lightning_uncertainty import UncertaintyCallback, UncertaintyMixin
from lightning_uncertainty.engine import window
from lightning_uncertainty.trainer.packages import quiet_lightning

__all__ = ["reads_section", "training_section"]

LOGGERS: dict[str, Callable[[str], Any]] = {
    "none": lambda _: False,
    "CSV": lambda folder: CSVLogger(folder),
    "TensorBoard": lambda folder: TensorBoardLogger(folder),
}


class Plain(L.LightningModule):
    """The tiny model: one linear layer, a squared error per output; the losses are added."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.names, self.net = names_of(count), nn.Linear(8, count)
        self.began: list[float] = []

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """The raw losses by name."""
        x, y = batch
        return dict(zip(self.names, (self.net(x) - y).square().mean(0).unbind(), strict=True))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.began.append(time.perf_counter())
        return self.total(self.losses(batch))

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """What is minimised."""
        return sum(losses.values())  # type: ignore[return-value]

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


class Weighed(UncertaintyMixin, Plain):
    """With the plugin."""

    plugin = True

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.tasks = task_kinds(count)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return self.weigh(losses)


class ByHand(Plain):
    """What people write today: a parameter in the optimizer, and weights and losses given to ``self.log_dict``."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.log_var = nn.Parameter(torch.zeros(count))

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        weights = torch.exp(-self.log_var)
        total = (weights * torch.stack(list(losses.values())) + 0.5 * self.log_var).sum()
        values = weights.detach()
        self.log_dict({f"loss/{name}": loss.detach() for name, loss in losses.items()})
        self.log_dict({f"weight/{name}": values[index] for index, name in enumerate(self.names)})
        return total


class Snippet(Plain):
    """The lines that people copy: a parameter in the optimizer, nothing logged."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.weigh = Vectorised(count)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        total: Tensor = self.weigh(losses)
        return total


WARM_UP, ROUNDS = 10, 3
WAYS = {"plain": Plain, "plugin": Weighed, "snippet": Snippet, "by hand": ByHand}


class Batches:
    """Random ones, in memory; not a list, which Lightning would take for several loaders.

    Args:
        steps: how many.
        outputs: numbers to predict.
    """

    def __init__(self, steps: int, outputs: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._x = torch.randn(steps, 16, 8, generator=generator)
        self._y = torch.randn(steps, 16, outputs, generator=generator) + 1.0

    def __len__(self) -> int:
        return len(self._x)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self._x, self._y, strict=True)


def trainer(folder: str, logger: Any, every: int, steps: int, accelerator: str, callbacks: list[Any]) -> L.Trainer:
    """One that does nothing else."""
    return L.Trainer(
        callbacks=callbacks,
        max_steps=steps,
        max_epochs=-1,
        accelerator=accelerator,
        devices=1,
        logger=logger,
        log_every_n_steps=every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def callbacks_for(module: Any) -> list[Any]:
    """The plugin, without what it writes at the end of a fit; or nothing."""
    return [UncertaintyCallback(summary=False, report=False)] if getattr(module, "plugin", False) else []


def run(module: Any, data: Any, steps: int, logger: str, every: int, accelerator: str) -> float:
    """Seconds per step: the median of steps that do not log and of steps that do, each counted as often as it comes.

    A mean would be that of the interruptions by other processes.
    """
    with tempfile.TemporaryDirectory() as folder, quiet_lightning(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(folder, LOGGERS[logger](folder), every, steps, accelerator, callbacks_for(module)).fit(module, data)
    quiet, logging = [], []
    for step, (began, ended) in enumerate(pairwise(module.began)):
        if step >= WARM_UP:
            (quiet if (step + 1) % every else logging).append(ended - began)
    part = 1.0 / every
    return part * statistics.median(logging) + ((1.0 - part) * statistics.median(quiet) if quiet else 0.0)


def turns(
    modules: dict[str, Callable[[], Any]], data: Any, steps: int, logger: str, every: int, seconds: float, device: str
) -> dict[str, list[float]]:
    """Seconds per step by way, one number per round; who needs more than 20 ms, runs once."""
    accelerator = "gpu" if device == "cuda" else "cpu"
    found: dict[str, list[float]] = {name: [] for name in modules}
    began = time.perf_counter()
    while len(found["plain"]) < ROUNDS or time.perf_counter() - began < seconds:
        for name, make in modules.items():
            if not found[name] or found[name][0] < 0.02 or name == "plain":
                found[name].append(run(make(), data, steps, logger, every, accelerator))
    return found


def training_section(device: str, seconds: float = 190.0) -> Section:
    """Table 3."""
    section = Section(
        "3. In the Trainer",
        "Milliseconds per step between two calls of `training_step`, logging steps included (median of those that do "
        "not log and of those that do, each as often as it comes; then median over fits that take turns). *Plain*: "
        "`return sum(losses)`. *Plugin*: `self.weigh(losses)`; with `log_every_n_steps=1` it logs in every step. "
        "*Snippet*: an `nn.Parameter` in the optimizer, nothing logged. *By hand*: the same, and `self.log_dict` of "
        "all weights and losses in every step, as people write it today. Added: less plain, within each round.",
    )
    header = ["model, K, logger, every", *WAYS, *(f"{way} adds" for way in WAYS if way != "plain")]
    table = Table("Milliseconds per step", header)
    cells = [(k, logger, every) for k in (3, 30, 300) for logger in LOGGERS for every in (50, 1)]
    added = {}
    for count, logger, every in cells:
        steps = WARM_UP + 1 + {3: 300, 30: 100, 300: 50}[count]
        modules = {name: partial(cls, count) for name, cls in WAYS.items()}
        found = turns(modules, Batches(50, count), steps, logger, every, seconds / 20, device)
        added[count, logger, every] = _row(table, f"tiny, {count}, {logger}, {every}", found)
    for logger, every in (("none", 50), ("CSV", 50), ("CSV", 1)):
        _row(table, f"flights, 4, {logger}, {every}", _flights(logger, every, seconds / 20, device))
    section.tables = [table]
    for count, aim in ((3, 0.12), (30, 0.15)):
        worst = max(added[count, logger, 50]["plugin"] for logger in LOGGERS)
        section.judge(
            f"plugin less plain at most {aim} ms per step at K = {count}, logging every 50",
            result=f"at most {number(worst)} ms over the three loggers",
            met=worst <= aim,
            reason="The weighted sum and the step of tables 1 and 2 are all of it but for the hooks of the callback.",
        )
    most = max(added[cell]["plugin"] - added[cell]["snippet"] for cell in added if cell[2] == 50)
    section.judge(
        "never more than the snippet, logging every 50",
        result=f"at most {number(most)} ms more",
        met=most <= 0.0,
        reason="See table 10.",
    )
    plugin, by_hand = added[300, "CSV", 50]["plugin"], added[300, "CSV", 50]["by hand"]
    section.judge(
        "at most a hundredth of what `self.log_dict` adds at K = 300",
        result=f"{number(plugin)} ms against {number(by_hand)} ms (below 0: `sum` of 300 losses costs more than ours)",
        met=plugin <= by_hand / 100,
        reason="What is left is the walk over 300 losses, and 1,201 values in a step that logs.",
    )
    return section


def _row(table: Table, label: str, found: dict[str, list[float]]) -> dict[str, float]:
    """Add a row; return the milliseconds that each way adds."""
    median = {name: 1e3 * statistics.median(values) for name, values in found.items()}
    added = {
        name: 1e3 * statistics.median(a - b for a, b in zip(found[name], found["plain"], strict=False))
        for name in WAYS
        if name in found and name != "plain"
    }
    table.add(label, *(median.get(name, "-") for name in WAYS), *(added.get(n, "-") for n in WAYS if n != "plain"))
    return added


def _flights(logger: str, every: int, seconds: float, device: str) -> dict[str, list[float]]:
    from experiments.flights import data as flights
    from lightning_uncertainty.demo.model import MultiTaskNet

    global _FLIGHTS  # read once: it takes seconds
    if _FLIGHTS is None:
        _FLIGHTS = flights.make_data(60_000, batch_size=256)
    data = _FLIGHTS

    class Net(MultiTaskNet):
        began: list[float]
        plugin = True

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.began.append(time.perf_counter())
            return self.total(self.losses(batch))

        def total(self, losses: dict[str, Tensor]) -> Tensor:
            return self.weigh(losses)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=self.lr)

    class PlainNet(Net):
        total = Plain.total  # type: ignore[assignment]
        plugin = False

        def configure_callbacks(self) -> list[Any]:
            return []

    class ByHandNet(PlainNet):
        total = ByHand.total  # type: ignore[assignment]

    def make(cls: Any) -> Any:
        module = cls(flights.TASKS, num_inputs=data.train[0].shape[1], scales=data.label_scales())
        module.began, module.names = [], list(module.tasks)
        if cls is ByHandNet:
            module.log_var = nn.Parameter(torch.zeros(len(module.tasks)))
        return module

    modules = {
        name: partial(make, cls) for name, cls in {"plain": PlainNet, "plugin": Net, "by hand": ByHandNet}.items()
    }
    return turns(modules, data, WARM_UP + 101, logger, every, seconds, device)


_FLIGHTS: Any = None


class _Reads(L.Callback):
    """Host reads between the starts of two batches."""

    def __init__(self, counter: host_reads) -> None:
        self.counter, self.counts, self._before = counter, [], None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._before is not None:
            self.counts.append(self.counter.count - self._before)
        self._before = self.counter.count


def reads_section(device: str) -> Section:
    """Table 4."""
    section = Section(
        "4. Host synchronisation",
        "Reads per step that stop the host until a GPU has caught up: `_local_scalar_dense` (`.item()`, `float()`, `if "
        "tensor`), copies to the host and `Tensor.tolist`, counted by a dispatch mode, Lightning's own included. "
        "Logging every 10 of 60 steps, CSV logger, after the first 20 steps. The steps are taken as on other devices "
        "than a CPU, which knows its numbers for nothing.",
    )
    table = Table("Reads per step", ["way, K", "on a step that does not log", "on a step that logs"])
    found = {}
    for count in (3, 30):
        for name, cls in WAYS.items():
            counter = host_reads()
            watch = _Reads(counter)
            elsewhere = mock.patch.object(window, "NUMPY", False)
            with (
                tempfile.TemporaryDirectory() as folder,
                quiet_lightning(),
                warnings.catch_warnings(),
                counter,
                elsewhere,
            ):
                warnings.simplefilter("ignore")
                module, accelerator = cls(count), "gpu" if device == "cuda" else "cpu"
                callbacks = [watch, *callbacks_for(module)]
                trainer(folder, CSVLogger(folder), 10, 60, accelerator, callbacks).fit(module, Batches(60, count))
            quiet = [reads for step, reads in enumerate(watch.counts) if step >= 20 and (step + 1) % 10]
            logging = [reads for step, reads in enumerate(watch.counts) if step >= 20 and not (step + 1) % 10]
            found[name, count] = (max(quiet), max(logging))
            table.add(f"{name}, {count}", *found[name, count])
    section.tables = [table]
    ours = [found["plugin", count] for count in (3, 30)]
    plain = [found["plain", count] for count in (3, 30)]
    extra = [(a - c, b - d) for (a, b), (c, d) in zip(ours, plain, strict=True)]
    section.judge(
        "none on steps that do not log, one on steps that do",
        result=f"{extra[0][0]} and {extra[0][1]} more than plain",
        met=all(pair == (0, 1) for pair in extra),
    )
    return section
