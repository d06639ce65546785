import csv
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.scenes import arms, settings
from experiments.scenes.__main__ import main
from experiments.scenes.arms import LR_FACTORS, Laboratory, first_arms, grid_weights, run_experiment
from experiments.scenes.data.batch import TASKS
from experiments.scenes.model.scene_model import LIKELIHOODS
from experiments.scenes.results import Results, expected_best, first_step_within, gain_over_singles, missing_neighbours
from experiments.scenes.settings import FULL, QUICK, ScaledModel, Settings
from experiments.scenes.table import control_rows, lr_table, main_rows, rows_csv, rows_table
from lightning_uncertainty.comparison import FinishedRun
from tests.workers.processes import ROOT

TINY = Settings(seeds=2, steps=3, start_steps=4, train=4, test=2, batch_size=2, width=4, size=(16, 32))
EQUAL = dict.fromkeys(TASKS, 1.0)


def factors_of(arm, seed):
    """What an invented run with that arm ends with; 0 for tasks that are not trained."""
    arm = arm(seed) if callable(arm) else arm
    specs = arm.get("tasks", arm) if "freeze_after" not in arm and "init" not in arm else LIKELIHOODS
    return {task: spec if isinstance(spec, float) else 0.5 for task, spec in specs.items()}


def invented(name, arm, seed):
    """A run whose metrics only depend on its weights, best for the weights 1 : 1/4 : 4."""
    factors = factors_of(arm, seed)
    i, d = (np.log((factors[t] or best) / best) / np.log(4) for t, best in (("instance", 0.25), ("depth", 4.0)))
    distance = i**2 + d**2 + 0.1 * seed
    metrics = {"semantic": 0.60 - 0.01 * distance, "instance": 2.0 + 0.1 * distance, "depth": 0.2 + 0.01 * distance}
    return FinishedRun(name, seed, {f"test/{t}": v for t, v in metrics.items()}, 1.0, {}, factors, factors)


