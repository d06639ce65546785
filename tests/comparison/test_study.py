"""The same module and data with equal, learned and given weights: paired, resumable, and with an honest sentence."""

import csv
import functools
import json
import math
import os
import random
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_uncertainty import (
    UncertaintyCallback,
    UncertaintyMixin,
    UncertaintyWarning,
    UncertaintyWeighting,
    compare,
)
from lightning_uncertainty.comparison import ComparisonResult, FinishedRun
from lightning_uncertainty.comparison.arms import Arm
from lightning_uncertainty.comparison.fingerprint import describe
from lightning_uncertainty.comparison.study import Plan
from lightning_uncertainty.demo.diamonds import make_data, make_net
from tests.models import TASKS, Loader, Plain
from tests.workers import comparison_ranks
from tests.workers.processes import run_ranks

METRICS = {"val/a": "min", "val/b": "min"}
QUICK = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 4}
PACKAGES = {"lightning": L, "pytorch_lightning": pytorch_lightning}


class Evaluated(Plain):
    """Initialised by the seed, and evaluated by what does not depend on the weights."""

    trainings = 0

    def __init__(self, lr=0.05):
        L.LightningModule.__init__(self)  # Plain seeds itself
        self.net, self.lr = torch.nn.Linear(4, 2), lr

    def on_train_end(self):
        type(self).trainings += 1

    def validation_step(self, batch, batch_idx):
        for name, loss in self.losses(batch).items():
            self.log(f"val/{name}", loss)

    test_step = validation_step


class Net(UncertaintyMixin, Evaluated):
    tasks = TASKS

    def training_step(self, batch, batch_idx):
        return self.weigh(self.losses(batch))

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/total", self.weigh(self.losses(batch)))


@pytest.fixture(autouse=True)
def _none_trained_yet():
    for kind in (Evaluated, Net):
        kind.trainings = 0


