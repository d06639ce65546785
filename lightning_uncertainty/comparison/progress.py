"""How far a comparison has come, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lightning_uncertainty._warnings import is_main_rank
from lightning_uncertainty.trainer.packages import CallbackBase

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "NoBar", "RunAdvance", "progress_bar"]


class NoBar:
    """Shows nothing."""

    def begin(self, run: str) -> None:
        """A run starts."""

    def reach(self, fraction: float) -> None:
        """It has come so far, 0 to 1."""

    def end(self) -> None:
        """It is done."""


class Bar(NoBar):
    """A rich bar over all runs.

    Args:
        progress: the display.
        total: how many runs there are.
        done: how many of them need not be run.
    """

    def __init__(self, progress: Progress, total: int, done: int) -> None:
        self._progress, self._done, self._total = progress, done, total
        self._task: TaskID = progress.add_task("", total=total - done)
        self._before = done

    def begin(self, run: str) -> None:
        self._progress.update(self._task, description=f"run {self._done + 1} of {self._total}: {run}")

    def reach(self, fraction: float) -> None:
        self._progress.update(self._task, completed=self._done - self._before + min(fraction, 1.0))

    def end(self) -> None:
        self._done += 1
        self.reach(0.0)


class RunAdvance(CallbackBase):
    """Tells a bar after each batch how far its run has come; a run without a known end moves it at its end only."""

    def __init__(self, bar: NoBar) -> None:
        self.bar = bar

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        fractions = [0.0]
        if trainer.max_steps is not None and trainer.max_steps > 0:
            fractions.append(trainer.global_step / trainer.max_steps)
        if trainer.max_epochs is not None and trainer.max_epochs > 0 and trainer.num_training_batches > 0:
            in_epoch = (batch_idx + 1) / trainer.num_training_batches  # 0 where the number is infinite
            fractions.append((trainer.current_epoch + in_epoch) / trainer.max_epochs)
        self.bar.reach(max(fractions))


@contextmanager
def progress_bar(total: int, done: int, *, wanted: bool | None) -> Iterator[NoBar]:
    """A bar with the time left.

    Args:
        total: how many runs there are.
        done: how many of them need not be run.
        wanted: whether to show it; None means on a terminal, if rich is installed.
    """
    if wanted is False or done == total or not is_main_rank() or find_spec("rich") is None:
        yield NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if wanted is None and not console.is_terminal:
        yield NoBar()
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        yield Bar(progress, total, done)