@pytest.fixture(scope="module", autouse=True)
def _pages():
    """No run writes its own page and picture, which takes more than its training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_uncertainty.trainer.run_report.build_page", lambda *_: "")
        patch.setattr("lightning_uncertainty.trainer.run_report.find_spec", lambda _: None)
        yield


@pytest.fixture
def asked(monkeypatch):
    """What was asked of ``compare``, which invents its runs."""
    calls = []

    def compare(make_module, _, *, arms, seeds, **options):
        arms = {name: arm for name, arm in arms.items() if arm is not None}
        calls.append(SimpleNamespace(make=make_module, arms=arms, seeds=list(seeds), **options))
        return SimpleNamespace(runs=[invented(name, arm, seed) for name, arm in arms.items() for seed in seeds])

    monkeypatch.setattr(arms, "compare", compare)
    monkeypatch.setattr(Results, "path", lambda *_: {"step": [1, 2], **{task: [1.0, 2.0] for task in TASKS}})
    return calls


@pytest.fixture
def results(asked, tmp_path):
    assert not asked
    return run_experiment(Laboratory(TINY, tmp_path))


def train(laboratory, arm=None, *, seeds=(0,), **options):
    """Train one arm for real, and give its results."""
    found = Results(laboratory.settings)
    laboratory.run(found, "alone", {"alone": EQUAL if arm is None else arm}, seeds=seeds, **options)
    return found


# ------------------------------------------------------------------------------------------------ the rows


def test_rows_differ_in_their_weights_only(tmp_path):
    found, chosen = Results(TINY), first_arms()
    names = "learned", "never-learned", "single-depth", "learned-semantic-depth"
    grid = {"grid_-1_1": grid_weights((-1, 1), 4.0)}
    Laboratory(TINY, tmp_path).run(found, "table", {**{name: chosen[name] for name in names}, **grid}, seeds=[0])
    learned, frozen = found.path("learned", 0), found.path("never-learned", 0)
    assert all(len(set(frozen[task])) == 1 for task in TASKS)
    assert all(len(set(learned[task])) > 1 for task in TASKS)
    runs = {row: found.runs[row, 0] for row in found.rows}
    assert found.factors(runs["grid_-1_1"]) == {"semantic": 1.0, "instance": 0.25, "depth": 4.0}
    assert found.factors(runs["learned-semantic-depth"]).keys() == {"semantic", "depth"}
    assert found.metrics(runs["single-depth"]).keys() == {"depth"}
    starts = [run.start for run in runs.values()]
    assert all(start == starts[0] for start in starts)


def test_the_scenes_depend_on_the_seed(tmp_path):
    runs = train(Laboratory(TINY, tmp_path), seeds=(0, 1)).of("alone")
    assert runs[0].start["batch 0"] != runs[1].start["batch 0"]
    torch.manual_seed(5)
    assert settings.make_data(TINY).seed == 5


def test_training_the_weights_of_one_task_by_hand_does_not_depend_on_their_scale_under_adam(tmp_path):
    arms_of_depth = [{**dict.fromkeys(TASKS, 0.0), "depth": weight} for weight in (1.0, 10.0)]
    one, ten = (train(Laboratory(TINY, tmp_path), arm).runs["alone", 0] for arm in arms_of_depth)
    assert one.metrics["test/depth"] == pytest.approx(ten.metrics["test/depth"], rel=1e-3)


# ------------------------------------------------------------------------------------------------ the controls


def test_a_constant_factor_changes_nothing_under_adam_but_a_growing_one_does(tmp_path):
    laboratory = Laboratory(replace(TINY, steps=6), tmp_path)
    plain, constant, growing = (
        train(laboratory, total=total).runs["alone", 0].metrics["test/depth"]
        for total in (None, (7.0,), [4.0**step for step in range(6)])
    )
    assert constant == pytest.approx(plain, rel=1e-3)
    assert growing != pytest.approx(plain, rel=1e-3)


def test_factors_sum_to_the_total_of_their_step(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(ScaledModel, "weigh", _scaled_and_noted(ScaledModel.weigh, seen))
    learned = {"tasks": dict(LIKELIHOODS)}
    train(Laboratory(replace(TINY, steps=4), tmp_path), learned, total=(1.0, 5.0))
    assert seen[-4:] == pytest.approx([1.0, 1.0, 5.0, 5.0])  # the rehearsal of one step comes before


def _scaled_and_noted(weigh, seen):
    def noted(self, losses, **options):
        total = weigh(self, losses, **options)
        factors = torch.autograd.grad(total, list(losses.values()), retain_graph=True)
        seen.append(float(sum(factors)))
        return total

    return noted


def test_controls_keep_the_weights_and_change_one_thing(results, asked):
    by_hand = {"equal": EQUAL, "grid_-1_1": {"semantic": 1.0, "instance": 0.25, "depth": 4.0}}
    learned = {"learned": {"tasks": dict(LIKELIHOODS)}}
    calls = {call.folder.name: call for call in asked}
    assert calls["learned-sum-1"].arms == by_hand
    assert calls["learned-sum-1"].seeds == [1]
    assert calls["learned-sum-1"].make.keywords == {"total": [3.0, 6.0]}  # three tasks of 1, then of 2
    assert calls["constant-sum"].arms == learned
    assert calls["constant-sum"].make.keywords == {"total": (1.0,)}
    assert calls["lr-2"].arms == {**learned, **by_hand}
    assert calls["lr-2"].make.keywords == {"lr_factor": 2.0}
    assert (
        sum(len(call.arms) * len(call.seeds) for name, call in calls.items() if name not in ("table", "starts")) == 18
    )
    assert len(control_rows(results)) == 6
    gain = np.mean(results.gains("learned-lr-0.5"))
    assert f"| **learned weights** | {gain:+.1f} ± " in lr_table(results).markdown()
    assert set(LR_FACTORS) == {0.5, 2.0}


def test_the_learning_rate_of_a_control_is_a_part_of_that_of_the_table():
    assert settings.make_model(TINY, lr_factor=0.5).lr == 0.5 * settings.make_model(TINY).lr == 0.5 * TINY.lr


def test_learned_weights_are_trained_again_as_fixed_ones_with_the_seed_that_learned_them(results, asked):
    retrained = next(call.arms["retrained"] for call in asked if "retrained" in call.arms)
    assert [retrained(seed) for seed in (0, 1)] == [results.runs["learned", seed].factors for seed in (0, 1)]


# ------------------------------------------------------------------------------------------------ the grid


def test_the_grid_is_widened_until_its_best_point_is_inside(results):
    best = max(results.grid, key=results.grid.get)
    assert best == results.best_point == (-1, 1)  # a corner of the first nine
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
    assert gain_over_singles({"semantic": 63.0, "instance": 3.0, "depth": 0.6}, single) == pytest.approx(
        (5 + 25 - 20) / 3
    )
    assert gain_over_singles(single, single) == 0.0


def test_the_gain_of_the_article_s_own_table():
    single = {"semantic": 59.4, "instance": 4.61, "depth": 0.640}
    learned = gain_over_singles({"semantic": 63.4, "instance": 3.50, "depth": 0.522}, single)
    equal = gain_over_singles({"semantic": 50.1, "instance": 3.79, "depth": 0.592}, single)
    assert (learned, equal) == pytest.approx((16.4, 3.2), abs=0.1)


def test_the_table_is_what_numpy_makes_of_the_runs(results):
    rows = main_rows(results)
    lines = {line["row"]: line for line in csv.DictReader(rows_csv(rows).splitlines())}
    assert set(lines) == {row.name for row in rows}
    units = {"semantic": "%", "instance": "px", "depth": "px"}
    measured = {
        key: {t: {"semantic": 100.0}.get(t, 1.0) * run.metrics[f"test/{t}"] for t in TASKS if run.factors[t]}
        for key, run in results.runs.items()
    }
    for name, line in lines.items():
        values = [measured[name, seed] for seed in (0, 1)]
        gains = []
        for seed, metrics in enumerate(values):
            single = {t: measured[f"single-{t}", seed][t] for t in metrics}
            signs = {"semantic": 100.0, "instance": -100.0, "depth": -100.0}
            gains.append(np.mean([signs[t] * (v / single[t] - 1) for t, v in metrics.items()]))
        assert float(line["gain [%]: mean"]) == pytest.approx(np.mean(gains), abs=1e-9)
        assert float(line["gain [%]: sd"]) == pytest.approx(np.std(gains, ddof=1), abs=1e-9)
        for task, unit in units.items():
            if task not in values[0]:
                assert line[f"{task} [{unit}]: mean"] == line[f"weight of {task}"] == ""
                continue
            assert float(line[f"{task} [{unit}]: mean"]) == pytest.approx(np.mean([each[task] for each in values]))
            assert float(line[f"{task} [{unit}]: sd"]) == pytest.approx(np.std([v[task] for v in values], ddof=1))
    runs = {name: int(line["runs"]) for name, line in lines.items()}
    assert runs["learned"] == runs["equal"] == 1
    assert runs["retrained"] == 2
    assert runs["grid_-1_1"] == len(results.grid) == 14


def test_the_page_has_a_line_per_row_with_mean_and_deviation(results):
    lines = rows_table(main_rows(results)).markdown().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 11
    learned = [run.metrics["test/instance"] for run in results.of("learned")]
    assert f"{np.mean(learned):.3f} ± {np.std(learned, ddof=1):.3f}" in lines[-1]


# ------------------------------------------------------------------------------------------------ the starts


@pytest.mark.parametrize(
    ("values", "step"),
    [([1.0, 1.0, 1.0], 10), ([2.0, 1.04, 1.0], 20), ([1.0, 1.06, 1.0], 30), ([1.0, 1.0, 1.2], None)],
    ids=["always", "from the second", "it left once", "never"],
)
def test_the_first_step_within_tolerance_is_the_one_after_which_it_stays(values, step):
    assert first_step_within([10, 20, 30], values, [1.0, 1.0, 1.0]) == step


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that the command has written, and what it has printed."""
    folder = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "QUICK", TINY)
        patch.setattr("experiments.scenes.page.check_noise", command_noise)
        assert main(["--quick", "--seeds", "1", "--workers", "1", "--output", str(folder)]) == 0
    return folder


