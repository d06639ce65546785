"""What a notebook shows of a run, and what pandas gets."""

import math

import pytest
from matplotlib.figure import Figure

import lightning_uncertainty._arguments as extras
from lightning_uncertainty import UncertaintyWeighting
from lightning_uncertainty.comparison.result import ComparisonResult, FinishedRun
from lightning_uncertainty.reporting.diagnosis import diagnose
from lightning_uncertainty.reporting.run_history import RunHistory
from tests.pages import Page
from tests.reporting.test_figures import named, snapshots


@pytest.fixture(scope="module")
def history():
    return RunHistory.of(snapshots(300, named(3)))


def test_a_frame_of_pandas_has_the_series_of_each_task(history):
    frame = history.to_frame()
    assert frame.index.name == "step"
    assert frame.index.tolist() == history.steps
    assert frame["raw_loss"].columns.tolist() == list(history.tasks)
    for quantity in ("raw_loss", "precision", "factor", "sigma", "share"):
        assert frame[quantity]["task_001"].tolist() == history.series(quantity, "task_001")
    assert frame["total"].tolist() == history.totals
    assert "sigma_val" not in frame  # there was no validation


def test_without_pandas_one_line_says_what_to_install(history, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(extras.MissingExtraError, match=r"'pandas' is not installed, .*pip install"):
        history.to_frame()


def test_it_draws_itself(history):
    assert isinstance(history.plot(), Figure)


def test_a_notebook_shows_a_history_its_diagnoses_and_a_weighting_as_tables(history):
    page = Page(history._repr_html_())
    assert "Uncertainty weighting: 3 tasks after 300 steps" in page.text
    assert page.count("tr") == 4
    assert all(str(each) in page.text.replace("→", "->") or "`" in str(each) for each in diagnose(history))
    assert Page(diagnose(history)._repr_html_()).count("li") == len(diagnose(history))
    assert "No point yet" in RunHistory()._repr_html_()


def test_a_comparison_shows_its_table_and_its_sentences():
    runs = [FinishedRun(arm, 0, {"loss": value}, 1.0, {}, {}) for arm, value in (("equal", 2.0), ("learned <b>", 1.0))]
    result = ComparisonResult({"loss": "min"}, ["equal", "learned <b>"], [0], runs)
    page = Page(result._repr_html_())
    assert page.count("table") == 1
    assert all(sentence in page.text for sentence in (*result.sentences, result.origin, result.table.caption))


def test_a_weighting_shows_its_tasks_before_and_after_their_first_loss():
    weighting = UncertaintyWeighting({"depth": "laplace", "aux": 0.5})
    page = Page(weighting._repr_html_())
    assert all(word in page.words for word in ("depth", "laplace", "aux", "fixed"))
    assert str(math.nan) not in page.words
