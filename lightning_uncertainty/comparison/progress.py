"""The progress of a comparison on a terminal: one bar over all runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_uncertainty._warnings import is_main_rank
from lightning_uncertainty.trainer.packages import CallbackBase

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class Bar:
    """One bar over ``total`` runs, of which ``done`` need not be trained; ``update`` changes what the screen shows."""

    def __init__(self, total: int, done: int, update: Callable[..., None] = lambda **_: None) -> None:
        self._total, self._done, self._update = total, done, update
        self._reached: dict[str, float] = {}

    def begin(self, run: str) -> None:
        """Say that a run starts."""
        self._reached[run] = 0.0
        self._update(description=f"run {self._done + len(self._reached)} of {self._total}: {run}")

    def reach(self, run: str, fraction: float = 1.0) -> None:
        """Say how far a run has come, 0 to 1; by default that it is done."""
        self._reached[run] = min(fraction, 1.0)
        self._update(completed=sum(self._reached.values()))


class RunAdvance(CallbackBase):
    """A callback that tells a function how far its run has come, 0 to 1, at each thousandth; nothing without an end."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self.tell, self._told = tell, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epochs = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        # The end is -1 where there is none, and a number of batches may be infinite.
        fraction = max(trainer.global_step / trainer.max_steps, epochs / (trainer.max_epochs or -1))
        if fraction >= self._told + 0.001:  # the bar shows no more, and another process may have to hear of it
            self._told = fraction
            self.tell(fraction)


@contextmanager
def progress_bar(total: int, done: int, *, wanted: bool | None) -> Iterator[Bar]:
    """Show a bar with the time left; ``wanted`` says whether, None if on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not is_main_rank() or not (console.is_terminal if wanted is None else wanted):
        yield Bar(total, done)
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        yield Bar(total, done, partial(progress.update, progress.add_task("", total=total - done)))
