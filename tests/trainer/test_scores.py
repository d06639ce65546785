"""Scores of predictions in a Trainer: logged, in the summary, on the page, and read back."""

import csv
import json

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure

from lightning_uncertainty.reporting.figures import plot_reliability
from lightning_uncertainty.reporting.files import read_report
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.page import build_page
from lightning_uncertainty.reporting.scores import HEADER, score_table
from lightning_uncertainty.snapshot import COVERAGES
from tests.models import Weighed, batches, trainer
from tests.paper import UncertaintyCallback

TASKS = {"a": "gaussian", "b": "laplace", "kind": "softmax"}
REGRESSION = {"nll", "mean_squared_z", "crps", *(f"coverage_{percent}" for percent in COVERAGES)}


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
    runner.fit(module, batches(60), batches(30, seed=1))
    in_fit = dict(runner.callback_metrics)
    runner.test(module, batches(30, seed=2), verbose=False)
    return module, callback, in_fit, runner.callback_metrics, logger


def test_each_validation_and_each_test_logs_them(run):
    module, _, in_fit, in_test, logger = run
    for stage, metrics in (("val", in_fit), ("test", in_test)):
        prefix = f"uncertainty/{stage}_"
        keys = {key.removeprefix(prefix) for key in metrics if key.startswith(prefix)} - {"relative_loss"}
        assert keys == {f"{q}/{task}" for task in "ab" for q in REGRESSION} | {"nll/kind", "ece/kind"}
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
    _, callback, in_fit, _, logger = run
    table = str(score_table(callback.history))
    assert table.splitlines()[0].split("  ")[0] == "task"
    assert f"{in_fit['uncertainty/val_coverage_90/a'].item():.1%}" in table
    content = read_report(logger.log_dir)
    assert {name: fact.score for name, fact in content.history.facts.items()} == {
        name: fact.score for name, fact in callback.history.facts.items()
    }
    page = build_page(content)
    assert page.count("<svg role") == 5
    assert "Can the predictions be relied on?" in page
    assert all(f">{name}</th>" in page for name in HEADER)
    json.dumps([fact.score.plain() for fact in content.history.facts.values()], allow_nan=False)
    twin = History.from_state_dict(callback.history.state_dict())
    assert twin.facts == callback.history.facts


def test_the_picture_has_a_line_for_each_task_and_the_diagonal(run):
    axis = plot_reliability(Figure().subplots(), run[1].history)
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
