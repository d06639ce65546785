"""All cells of the experiment, on several processes, whatever is not there yet."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager

import torch

from experiments.scenes.experiment.cells import (
    FIRST_GRID,
    Cell,
    GridPoint,
    first_cells,
    grid_cell,
    retrained_cell,
    start_cells,
)
from experiments.scenes.experiment.controls import LEAST_CONTROLS, control_cells
from experiments.scenes.experiment.grid import missing_neighbours
from experiments.scenes.experiment.results import Results
from experiments.scenes.experiment.settings import Settings
from experiments.scenes.experiment.store import Store
from experiments.scenes.experiment.train import Outcome, train

__all__ = ["run_experiment"]

Report = Callable[[str, int, int], None]
"""Told the last finished cell, how many are finished, and how many there are as far as is known."""


def run_experiment(store: Store, *, workers: int, report: Report = lambda *_: None) -> Results:
    """Run every cell that is not in the store, widen the grid until its best point is inside, and give all results.

    Args:
        store: where cells are read from and written to.
        workers: processes, of one thread each; 1 runs them here.
        report: is told after each cell.
    """
    settings = store.settings
    results = Results(settings)
    with _workers(workers) as executor:
        cells = [cell for seed in range(settings.seeds) for cell in first_cells(seed)]
        # The comparison that matters most comes first.
        cells += [grid_cell((0, 0), seed, settings.grid_factor) for seed in range(settings.seeds)]
        _run(cells, store, results, executor, report)
        cells = [retrained_cell(seed, results.outcome("learned", seed).weights) for seed in range(settings.seeds)]
        fresh: Sequence[GridPoint] = FIRST_GRID
        while fresh:
            cells += [grid_cell(point, seed, settings.grid_factor) for point in fresh for seed in range(settings.seeds)]
            _run(cells, store, results, executor, report)
            results.grid.update({point: results.gain(grid_cell(point, 0, settings.grid_factor).row) for point in fresh})
            cells, fresh = [], missing_neighbours(results.grid)
        _run([*control_cells(results), *start_cells(settings.start_steps)], store, results, executor, report)
    return results


def _run(cells: Iterable[Cell], store: Store, results: Results, executor: Executor | None, report: Report) -> None:
    waiting = []
    for cell in cells:
        if cell.seed in results.outcomes.get(cell.row, {}):
            continue  # equal weights are a point of the grid
        results.cells += 1
        if (known := store.read(cell)) is None:
            waiting.append(cell)
        else:
            results.add(cell, known)
    done = results.cells - len(waiting)
    total = max(results.cells, _least_cells(store.settings))
    report("", done, total)
    for cell, outcome in _outcomes(waiting, store, executor):
        results.add(cell, outcome)
        done += 1
        report(cell.name, done, total)


def _least_cells(settings: Settings) -> int:
    """How many there are if the grid need not be widened, and equal weights are its best point."""
    of_a_seed = len([*first_cells(0), *FIRST_GRID]) + 1 + LEAST_CONTROLS
    return settings.seeds * of_a_seed + len([*start_cells(settings.start_steps)])


def _outcomes(cells: Sequence[Cell], store: Store, executor: Executor | None) -> Iterator[tuple[Cell, Outcome]]:
    if executor is None:
        for cell in cells:
            yield cell, _train_and_keep(cell, store)
        return
    futures = {executor.submit(_train_and_keep, cell, store): cell for cell in cells}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for future in futures:
            future.cancel()


def _train_and_keep(cell: Cell, store: Store) -> Outcome:
    outcome = train(cell, store.settings)
    store.write(cell, outcome)
    return outcome


@contextmanager
def _workers(count: int) -> Iterator[Executor | None]:
    if count == 1:
        yield None
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=_begin_worker) as executor:
        try:
            yield executor
        except BaseException:
            # Nobody waits for trainings that are under way: what was finished is on disk.
            for worker in set(multiprocessing.active_children()) - others:
                worker.kill()
            raise


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the command ends its workers
    torch.set_num_threads(1)
    # A worker whose parent was killed would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
