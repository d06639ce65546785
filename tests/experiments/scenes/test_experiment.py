import csv
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from experiments.scenes.__main__ import main
from experiments.scenes.experiment import command, runner, settings
from experiments.scenes.experiment.cells import Cell, first_cells, grid_cell
from experiments.scenes.experiment.controls import control_cells
from experiments.scenes.experiment.gain import mean_relative_gain
from experiments.scenes.experiment.grid import expected_best, missing_neighbours
from experiments.scenes.experiment.results import Results
from experiments.scenes.experiment.runner import run_experiment
from experiments.scenes.experiment.settings import FULL, QUICK, Settings
from experiments.scenes.experiment.starts import first_step_within, start_paths
from experiments.scenes.experiment.store import Store
from experiments.scenes.experiment.table import control_rows, lr_table, markdown, table_rows, write_csv
from experiments.scenes.experiment.train import Outcome, _Scaled, train
from experiments.scenes.model.scene_model import LIKELIHOODS

TINY = Settings(seeds=2, steps=3, start_steps=4, train=4, test=2, batch_size=2, width=4, height=16, image_width=32)


def invented(cell):
    """An outcome that only depends on the cell, best for the weights 1 : 1/4 : 4."""
    weights = {task: weight if isinstance(weight, float) else 0.5 for task, weight in cell.weights.items()}
    i, d = (np.log(weights.get(task, best) / best) / np.log(4) for task, best in (("instance", 0.25), ("depth", 4.0)))
    distance = i**2 + d**2 + 0.1 * cell.seed
    metrics = {"semantic": 60.0 - distance, "instance": 2.0 + 0.1 * distance, "depth": 0.2 + 0.01 * distance}
    path = {"step": [1, 2], **{task: [1.0, 2.0] for task in ("semantic", "instance", "depth")}}
    return Outcome({task: metrics[task] for task in weights}, weights, path, seconds=1.0)


@pytest.fixture
def trained(monkeypatch):
    """The names of the cells that were trained, in their order; training itself is invented."""
    names = []

    def note(cell, _):
        names.append(cell.name)
        return invented(cell)

    monkeypatch.setattr(runner, "train", note)
    return names


# ------------------------------------------------------------------------------------------------ the runner


def test_no_cell_is_trained_twice(trained, tmp_path):
    first = run_experiment(Store.open(tmp_path, TINY), workers=1)
    assert len(trained) == len(set(trained)) == first.cells
    finished = list(trained)
    again = run_experiment(Store.open(tmp_path, TINY), workers=1)
    assert trained == finished
    assert again == first