def serve(seed=None, size=8, shuffle=True):
    """Loaders over 48 rows of two targets of different noise; shuffled by the global generator."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(96, 4, generator=generator)
    noise = torch.randn(96, 2, generator=generator) * torch.tensor([2.0, 0.1])
    y = x @ torch.randn(4, 2, generator=generator) + noise
    train, val = TensorDataset(x[:48], y[:48]), TensorDataset(x[48:], y[48:])
    own = None if seed is None else torch.Generator().manual_seed(seed)
    return {"train": DataLoader(train, size, shuffle, generator=own), "val": DataLoader(val, 48)}


def run(tmp_path, make_module=Net, data=serve, **options):
    options = {"metrics": METRICS, "seeds": (0, 1), "trainer": QUICK, "folder": tmp_path / "runs", **options}
    return compare(make_module, data, **options)


def by_hand(tmp_path, module_class, seed, callback):
    """One run as a user would write it; its metrics."""
    L.seed_everything(seed, workers=True, verbose=False)
    module, data = module_class(), serve()
    trainer = L.Trainer(
        **QUICK, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data["train"], data["val"])
    trainer.validate(module, data["val"], verbose=False)
    return {name: trainer.callback_metrics[name].item() for name in METRICS}


# ---------------------------------------------------------------------------------------------------- what is run


@pytest.mark.parametrize("callbacks", [[], [UncertaintyCallback(lr=0.05)]], ids=["ours", "the user's"])
def test_no_run_prints_a_summary_whosever_callback_it_has(tmp_path, capsys, callbacks):
    run(tmp_path, seeds=(0,), trainer={**QUICK, "callbacks": callbacks})
    assert capsys.readouterr().out == ""
    assert len(list(tmp_path.glob("runs/*/logs/uncertainty.html"))) == 2  # but each is written
    assert all(callback.summary for callback in callbacks)


def test_the_equal_arm_is_the_plain_sum_and_the_learned_arm_the_callback_bit_for_bit(tmp_path):
    result = run(tmp_path)
    for index, seed in enumerate(result.seeds):
        plain, learned = (
            by_hand(tmp_path, Evaluated, seed, Callback()),
            by_hand(tmp_path, Net, seed, UncertaintyCallback()),
        )
        assert plain != learned
        for name in METRICS:
            assert result.values("equal", name)[index] == plain[name]
            assert result.values("learned", name)[index] == learned[name]


def test_all_arms_of_a_seed_start_from_the_same_weights_and_batches_and_seeds_differ(tmp_path):
    result = run(tmp_path, fixed={"mine": {"a": 0.1, "b": 3.0}})
    starts = {(r.arm, r.seed): r.start for r in result.runs}
    assert [sorted(start) for start in starts.values()] == 6 * [["batch 0", "batch 1", "batch 2", "initial weights"]]
    assert starts["equal", 0] == starts["learned", 0] == starts["mine", 0]
    assert all(starts["equal", 0][what] != starts["equal", 1][what] for what in starts["equal", 0])
    assert {r.arm: r.weights for r in result.runs if r.arm != "learned"} == {
        "equal": {"a": 1.0, "b": 1.0},
        "mine": {"a": pytest.approx(0.1), "b": 3.0},
    }


class Unseeded(Net):
    """Its weights are drawn from a generator that no seed reaches."""

    own = torch.Generator().manual_seed(11)

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.net.weight.normal_(generator=self.own)


@pytest.mark.parametrize(
    ("module", "data", "what"),
    [(Net, serve(seed=3), "batch 0, batch 1, batch 2 differ"), (Unseeded, serve, "initial weights differ")],
    ids=["a loader with its own generator", "weights from a generator of their own"],
)
def test_arms_that_do_not_start_alike_are_reported(tmp_path, module, data, what):
    with pytest.warns(UncertaintyWarning, match=what):
        run(tmp_path, module, data, seeds=[0])


def test_tasks_that_the_module_fixes_keep_their_weight_in_the_equal_arm(tmp_path):
    class Auxiliary(Net):
        tasks = {"a": "gaussian", "b": 0.25}

    result = run(tmp_path, Auxiliary, seeds=[0], fixed={"mine": {"a": 2.0}})
    weights = {r.arm: r.weights for r in result.runs}
    assert weights["equal"] == {"a": 1.0, "b": 0.25}
    assert weights["mine"] == {"a": 2.0, "b": 0.25}
    assert weights["learned"]["b"] == 0.25 != weights["learned"]["a"]


def test_the_learned_arm_has_the_options_of_the_callback_and_the_others_do_not_learn(tmp_path):
    class Returned(Evaluated):
        def training_step(self, batch, batch_idx):
            return {"losses": self.losses(batch)}

    mine = UncertaintyCallback(TASKS, init=2.0, freeze_after=0)
    trainer = {**QUICK, "callbacks": [mine]}
    result = run(tmp_path, Returned, seeds=[0], trainer=trainer)
    weights = {r.arm: r.weights for r in result.runs}
    assert weights["learned"] == {"a": pytest.approx(math.exp(-2.0)), "b": pytest.approx(math.exp(-1.0))}
    assert weights["equal"] == {"a": 1.0, "b": 1.0}
    assert trainer["callbacks"] == [mine]
    with pytest.raises(RuntimeError, match="no weights yet"):
        _ = mine.weighting  # what the caller passed was copied


def test_an_engine_that_the_module_makes_itself_is_replaced_where_nothing_is_learned(tmp_path):
    def make():
        module = Net()
        module.uncertainty = UncertaintyWeighting({"a": "gaussian", "b": "gaussian"}, init=1.0, freeze_after=0)
        return module

    weights = {r.arm: r.weights for r in run(tmp_path, make, seeds=[0]).runs}
    assert weights["equal"] == {"a": 1.0, "b": 1.0}
    assert weights["learned"]["a"] == pytest.approx(math.exp(-1.0))


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_and_data_of_both_packages_can_be_compared(tmp_path, package):
    lightning = PACKAGES[package]

    class Module(UncertaintyMixin, lightning.LightningModule):
        tasks = TASKS
        losses, configure_optimizers = Plain.losses, Plain.configure_optimizers
        validation_step = Evaluated.validation_step

        def __init__(self):
            super().__init__()
            self.net, self.lr = torch.nn.Linear(4, 2), 0.05

        def training_step(self, batch, batch_idx):
            return self.weigh(self.losses(batch))

    class Data(lightning.LightningDataModule):
        def train_dataloader(self):
            return serve()["train"]

        def val_dataloader(self):
            return serve()["val"]

        test_dataloader = val_dataloader

    result = run(tmp_path, Module, Data, seeds=[0], evaluate="validate")
    assert all(map(math.isfinite, result.values("learned", "val/a")))
    assert result.values("learned", "val/a") != result.values("equal", "val/a")


def test_the_best_state_is_evaluated_on_request(tmp_path):
    def trainer(folder):
        best = ModelCheckpoint(folder, monitor="val/a", filename="best")
        return {**QUICK, "max_epochs": 6, "callbacks": [best], "logger": False}

    make = functools.partial(Net, lr=0.5)  # it overshoots in the end
    last, best = (run(tmp_path, make, trainer=trainer, seeds=[0], state=state) for state in ("last", "best"))
    lowest = torch.load(next(tmp_path.glob("runs/equal*/best.ckpt")), weights_only=True)
    assert best.values("equal", "val/a")[0] <= last.values("equal", "val/a")[0]
    (found,) = [c["best_model_score"].item() for k, c in lowest["callbacks"].items() if k.startswith("ModelCheckpoint")]
    assert best.values("equal", "val/a")[0] == pytest.approx(found)


def test_two_processes_compare_as_one_does(tmp_path):
    one, other = run_ranks(comparison_ranks.compare_in_two_processes, tmp_path / "runs", folder=tmp_path)
    assert one["text"] == other["text"]
    assert "2 seeds" in one["text"]
    assert one["again"] == other["again"] == 4 * [True]
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 4


# ---------------------------------------------------------------------------------------------------- resuming


def test_finished_runs_are_not_run_again_and_more_seeds_and_metrics_only_add(tmp_path):
    first = run(tmp_path)
    assert Net.trainings == 5  # with the rehearsal
    again = run(tmp_path)
    assert Net.trainings == 5
    assert str(first).endswith("\nAll 4 runs are new.")
    assert str(again).endswith("\n4 of 4 runs are from earlier: nothing that can be seen to define them has changed.")
    assert again.to_markdown() == first.to_markdown()
    assert [r.reused for r in again.runs] == 4 * [True]
    more = run(tmp_path, seeds=(0, 1, 2), metrics={"val/b": "max"}, fixed={"mine": {"a": 1.0, "b": 2.0}})
    assert Net.trainings == 11
    assert [r.reused for r in more.runs] == [True, True, False, True, True, False, False, False, False]


def test_an_interrupted_comparison_goes_on_with_the_run_that_was_cut_off(tmp_path):
    class Interrupted(Net):
        left = 3  # rehearsal and two runs

        def on_train_end(self):
            super().on_train_end()
            type(self).left -= 1
            if type(self).left < 0:
                raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        run(tmp_path, Interrupted)
    cut = [path.parent for path in tmp_path.glob("runs/*/logs") if not (path.parent / "run.json").exists()]
    assert len(cut) == 1
    (cut[0] / "left over").write_text("half of a checkpoint")
    content = json.loads((tmp_path / "runs" / "comparison.json").read_text())
    assert content["notes"] == ["The comparison has not come to its end: 2 of 4 runs have finished."]
    assert [row[:2] for row in content["table"]] == [["arm", "seed"], ["equal", "0"], ["learned", "0"]]
    with pytest.raises(ValueError, match="has not finished"):
        ComparisonResult.load(tmp_path / "runs")
    done = {path: path.read_bytes() for path in tmp_path.glob("runs/*/run.json")}
    assert len(done) == 2
    Interrupted.left = 100
    resumed = run(tmp_path, Interrupted)
    assert Interrupted.left == 100 - 3  # the rehearsal, the run that was cut off, and the one after it
    assert all(path.read_bytes() == content for path, content in done.items())
    assert not (cut[0] / "left over").exists()
    assert resumed.mean_gains("learned") == run(tmp_path / "anew", Interrupted).mean_gains("learned")


@pytest.mark.parametrize(
    "change",
    [
        {"make_module": functools.partial(Net, lr=0.06)},
        {"data": functools.partial(serve, size=6)},
        {"data": functools.partial(serve, shuffle=False)},
        {"trainer": {**QUICK, "max_epochs": 3}},
        {"trainer": {**QUICK, "callbacks": [ModelCheckpoint(monitor="val/a", save_top_k=2)]}},
        {"evaluate": "test", "data": lambda: {**serve(), "test": serve()["val"]}},
        {"version": "other files"},
    ],
    ids=["learning rate", "batch size", "order", "epochs", "callback", "evaluation", "version"],
)
def test_a_changed_configuration_is_run_anew(tmp_path, change):
    run(tmp_path, seeds=[0])
    assert [r.reused for r in run(tmp_path, seeds=[0], **change).runs] == [False, False]


def test_changed_code_of_the_module_is_run_anew(tmp_path):
    class Other(Net):
        pass

    Other.__qualname__ = Net.__qualname__
    run(tmp_path, seeds=[0])
    assert not any(r.reused for r in run(tmp_path, Other, seeds=[0]).runs)


def test_only_the_learned_arm_is_run_anew_for_other_options_of_the_callback(tmp_path):
    for lr, reused in ((0.01, [False, False]), (0.02, [True, False])):
        result = run(tmp_path, seeds=[0], trainer={**QUICK, "callbacks": [UncertaintyCallback(lr=lr)]})
        assert [r.reused for r in result.runs] == reused


@pytest.mark.parametrize("content", ["", "{", "[]", '{"definition": 1}'])
def test_a_damaged_file_is_run_anew(tmp_path, content):
    before = run(tmp_path, seeds=[0])
    (path,) = tmp_path.glob("runs/learned*/run.json")
    path.write_text(content)
    after = run(tmp_path, seeds=[0])
    assert [r.reused for r in after.runs] == [True, False]
    assert after.mean_gains("learned") == before.mean_gains("learned")


def test_a_description_is_the_same_in_another_process_and_sees_what_closures_hold():
    def of(number):
        return describe(lambda: number)

    assert of(1) == of(1) != of(2)
    assert describe({"b": [1, (2.0, None)], "a": torch.float32}) == {"b": [1, [2.0, None]], "a": "torch.float32"}
    assert describe({3, 1, 2}) == describe({2, 3, 1})
    assert describe(np.arange(3)) != describe(np.arange(4))
    assert describe(torch.zeros(2)) != describe(torch.zeros(3))
    json.dumps(describe([UncertaintyCallback(), ModelCheckpoint(), TensorDataset(torch.zeros(1)), Path("x"), len]))


# ---------------------------------------------------------------------------------------------------- the caller


def test_the_random_state_of_the_caller_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)

    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002  # the global one is meant

    L.seed_everything(5, workers=True, verbose=False)
    expected = draw()
    L.seed_everything(5, workers=True, verbose=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)
    run(tmp_path, seeds=[0])
    assert draw() == expected
    assert os.environ["PL_GLOBAL_SEED"] == "77"
    assert "PL_SEED_WORKERS" not in os.environ


def test_each_run_has_its_own_logs_with_the_weights(tmp_path):
    run(tmp_path)
    logs = sorted(tmp_path.glob("runs/*/logs/metrics.csv"))
    assert len(logs) == 4
    for path in logs:
        with path.open() as file:
            weights = [
                float(row["uncertainty/weight/a"]) for row in csv.DictReader(file) if row["uncertainty/weight/a"]
            ]
        assert (len(set(weights)) > 1) == path.parts[-3].startswith("learned")


class Unvalidated(Net):
    """Its own training data, and nothing to validate on."""

    def train_dataloader(self):
        return serve()["train"]


class Taskless(Evaluated):
    def training_step(self, batch, batch_idx):
        return sum(self.losses(batch).values())


def test_seeds_and_workers_may_be_numbers_of_numpy():
    def plan(seeds, workers):
        return Plan(METRICS, seeds, (Arm("equal", "equal"),), "validate", "last", Path(), workers=workers)

    assert plan(np.arange(3), np.int64(2)) == plan([0, 1, 2], 2)
    assert {type(seed) for seed in plan(np.arange(3), 1).seeds} == {int}


class Settled(Net):
    tasks = {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("module", "options", "error", "said"),
    [
        (Net, {"metrics": {"val/c": "min"}}, ValueError, "no metric 'val/c'. Did you mean 'val/b'"),
        (Net, {"metrics": {"val/total": "min"}}, ValueError, "depends on the weights of the losses"),
        (Net, {"metrics": {"val/a": "less"}}, ValueError, "'min', 'max'; got 'less'"),
        (Net, {"metrics": {}}, ValueError, "no metrics to compare by"),
        (Net, {"seeds": []}, ValueError, "seeds must be different whole numbers"),
        (Net, {"seeds": [1, 1]}, ValueError, "seeds must be different whole numbers"),
        (Net, {"seeds": [-1]}, ValueError, "seeds must be different whole numbers"),
        (Net, {"baseline": "mine"}, ValueError, "no baseline 'mine'"),
        (Net, {"fixed": {"equal": {}}}, ValueError, "cannot name fixed weights"),
        (Net, {"fixed": {"../up": {}}}, ValueError, "cannot name an arm"),
        (Net, {"fixed": {"mine": {"a": 1.0}}}, ValueError, "say nothing of 'b'"),
        (Net, {"fixed": {"mine": {"a": 1.0, "bb": 1.0}}}, ValueError, "a task 'bb'. Did you mean 'b'"),
        (Net, {"fixed": {"mine": {"a": -1.0, "b": 1.0}}}, ValueError, "at least 0; got -1.0"),
        (Net, {"evaluate": "predict"}, ValueError, "evaluate must be one of"),
        (Net, {"data": None}, ValueError, "no data for 'train'"),
        (Net, {"evaluate": "test"}, ValueError, "no data for 'test'"),
        (Net, {"data": lambda: {"training": []}}, ValueError, "Unknown kind of data 'training'"),
        (Net, {"data": Loader(torch.zeros(4, 1), size=2)}, TypeError, "Expected a LightningDataModule"),
        (Net, {"trainer": [1]}, TypeError, "Expected the Trainer's options"),
        (Net(), {}, TypeError, "makes a new module for each run"),
        (functools.cache(lambda: Net()), {}, ValueError, "same module twice"),
        (dict, {}, TypeError, "got an object of type dict"),
        (Taskless, {}, ValueError, "Taskless has no tasks"),
        (Settled, {}, ValueError, "All tasks of Settled have fixed weights"),
        (Unvalidated, {"data": None}, ValueError, "no data for 'val'"),
        (Net, {"state": "best"}, ValueError, "ModelCheckpoint"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_compared_is_refused_before_any_run(tmp_path, module, options, error, said):
    with pytest.raises(error, match=said):
        run(tmp_path, module, **options)
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------------------------------------- does it help


def test_on_diamonds_in_natural_units_learned_weights_are_told_to_be_better(tmp_path):
    """Dollars, carats and nats: the plain sum trains little but the price, and each seed shows it."""
    rows = make_data(rows=6000)

    def net():
        return make_net(rows.label_scales())

    def shuffled():
        rows.seed = torch.initial_seed()
        return rows

    metrics = {"test/price": "min", "test/carat": "min", "test/cut": "max", "test/color": "max", "test/clarity": "max"}
    trainer = {"max_epochs": 6, "accelerator": "cpu", "log_every_n_steps": 5}
    result = compare(net, shuffled, metrics=metrics, trainer=trainer, evaluate="test", folder=tmp_path / "runs")
    assert result.interval("learned").low > 3.0
    assert result.verdict("learned").endswith("larger than the noise between seeds: learned is better.")


def test_for_two_tasks_that_are_the_same_it_cannot_tell(tmp_path):
    """The negative control: equal weights are right, and Adam does not mind a factor before the total."""

    class Twins(Net):
        tasks = {"a": "gaussian", "b": "gaussian"}

        def losses(self, batch):
            x, y = batch
            error = self.net(x) - y[:, :1]
            return {"a": error[:, 0].square().mean(), "b": error[:, 1].square().mean()}

    arms = {"equal": "equal", "learned": {"scale": "a"}}  # by default the total grows a little with Adam
    result = run(tmp_path, Twins, seeds=range(4), trainer={**QUICK, "max_epochs": 5}, arms=arms)
    assert result.mean_gains("learned") != 4 * [0.0]
    assert result.verdict("learned").endswith("within the noise of 4 seeds: cannot tell.")


# ---------------------------------------------------------------------------------------------------- the result


def result_of(equal, learned, direction="min", **others):
    """A comparison by one metric, from its values by seed."""
    arms = {"equal": equal, "learned": learned, **others}
    runs = [
        FinishedRun(arm, seed, {"m": value}, 1.0, {}, {})
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]
    return ComparisonResult({"m": direction}, list(arms), range(len(equal)), runs)


def test_printed_it_fits_a_terminal_however_many_arms_there_are():
    few = result_of([1.0, 1.1], [0.9, 0.8])
    many = result_of([1.0, 1.1], [0.9, 0.8], **{f"arm{index}": [1.0, 0.9] for index in range(9)})
    assert str(few).startswith(str(few.table))
    tables = str(many).split("\nmean +- ")[0]
    assert max(map(len, tables.splitlines())) <= 80 < many.table.width
    assert all(tables.count(arm) == 1 for arm in many.arms)


@pytest.mark.parametrize(
    ("equal", "learned", "direction", "said"),
    [
        ([1.0, 1.1, 0.9], [0.9, 0.98, 0.82], "min", "larger than the noise between seeds: learned is better"),
        ([1.0, 1.1, 0.9], [0.9, 0.98, 0.82], "max", "larger than the noise between seeds: learned is worse"),
        ([1.0, 1.1, 0.9], [0.9, 1.2, 0.89], "min", "within the noise of 3 seeds: cannot tell"),
        ([1.0, 1.0], [0.9, 0.85], "min", "within the noise of 2 seeds: cannot tell"),
        ([1.0], [0.5], "min", "mean relative gain +50.00 %. One seed shows no noise"),
        ([1.0, 1.0], [1.0, 1.0], "min", "Both arms gave the same metrics with every seed"),
        ([1.0, 1.0], [0.5, 0.5], "min", "It is the same with every seed, so there is no noise"),
        ([1.0, 0.0], [0.5, 0.5], "min", "no mean relative gain, since 'm' is 0 in equal, seed 1"),
        ([1.0, 1.0], [0.5, math.nan], "min", "no mean relative gain, since 'm' is nan in learned, seed 1"),
    ],
    ids=["better", "worse", "noise", "two seeds", "one seed", "identical", "no noise", "baseline of 0", "diverged"],
)
def test_the_sentence_says_what_the_numbers_can_show(equal, learned, direction, said):
    result = result_of(equal, learned, direction)
    assert said in result.verdict("learned")
    assert said in str(result)
    assert said in result.to_markdown()


def test_an_arm_that_differs_from_pair_to_pair_by_less_than_seeds_do_is_told_apart():
    """What pairing is for: seeds differ by far more than the arms, but in each of them the same way."""
    equal = [1.0, 5.0, 0.2, 12.0]
    result = result_of(equal, [0.9 * value + 0.001 for value in equal])
    assert result.std("equal", "m") > 5.0
    assert result.interval("learned").excludes_zero


def test_the_tables_hold_what_was_measured(tmp_path):
    result = run(tmp_path)
    values, reference = (result.values(arm, "val/a") for arm in ("learned", "equal"))
    gains = [100.0 * (1.0 - value / base) for value, base in zip(values, reference, strict=True)]
    assert result.gains("learned", "val/a") == pytest.approx(gains)
    assert result.mean("learned", "val/a") == pytest.approx(np.mean(values))
    assert result.std("learned", "val/a") == pytest.approx(np.std(values, ddof=1))
    assert f"({np.mean(gains):+.2f} %)" in result.table.rows[0][2]
    assert result.mean_gain("equal") == 0.0
    read = ComparisonResult.load(tmp_path / "runs")
    assert read == result
    assert str(read).split("4 of 4")[0] == str(result).split("All 4")[0]
    assert all((run.folder / "run.json").is_file() for run in read.runs)
    lines = result.to_markdown().splitlines()
    assert lines[0] == "| metric | equal | learned |"
    assert lines[2].startswith(f"| ↓ val/a | {np.mean(reference):.4g} ± {np.std(reference, ddof=1):.2g} | ")


def test_it_prints_its_table_and_its_sentences(capsys):
    print(result_of([1.0, 1.1, 0.9], [0.9, 0.98, 0.82]))
    printed = capsys.readouterr().out
    assert "learned is better" in printed
    assert "mean relative gain" in printed


def test_the_bar_reaches_its_end_and_shows_the_runs_that_are_left(tmp_path, monkeypatch):
    from rich.progress import Progress

    seen = []

    monkeypatch.setattr(Progress, "update", lambda *_, **fields: seen.append(fields))
    run(tmp_path, seeds=[0])
    assert seen == []  # no terminal
    run(tmp_path, seeds=[0, 1], progress=True)
    assert [fields["description"] for fields in seen if "description" in fields] == [
        "run 3 of 4: equal, seed 1",
        "run 4 of 4: learned, seed 1",
    ]
    reached = [fields["completed"] for fields in seen if "completed" in fields]
    assert reached == sorted(reached)
    assert reached[0] == pytest.approx(1 / 12)
    assert reached[-1] == 2.0
