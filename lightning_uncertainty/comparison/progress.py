"""The progress of a comparison on a terminal: one bar over all runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lightning_uncertainty._warnings import is_main_rank
from lightning_uncertainty.trainer.packages import CallbackBase

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from rich.progress import Progress

__all__ = ["Bar", "RunAdvance", "progress_bar"]


class Bar:
    """A rich bar over ``total`` runs, of which ``done`` need not be trained; None as display shows nothing."""

    def __init__(self, progress: Progress | None = None, total: int = 0, done: int = 0) -> None:
        self._progress, self._total = progress, total
        self._begun, self._ended = done, 0
        self._under_way: dict[str, float] = {}
        self._task = None if progress is None else progress.add_task("", total=total - done)

    def begin(self, run: str) -> None:
        """Say that a run starts."""
        self._begun += 1
        self._under_way[run] = 0.0
        self._update(description=f"run {self._begun} of {self._total}: {run}")

    def reach(self, run: str, fraction: float) -> None:
        """Say how far a run has come, 0 to 1."""
        self._under_way[run] = min(fraction, 1.0)
        self._update(completed=self._ended + sum(self._under_way.values()))

    def end(self, run: str) -> None:
        """Say that a run is done."""
        del self._under_way[run]
        self._ended += 1
        self._update(completed=self._ended + sum(self._under_way.values()))

    def _update(self, **fields: Any) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, **fields)


class RunAdvance(CallbackBase):
    """A callback that tells a function how far its run has come, 0 to 1, at each thousandth; 0 without a known end."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self.tell, self._told = tell, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        fractions = [0.0]
        if trainer.max_steps is not None and trainer.max_steps > 0:
            fractions.append(trainer.global_step / trainer.max_steps)
        if trainer.max_epochs is not None and trainer.max_epochs > 0 and trainer.num_training_batches > 0:
            in_epoch = (batch_idx + 1) / trainer.num_training_batches  # 0 where the number is infinite
            fractions.append((trainer.current_epoch + in_epoch) / trainer.max_epochs)
        if max(fractions) >= self._told + 0.001:  # the bar shows no more, and another process may have to hear of it
            self._told = max(fractions)
            self.tell(self._told)


@contextmanager
def progress_bar(total: int, done: int, *, wanted: bool | None) -> Iterator[Bar]:
    """Show a bar with the time left; ``wanted`` says whether, None if on a terminal and with rich."""
    if wanted is False or done == total or not is_main_rank() or find_spec("rich") is None:
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if wanted is None and not console.is_terminal:
        yield Bar()
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        yield Bar(progress, total, done)