def test_an_interrupted_experiment_goes_on_where_it_was(trained, tmp_path, monkeypatch):
    store = Store.open(tmp_path, TINY)
    note = runner.train

    def stop_at_seven(cell, settings):
        if len(trained) == 7:
            raise KeyboardInterrupt
        return note(cell, settings)

    monkeypatch.setattr(runner, "train", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(store, workers=1)
    assert len(list((tmp_path / "cells").glob("*.json"))) == 7
    monkeypatch.setattr(runner, "train", note)
    results = run_experiment(store, workers=1)
    assert len(trained) == len(set(trained)) == results.cells


def test_a_cell_of_other_weights_is_trained_again(tmp_path):
    store = Store.open(tmp_path, TINY)
    cell = Cell("retrained", 0, {"depth": 1.0})
    store.write(cell, invented(cell))
    assert store.read(cell) == invented(cell)
    assert store.read(Cell("retrained", 0, {"depth": 2.0})) is None


def test_cells_of_other_settings_are_refused(tmp_path):
    Store.open(tmp_path, TINY)
    with pytest.raises(ValueError, match="other settings than this run"):
        Store.open(tmp_path, replace(TINY, steps=5))
    Store.open(tmp_path, TINY)


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    store, cell = Store.open(tmp_path, TINY), Cell("learned", 0, {"depth": 1.0})
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.write(cell, invented(cell))
    assert store.read(cell) is None


@pytest.mark.parametrize("damage", ["", '{"cell": {"row"'], ids=["empty", "cut off"])
def test_a_damaged_cell_is_trained_again(damage, tmp_path):
    store, cell = Store.open(tmp_path, TINY), Cell("learned", 0, {"depth": 1.0})
    store.file(cell).write_text(damage)
    assert store.read(cell) is None


def test_damaged_settings_are_refused_like_others(tmp_path):
    Store.open(tmp_path, TINY)
    (tmp_path / "settings.json").write_text("")
    with pytest.raises(ValueError, match="other settings than this run"):
        Store.open(tmp_path, TINY)


def test_settings_survive_their_file():
    assert Settings.from_json(json.loads(json.dumps(TINY.to_json()))) == TINY


def test_the_report_counts_every_cell_once(trained, tmp_path):
    told = []
    results = run_experiment(Store.open(tmp_path, TINY), workers=1, report=lambda *news: told.append(news))
    assert told[-1][1:] == (results.cells, results.cells)
    assert sorted(name for name, *_ in told if name) == sorted(trained)


def test_two_processes_give_the_results_of_one(tmp_path):
    cells = [cell for cell in first_cells(0) if cell.row in ("learned", "single-depth", "never-learned")]
    outcomes = []
    for workers in (1, 2):
        store, results = Store.open(tmp_path / str(workers), TINY), Results(TINY)
        with runner._workers(workers) as executor:
            runner._run(cells, store, results, executor, lambda *_: None)
        outcomes.append({row: o[0] for row, o in results.outcomes.items()})
    for row in outcomes[0]:
        assert outcomes[0][row].metrics == outcomes[1][row].metrics
        assert outcomes[0][row].path == outcomes[1][row].path


# ------------------------------------------------------------------------------------------------ the rows


KILLED = """
import os, sys, time
from experiments.scenes.experiment.runner import _workers

if __name__ == "__main__":
    with _workers(2) as executor:
        first, second = executor.submit(os.getpid), executor.submit(os.getpid)
        print(first.result(), second.result(), flush=True)
        executor.submit(time.sleep, 600)
        time.sleep(600)
"""


def test_workers_end_when_the_command_is_killed(tmp_path):
    """At work or without any: neither stays behind and takes a core."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert len(process.stdout.readline().split()) == 2
        process.kill()
        process.communicate(timeout=60)  # the pipe ends when nobody holds it any more


INTERRUPTED = """
import os, signal, time
from experiments.scenes.experiment.runner import _workers

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a shell lacks
    with _workers(2) as executor:
        print(executor.submit(os.getpid).result(), executor.submit(os.getpid).result(), flush=True)
        executor.submit(time.sleep, 600)
        time.sleep(600)
"""


def test_ctrl_c_ends_the_command_and_its_workers_at_once(tmp_path):
    """A terminal sends it to all of them; a worker that finished its training first would let everyone wait."""
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([sys.executable, script], **options) as process:
        assert len(process.stdout.readline().split()) == 2
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=60)
        finally:  # nobody waits for what does not end
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGINT


def test_an_interrupted_command_says_so(monkeypatch, tmp_path, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_experiment", interrupt)
    assert main(["--quick", "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err.strip() == "Interrupted."


def test_rows_differ_in_their_weights_only():
    cells = {cell.row: cell for cell in first_cells(0)}
    learned = train(cells["learned"], TINY)
    frozen = train(cells["never-learned"], TINY)
    start = {task: weights[0] for task, weights in frozen.path.items() if task != "step"}
    assert all(set(frozen.path[task]) == {start[task]} for task in start)
    assert all(len(set(learned.path[task])) > 1 for task in start)
    assert learned.path["semantic"][0] == start["semantic"]
    assert train(grid_cell((-1, 1), 0, 4.0), TINY).weights == {"semantic": 1.0, "instance": 0.25, "depth": 4.0}
    assert train(cells["learned-semantic-depth"], TINY).weights.keys() == {"semantic", "depth"}


def test_training_the_weights_of_one_task_by_hand_does_not_depend_on_their_scale_under_adam():
    one, ten = (train(Cell("x", 0, {"depth": weight}), TINY).metrics["depth"] for weight in (1.0, 10.0))
    assert one == pytest.approx(ten, rel=1e-3)


# ------------------------------------------------------------------------------------------------ the controls


def test_a_constant_factor_changes_nothing_under_adam_but_a_growing_one_does():
    cell = grid_cell((0, 0), 0, 4.0)
    settings = replace(TINY, steps=6)
    plain, constant, growing = (
        train(replace(cell, total=total), settings).metrics["depth"]
        for total in (None, (7.0,), [4.0**step for step in range(6)])
    )
    assert constant == pytest.approx(plain, rel=1e-3)
    assert growing != pytest.approx(plain, rel=1e-3)


def test_factors_sum_to_the_total_of_their_step(monkeypatch):
    seen = []
    monkeypatch.setattr(_Scaled, "weigh", _scaled_and_noted(_Scaled.weigh, seen))
    train(Cell("x", 0, dict(LIKELIHOODS), total=(1.0, 5.0)), replace(TINY, steps=4))
    assert seen == pytest.approx([1.0, 1.0, 5.0, 5.0])


def _scaled_and_noted(weigh, seen):
    def noted(self, losses, **options):
        total = weigh(self, losses, **options)
        factors = torch.autograd.grad(total, list(losses.values()), retain_graph=True)
        seen.append(float(sum(factors)))
        return total

    return noted


@pytest.mark.usefixtures("trained")
def test_controls_keep_the_weights_and_change_one_thing(tmp_path):
    results = run_experiment(Store.open(tmp_path, TINY), workers=1)
    cells = {cell.name: cell for cell in control_cells(results)}
    assert cells["grid_-1_+1-of-learned-sum.seed1"].total == [3.0, 6.0]  # three tasks of 1, then of 2
    assert cells["learned-of-constant-sum.seed0"].total == (1.0,)
    assert cells["grid_-1_+1-lr-2.seed0"] == replace(grid_cell((-1, 1), 0, 4.0), row="grid_-1_+1-lr-2", lr_factor=2.0)
    assert len(cells) == 2 * 9
    assert len(control_rows(results)) == 6
    gain = np.mean(results.gains("learned-lr-0.5"))
    assert f"| **learned weights** | {gain:+.1f} ± " in lr_table(results)


# ------------------------------------------------------------------------------------------------ the grid


@pytest.mark.usefixtures("trained")
def test_the_grid_is_widened_until_its_best_point_is_inside(tmp_path):
    results = run_experiment(Store.open(tmp_path, TINY), workers=1)
    best = max(results.grid, key=results.grid.get)
    assert best == (-1, 1)  # a corner of the first nine
    assert len(results.grid) == 9 + 5
    assert all((best[0] + dx, best[1] + dy) in results.grid for dx, dy in itertools.product((-1, 0, 1), repeat=2))


def test_a_best_point_inside_needs_no_more():
    gains = {point: -float(point[0] ** 2 + point[1] ** 2) for point in itertools.product((-1, 0, 1), repeat=2)}
    assert missing_neighbours(gains) == []
    gains[1, 0] = 1.0
    assert missing_neighbours(gains) == [(2, -1), (2, 0), (2, 1)]


def test_the_expected_best_is_the_mean_over_all_choices():
    gains = [3.0, -1.0, 2.0, 2.0, 7.5, 0.0]
    by_hand = [np.mean([max(c) for c in itertools.combinations(gains, n)]) for n in range(1, 7)]
    assert expected_best(gains) == pytest.approx(by_hand)


# ------------------------------------------------------------------------------------------------ the table


def test_the_gain_is_the_mean_of_relative_changes_with_the_sign_of_better():
    single = {"semantic": 60.0, "instance": 4.0, "depth": 0.5}
    assert mean_relative_gain({"semantic": 63.0, "instance": 3.0, "depth": 0.6}, single) == pytest.approx(
        (5 + 25 - 20) / 3
    )
    assert mean_relative_gain(single, single) == 0.0


def test_the_gain_of_the_article_s_own_table():
    single = {"semantic": 59.4, "instance": 4.61, "depth": 0.640}
    learned = mean_relative_gain({"semantic": 63.4, "instance": 3.50, "depth": 0.522}, single)
    equal = mean_relative_gain({"semantic": 50.1, "instance": 3.79, "depth": 0.592}, single)
    assert (learned, equal) == pytest.approx((16.4, 3.2), abs=0.1)


@pytest.mark.usefixtures("trained")
def test_the_table_is_what_numpy_makes_of_the_outcomes(tmp_path):
    results = run_experiment(Store.open(tmp_path, TINY), workers=1)
    rows = table_rows(results)
    with write_csv(rows, tmp_path / "table.csv").open(encoding="utf-8") as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    cells = {path.stem: json.loads(path.read_text())["outcome"] for path in (tmp_path / "cells").glob("*.json")}
    assert set(lines) == {row.name for row in rows}
    for name, line in lines.items():
        outcomes = [cells[f"{name}.seed{seed}"] for seed in (0, 1)]
        gains = []
        for seed, outcome in enumerate(outcomes):
            single = {t: cells[f"single-{t}.seed{seed}"]["metrics"][t] for t in outcome["metrics"]}
            signs = {"semantic": 100.0, "instance": -100.0, "depth": -100.0}
            gains.append(np.mean([signs[t] * (v / single[t] - 1) for t, v in outcome["metrics"].items()]))
        assert float(line["gain [%]: mean"]) == pytest.approx(np.mean(gains), abs=1e-9)
        assert float(line["gain [%]: sd"]) == pytest.approx(np.std(gains, ddof=1), abs=1e-9)
        for task, unit in (("semantic", "%"), ("instance", "px"), ("depth", "px")):
            if task not in outcomes[0]["metrics"]:
                assert line[f"{task} [{unit}]: mean"] == line[f"weight of {task}"] == ""
                continue
            values = [outcome["metrics"][task] for outcome in outcomes]
            assert float(line[f"{task} [{unit}]: mean"]) == pytest.approx(np.mean(values))
            assert float(line[f"{task} [{unit}]: sd"]) == pytest.approx(np.std(values, ddof=1))
    runs = {name: int(line["runs"]) for name, line in lines.items()}
    assert runs["learned"] == runs["grid_+0_+0"] == 1
    assert runs["retrained"] == 2
    assert runs["grid_-1_+1"] == len(results.grid) == 14


@pytest.mark.usefixtures("trained")
def test_the_page_has_a_line_per_row_with_mean_and_deviation(tmp_path):
    results = run_experiment(Store.open(tmp_path, TINY), workers=1)
    lines = markdown(table_rows(results)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 11
    learned = [outcome.metrics["instance"] for _, outcome in sorted(results.outcomes["learned"].items())]
    assert f"{np.mean(learned):.3f} ± {np.std(learned, ddof=1):.3f}" in lines[-1]


# ------------------------------------------------------------------------------------------------ the starts


@pytest.mark.parametrize(
    ("values", "step"),
    [([1.0, 1.0, 1.0], 10), ([2.0, 1.04, 1.0], 20), ([1.0, 1.06, 1.0], 30), ([1.0, 1.0, 1.2], None)],
    ids=["always", "from the second", "it left once", "never"],
)
def test_the_first_step_within_tolerance_is_the_one_after_which_it_stays(values, step):
    assert first_step_within([10, 20, 30], values, [1.0, 1.0, 1.0]) == step


def test_weights_start_where_they_are_told_to_and_from_the_data():
    results = Results(TINY)
    for cell in runner.start_cells(TINY.start_steps, (-2.0, 5.0)):
        results.add(cell, train(cell, TINY))
    paths = {path.title: path for path in start_paths(results)}
    assert set(paths) == {"from the data", "s = -2", "s = 5"}
    # The first is seen after one step of 1e-2 towards the others.
    assert np.log(paths["s = -2"].weights["semantic"][0]) == pytest.approx(2.0 - 0.01, abs=1e-3)
    assert np.log(paths["s = 5"].weights["depth"][0]) == pytest.approx(-2.5 + 0.005, abs=1e-3)
    assert set(paths["from the data"].met.values()) == {1}


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_writes_table_figures_and_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings, "QUICK", TINY)
    monkeypatch.setattr("experiments.scenes.experiment.report.check_noise", command_noise)
    assert main(["--quick", "--seeds", "1", "--workers", "1", "--output", str(tmp_path)]) == 0
    assert "README.md" in capsys.readouterr().out.replace("\n", "")
    pictures = {"grid.png", "effort.png", "starts.png", "noise.png", "scenes.png", "predictions.png"}
    assert pictures | {"README.md", "table.csv", "grid.csv", "runs.csv", "settings.json", "cells"} == {
        p.name for p in tmp_path.iterdir()
    }
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert all(f"]({name})" in page for name in pictures)
    assert "`python -m experiments.scenes --quick --seeds 1`" in page


def command_noise():
    from experiments.scenes.noise_check import NoiseResult

    return [NoiseResult("depth", "laplace", 0.3, 0.24, 0.25), NoiseResult("semantic", "softmax", 0.1, 0.5, 0.5)]


def test_a_folder_of_other_settings_gets_one_line(tmp_path, capsys):
    Store.open(tmp_path, TINY)
    assert main(["--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "has other settings than this run" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--seeds", "--steps", "--workers"])
def test_a_number_below_one_gets_one_line(option, tmp_path, capsys):
    assert main([option, "0", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert option in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("trained")
def test_the_bar_says_how_much_is_left(tmp_path):
    console = Console(force_terminal=True, width=120, record=True, file=(tmp_path / "out.txt").open("w"))
    results = command._run(Store.open(tmp_path, TINY), 1, console)
    assert f"{results.cells}/{results.cells}" in console.export_text()
    console.file.close()


def test_quick_is_smaller_than_full_in_every_number_that_costs_time():
    smaller = ("seeds", "steps", "start_steps", "train", "test")
    assert all(getattr(QUICK, name) < getattr(FULL, name) for name in smaller)
    assert FULL.seeds >= 3