def command_noise():
    from experiments.scenes.noise_check import NoiseResult

    return [NoiseResult("depth", "laplace", 0.3, 0.24, 0.25), NoiseResult("semantic", "softmax", 0.1, 0.5, 0.5)]


def test_the_command_writes_table_figures_and_pictures(written):
    pictures = {"grid.png", "effort.png", "starts.png", "noise.png", "scenes.png", "predictions.png"}
    assert pictures | {"README.md", "table.csv", "grid.csv", "runs.csv", "runs"} == {p.name for p in written.iterdir()}
    page = (written / "README.md").read_text(encoding="utf-8")
    assert all(f"]({name})" in page for name in pictures)
    assert "`python -m experiments.scenes --quick --seeds 1`" in page


def test_the_runs_that_the_page_counts_are_those_in_its_file(written):
    page = (written / "README.md").read_text(encoding="utf-8")
    lines = list(csv.DictReader((written / "runs.csv").read_text(encoding="utf-8").splitlines()))
    counted = re.search(r"(\d+) trainings of together", page)
    assert counted is not None
    assert int(counted[1]) == len(lines) == len({(line["row"], line["seed"]) for line in lines}) >= 9 + 9 + 5
    assert all(line["gain [%]"] for line in lines)


def test_weights_start_where_they_are_told_to_and_from_the_data(written):
    lines = (written / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in lines if re.match(r"\| (from the data|s = )", line)] == [
        *("from the data", "s = -2", "s = 0", "s = 2", "s = 5")
    ]
    found = Results(TINY)
    for start in ("data", "-2", "5"):
        (folder,) = (written / "runs" / "starts").glob(f"start_{start}-seed0-*")
        found.runs[f"start_{start}", 0] = replace(invented("learned", {"init": 0.0}, 0), folder=folder)
    paths = {path.title: path for path in found.start_paths()}
    # The first is seen after one step of 1e-2 towards the others.
    assert np.log(paths["s = -2"].weights["semantic"][0]) == pytest.approx(2.0 - 0.01, abs=1e-3)
    assert np.log(paths["s = 5"].weights["depth"][0]) == pytest.approx(-2.5 + 0.005, abs=1e-3)
    assert set(paths["from the data"].met.values()) == {1}


def test_a_change_of_the_page_alone_does_not_train_anything_again():
    """A run is defined by the files that it has imported: neither the command nor its workers import the page."""
    code = "import sys, experiments.scenes.__main__, experiments.scenes.arms; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(ran.stdout.split())
    assert "experiments.scenes.settings" in imported
    assert not imported & {f"experiments.scenes.{name}" for name in ("page", "table", "figures", "pictures")}


def test_an_interrupted_command_says_so(monkeypatch, tmp_path, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(arms, "compare", interrupt)
    assert main(["--quick", "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err.strip() == "Interrupted."


@pytest.mark.parametrize("option", ["--seeds", "--steps", "--workers"])
def test_a_number_below_one_gets_one_line(option, tmp_path, capsys):
    assert main([option, "0", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert option in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_quick_is_smaller_than_full_in_every_number_that_costs_time():
    smaller = ("seeds", "steps", "start_steps", "train", "test")
    assert all(getattr(QUICK, name) < getattr(FULL, name) for name in smaller)
    assert FULL.seeds >= 3
