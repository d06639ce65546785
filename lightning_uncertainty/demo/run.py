"""The demo itself: three runs of the same network, seed and budget."""

from __future__ import annotations

import time
from dataclasses import dataclass

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_uncertainty.demo.callbacks import BarAdvance
from lightning_uncertainty.demo.comparison import Comparison, Run
from lightning_uncertainty.demo.datamodule import TableDataModule
from lightning_uncertainty.demo.folder import OutputFolder
from lightning_uncertainty.demo.model import MultiTaskNet
from lightning_uncertainty.demo.options import Options
from lightning_uncertainty.demo.quiet import quiet_lightning
from lightning_uncertainty.reporting.figures import save_overview
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.page import write_page
from lightning_uncertainty.trainer.callback import UncertaintyCallback

__all__ = ["LEARNED", "RUNS", "Result", "prepare", "run_demo", "train"]


NATURAL = Run("natural", "plain sum, natural units", learned=False, standardised=False)
STANDARDISED = Run("standardised", "plain sum, standardised", learned=False, standardised=True)
LEARNED = Run("learned", "learned weights, natural units", learned=True, standardised=False)
RUNS = (NATURAL, STANDARDISED, LEARNED)
"""In the order of the table: changes are against the first."""

LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        comparison: the metrics of all runs.
        history: of the weights in the run that learned them.
        folder: what was written.
        seconds: that the three runs took.
    """

    comparison: Comparison
    history: History
    folder: OutputFolder
    seconds: float


def run_demo(options: Options, *, console: Console) -> Result:
    """Train three times, and write logs, checkpoints, the table, the picture and the page.

    Args:
        options: the choices of the user.
        console: for the progress bar.

    Raises:
        MissingExtraError: if the package that holds the data is not installed.
        OSError: if the folder cannot be written to.
    """
    folder = OutputFolder.create(options.output, options.data)
    datamodule = prepare(options)
    _announce(options, datamodule, console)
    begin = time.perf_counter()
    metrics, history = _train_all(options, datamodule, folder, console)
    seconds = time.perf_counter() - begin
    comparison = Comparison(options.data_set.targets, RUNS, metrics)
    comparison.write_csv(folder.comparison)
    title = f"{options.data}: {LEARNED.title}"
    save_overview(folder.picture, history, title=title)
    write_page(folder.page, history, title=title)
    return Result(comparison, history, folder, seconds)


def prepare(options: Options) -> TableDataModule:
    """The chosen rows, split and standardised."""
    data = options.data_set
    table = data.read()
    if options.rows is not None:
        table = table.sample(options.rows, options.seed)
    return TableDataModule(table, data.targets, batch_size=data.batch_size, seed=options.seed)


def _announce(options: Options, datamodule: TableDataModule, console: Console) -> None:
    train, test = len(datamodule.train_table.inputs), len(datamodule.test_table.inputs)
    heads = "plain heads in natural units" if options.plain_heads else "heads scaled to the training labels"
    console.print(
        f"{options.data}: {train:,} rows to train on, {test:,} held out, {datamodule.num_inputs} inputs, "
        f"{len(datamodule.targets)} tasks; {len(RUNS)} runs of {options.epochs_to_run} epochs, "
        f"seed {options.seed}, {heads}.",
        highlight=False,
    )


def _train_all(
    options: Options, datamodule: TableDataModule, folder: OutputFolder, console: Console
) -> tuple[dict[str, dict[str, float]], History]:
    """The metrics of every run, and the history of the last one, which learns."""
    steps = options.epochs_to_run * len(datamodule.train_dataloader())
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    metrics = {}
    with quiet_lightning(), Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("", total=len(RUNS) * steps)
        for number, run in enumerate(RUNS, start=1):
            progress.update(bar, description=f"run {number} of {len(RUNS)}: {run.title}")
            uncertainty = UncertaintyCallback(summary=False, report=False)  # said and written when all have run
            callbacks = [uncertainty, BarAdvance(progress, bar)]
            metrics[run.name] = train(run, options, datamodule, folder, callbacks)
    return metrics, uncertainty.history


def train(
    run: Run, options: Options, datamodule: TableDataModule, folder: OutputFolder, callbacks: list[L.Callback]
) -> dict[str, float]:
    """Train once from the seed, and test: the metrics by task."""
    L.seed_everything(options.seed, workers=True, verbose=False)
    model = MultiTaskNet(
        data=options.data,
        num_inputs=datamodule.num_inputs,
        learned=run.learned,
        output_scales=None if options.plain_heads and not run.standardised else datamodule.label_scales(),
        standardised=run.standardised,
    )
    trainer = L.Trainer(
        accelerator="cpu",  # for networks this small it is the fastest, and the numbers are the same everywhere
        max_epochs=options.epochs_to_run,
        logger=folder.loggers(run.name),
        log_every_n_steps=min(LOG_EVERY, len(datamodule.train_dataloader())),
        callbacks=callbacks,
        enable_checkpointing=False,  # one checkpoint, at the end
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule)
    trainer.save_checkpoint(folder.checkpoint(run.name))
    (tested,) = trainer.test(model, datamodule, verbose=False)
    return {name: tested[f"test/{name}"] for name in model.targets}
