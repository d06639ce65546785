"""Scores of predictions in a Trainer: logged, in the summary, on the page, and read back."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure

from lightning_uncertainty import Task, UncertaintyWarning, UncertaintyWeighting
from lightning_uncertainty.findings import Finding
from lightning_uncertainty.predictive import gaussian_nll
from lightning_uncertainty.reporting.diagnosis import diagnose
from lightning_uncertainty.reporting.figures import plot_reliability
from lightning_uncertainty.reporting.files import read_report
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.page import build_page
from lightning_uncertainty.reporting.scores import HEADER, score_table
from lightning_uncertainty.reporting.summary import as_text, summarize, weights_html
from lightning_uncertainty.snapshot import COVERAGES
from tests.models import Weighed, batches, trainer
from tests.paper import UncertaintyCallback
from tests.workers.monitor_ranks import score_on_one_rank
from tests.workers.processes import run_ranks
from tests.workers.without_pictures import draw_nothing

pytestmark = pytest.mark.usefixtures("empty_pictures")

TASKS = {"a": "gaussian", "b": "laplace", "kind": "softmax"}
REGRESSION = {"nll", "mean_squared_z", "crps", *(f"coverage_{percent}" for percent in COVERAGES)}

CLASSES = {"nll", "ece", "temperature"}


class Scored(Weighed):
    """Two regressions and the sign of the first as a class, whose predictions are scored."""

    tasks = TASKS

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(4, 4)

    def losses(self, batch):
        output, target = self.net(batch[0]), batch[1]
        error, label = output[:, :2] - target, (target[:, 0] > 0.0).long()
        kind = torch.nn.functional.cross_entropy(output[:, 2:], label)
        return {"a": error[:, 0].square().mean(), "b": error[:, 1].abs().mean(), "kind": kind}

    def validation_step(self, batch, batch_idx):
        self.weigh(self.losses(batch))
        output, target = self.net(batch[0]), batch[1]
        self.uncertainty.score("a", output[:, 0], target[:, 0])
        self.uncertainty.score("b", output[:, 1], target[:, 1])
        self.uncertainty.score("kind", output[:, 2:], (target[:, 0] > 0.0).long())

    test_step = validation_step


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    module, logger = Scored(), CSVLogger(folder)
    callback = UncertaintyCallback(sigma_from="validation")
    runner = trainer(folder, callback, max_epochs=20, logger=logger, log_every_n_steps=4)
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch.setattr)
        runner.fit(module, batches(60), batches(30, seed=1))
        in_fit, page = dict(runner.callback_metrics), (Path(logger.log_dir) / "uncertainty.html").read_text()
        assert "240 val" in page
        assert "240 test" not in page
        before = callback.history
        runner.test(module, batches(30, seed=2), verbose=False)
    return module, callback, in_fit, runner.callback_metrics, logger, before


def test_each_validation_and_each_test_logs_them(run):
    module, _, in_fit, in_test, logger, _ = run
    for stage, metrics in (("val", in_fit), ("test", in_test)):
        prefix = f"uncertainty/{stage}_"
        keys = {key.removeprefix(prefix) for key in metrics if key.startswith(prefix)} - {"relative_loss"}
        assert keys == {f"{q}/{task}" for task in "ab" for q in REGRESSION} | {f"{q}/kind" for q in CLASSES}
        assert all(0.0 <= metrics[f"{prefix}coverage_90/{task}"] <= 1.0 for task in "ab")
    assert module.uncertainty.scores["a"].nll == pytest.approx(in_test["uncertainty/test_nll/a"].item())
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = [*csv.DictReader(file)]
    assert sum(bool(row["uncertainty/val_crps/a"]) for row in rows) == 20
    assert sum(bool(row["uncertainty/test_crps/a"]) for row in rows) == 1


def test_a_net_that_fits_and_sigma_of_the_validation_cover_what_they_should(run):
    """Task b has Gaussian noise, and is declared as Laplace; task a is what it is declared as."""
    metrics = run[3]
    assert metrics["uncertainty/test_mean_squared_z/a"].item() == pytest.approx(1.0, abs=0.25)
    assert metrics["uncertainty/test_coverage_90/a"].item() == pytest.approx(0.9, abs=0.05)


def test_the_summary_the_page_and_the_history_have_them(run):
    _, callback, in_fit, in_test, logger, _ = run
    table = str(score_table(callback.history))
    assert table.splitlines()[0].split("  ")[0] == "task"
    assert f"{in_fit['uncertainty/val_coverage_90/a'].item():.1%}" in table
    validation, test = (line.split() for line in table.splitlines()[2:4])
    assert validation[:3] == ["a", "240", "val"]
    assert test[:3] == ["a", "240", "test"]
    assert f"{in_test['uncertainty/test_coverage_90/a'].item():.1%}" in test
    written = (Path(logger.log_dir) / "uncertainty.html").read_text()
    assert "240 val" in written
    assert "240 test" in written
    content = read_report(logger.log_dir)
    assert content.history.facts == callback.history.facts
    assert {fact.score.data for fact in content.history.facts.values()} == {"validation"}
    assert {fact.test_score.data for fact in content.history.facts.values()} == {"test"}
    page = build_page(content)
    assert page.count("<svg role") == 5
    assert "Can the predictions be relied on?" in page
    assert all(f">{name}</th>" in page for name in HEADER)
    json.dumps([fact.score.plain() for fact in content.history.facts.values()], allow_nan=False)
    twin = History.from_state_dict(callback.history.state_dict())
    assert twin.facts == callback.history.facts


def test_a_test_of_an_earlier_checkpoint_leaves_the_end_of_the_run_on_the_page(tmp_path):
    save, callback = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1), UncertaintyCallback()
    logger = CSVLogger(tmp_path)
    options = {"max_epochs": 3, "enable_checkpointing": True, "logger": logger, "log_every_n_steps": 2}
    module, runner = Scored(), trainer(tmp_path, callback, save, **options)
    runner.fit(module, batches(6), batches(3, seed=1))
    before = read_report(logger.log_dir).history
    runner.test(module, batches(3, seed=2), verbose=False, ckpt_path=tmp_path / "epoch=0.ckpt")
    after = read_report(logger.log_dir).history
    assert after.steps == before.steps
    for name, fact in after.facts.items():
        assert fact.score == before.facts[name].score
        assert fact.test_score == module.uncertainty.scores[name]


def test_the_picture_has_a_line_for_each_task_and_the_diagonal(run):
    axis = plot_reliability(Figure().subplots(), run[1].history)
    assert [line.get_label() for line in axis.get_lines()[1:]] == [f"{task} (test)" for task in TASKS]
    axis = plot_reliability(Figure().subplots(), run[5])
    assert [line.get_label() for line in axis.get_lines()[1:]] == [*TASKS]
    x, y = axis.get_lines()[1].get_data()
    assert (len(x), y[-1]) == (20, 1.0)


def test_without_scores_there_is_neither_table_nor_picture(tmp_path, capsys):
    callback = UncertaintyCallback()
    trainer(tmp_path, callback).fit(Weighed(), batches())
    assert score_table(callback.history) is None
    assert "CRPS" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"There is no score to plot\. Expected predictions of a validation; call"):
        plot_reliability(Figure().subplots(), callback.history)


def test_a_sanity_check_counts_nothing_and_a_training_step_says_that_it_does_not(tmp_path):
    class Shared(Scored):
        def training_step(self, batch, batch_idx):
            self.validation_step(batch, batch_idx)
            return super().training_step(batch, batch_idx)

    module = Shared()
    with pytest.warns(UncertaintyWarning, match=r"score\('a', \.\.\.\) counts nothing here") as told:
        trainer(tmp_path, UncertaintyCallback(), num_sanity_val_steps=2).fit(module, batches(4), batches(3, seed=1))
    assert sum("counts nothing" in str(each.message) for each in told) == 1
    assert {score.samples for score in module.uncertainty.scores.values()} == {24}


class SeveralLoaders(Scored):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, dataloader_idx)


def test_the_loaders_of_a_validation_count_together(tmp_path):
    scores = []
    for loaders in (batches(6), [batches(6), batches(6)]):
        module = SeveralLoaders()
        trainer(tmp_path, UncertaintyCallback(init=0.0)).validate(module, loaders, verbose=False)
        scores.append(module.uncertainty.scores)
    for one, both in zip(*(each.values() for each in scores), strict=True):
        assert both.samples == 2 * one.samples
        assert both.numbers() == pytest.approx(one.numbers())


class Head(Weighed):
    """A network with a variance head, large enough to learn a few rows by heart."""

    tasks = {"wind": "nll"}

    def __init__(self, width=200):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
        self.lr = 0.005

    def losses(self, batch):
        mean, log_var = self.net(batch[0]).unbind(1)
        return {"wind": gaussian_nll(mean, log_var, batch[1][:, 0])}

    def validation_step(self, batch, batch_idx):
        mean, log_var = self.net(batch[0]).unbind(1)
        self.uncertainty.score("wind", mean, batch[1][:, 0], log_var)


@pytest.mark.parametrize(
    ("rows", "epochs", "unit", "overfits"),
    [(3, 100, 1.0, True), (100, 12, 1.0, False), (3, 80, 1e4, False)],
    ids=["by heart", "honest", "not learned yet"],
)
def test_a_variance_head_that_has_learned_its_rows_by_heart_is_found_out_and_an_honest_one_is_not(
    tmp_path, rows, epochs, unit, overfits
):
    whole = batches(rows + 30, scale=(unit, unit)).batches
    train, val = batches(rows), batches(30)
    train.batches, val.batches = whole[:rows], whole[rows:]
    callback = UncertaintyCallback()
    module = Head(200 if overfits else 20)
    trainer(tmp_path, callback, max_epochs=epochs, log_every_n_steps=5).fit(module, train, val)
    found = [each for each in diagnose(callback.history) if each.finding is Finding.OVERFITS]
    assert [each.task for each in found] == (["wind"] if overfits else [])
    for each in found:
        ratio = module.uncertainty.sigmas_val["wind"]
        lowest = max(1.0, min(x for x in callback.history.series("sigma_val", "wind") if not math.isnan(x)))
        assert f"sigma of task 'wind' is {ratio / lowest:.3g} times what it was at its best" in each.sentence
    assert unit == 1.0 or module.uncertainty.sigmas_val["wind"] > 2.0


@pytest.mark.parametrize("head", ["gaussian", "laplace"])
def test_of_a_head_sigma_val_is_a_factor_of_its_noise_and_is_shown_without_a_unit(head):
    weighting = UncertaintyWeighting([Task("wind", "nll", head=head, unit="m/s")])
    weighting({"wind": torch.zeros((), requires_grad=True)}).backward()
    weighting.step()
    z = torch.tensor([1.0, -5.0])
    with weighting.validating():
        weighting.score("wind", torch.zeros(2), 0.5 * z, torch.full((2,), 2.0 * math.log(0.5)))
        weighting.eval()({"wind": torch.zeros(())})
    factor = 3.0 if head == "laplace" else math.sqrt(13.0)
    assert weighting.sigmas_val["wind"] == pytest.approx(factor)
    snapshot = weighting.snapshot()
    for shown in (weights_html(snapshot), as_text(summarize(History.of([snapshot])))):
        assert f"x{factor:.3g}" in shown
        assert "m/s" not in shown


def test_a_rank_that_neither_weighs_nor_scores_does_not_keep_the_others_waiting(tmp_path):
    """Only rank 0 does, in the first validation and in the first test: both ranks have its numbers."""
    one, other = run_ranks(score_on_one_rank, tmp_path, folder=tmp_path)
    assert one["sigmas"] == other["sigmas"] != {}
    for stage in ("validated", "tested"):
        assert one[stage] == other[stage]
        assert one[stage]["a"]["samples"] == 3 * 8
