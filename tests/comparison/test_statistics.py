"""The mean relative gain against numpy, and the paired interval against scipy."""

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lightning_uncertainty import MeanRelativeGain
from lightning_uncertainty.comparison import Interval, relative_gain, t_interval
from tests.workers import comparison_ranks
from tests.workers.processes import run_ranks

BASELINE = {"mae": 800.0, "accuracy": 0.5, "r2": -0.25}
DIRECTIONS = {"mae": "min", "accuracy": "max", "r2": "max"}


def by_numpy(values, baseline, directions):
    """The formula of the article, written out for vectors."""
    ours, theirs = (np.array([source[name] for name in directions]) for source in (values, baseline))
    sign = np.array([-1.0 if direction == "min" else 1.0 for direction in directions.values()])
    return float(np.mean(sign * (ours - theirs) / np.abs(theirs)) * 100.0)


@pytest.mark.parametrize(
    "values",
    [
        {"mae": 720.0, "accuracy": 0.55, "r2": 0.1},
        {"mae": 1600.0, "accuracy": 0.1, "r2": -2.0},
        BASELINE,
    ],
    ids=["better", "worse", "the same"],
)
def test_it_is_the_formula_of_the_article(values):
    gain = MeanRelativeGain(BASELINE, DIRECTIONS)
    gain.update(values)
    assert gain.compute().item() == pytest.approx(by_numpy(values, BASELINE, DIRECTIONS), abs=1e-4)


def test_a_negative_metric_that_rises_is_a_gain():
    assert relative_gain(-0.1, -0.2, higher_is_better=True) == pytest.approx(50.0)
    assert relative_gain(-0.1, -0.2, higher_is_better=False) == pytest.approx(-50.0)


def test_the_gain_over_several_updates_is_the_gain_of_their_mean():
    first, second = {"mae": 700.0, "accuracy": 0.4, "r2": 0.0}, {"mae": 750.0, "accuracy": 0.7, "r2": -0.5}
    gain = MeanRelativeGain(BASELINE, DIRECTIONS)
    gain.update(first)
    gain.update({name: torch.tensor(value) for name, value in second.items()})
    mean = {name: (first[name] + second[name]) / 2.0 for name in first}
    assert gain.compute().item() == pytest.approx(by_numpy(mean, BASELINE, DIRECTIONS), abs=1e-4)
    gain.reset()
    gain.update(first)
    assert gain.compute().item() == pytest.approx(by_numpy(first, BASELINE, DIRECTIONS), abs=1e-4)


def test_ranks_that_saw_different_numbers_of_evaluations_agree_on_the_mean_over_all(tmp_path):
    """Two evaluations on rank 0, one on rank 1, which had no accuracy."""
    one, other = run_ranks(comparison_ranks.mean_relative_gain, folder=tmp_path)
    seen = comparison_ranks.EVALUATIONS
    known = {name: [float(values[name]) for values in seen if name in values] for name in BASELINE}
    expected = by_numpy({name: np.mean(values) for name, values in known.items()}, BASELINE, DIRECTIONS)
    assert one == other == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("baseline", "values"),
    [
        ({**BASELINE, "accuracy": 0.0}, {"mae": 720.0, "accuracy": 0.5, "r2": 0.1}),
        (BASELINE, {"mae": 720.0, "accuracy": 0.5}),
        (BASELINE, {"mae": 720.0, "accuracy": math.nan, "r2": 0.1}),
    ],
    ids=["a baseline of 0", "a metric never given", "a metric that is NaN"],
)
def test_without_a_gain_of_every_metric_there_is_no_mean(baseline, values):
    gain = MeanRelativeGain(baseline, DIRECTIONS)
    gain.update(values)
    assert math.isnan(gain.compute().item())
    assert gain.gains()["mae"].item() == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("baseline", "directions", "said"),
    [
        ({}, {}, "no metrics"),
        ({"a": 1.0}, {"b": "min"}, "same metrics"),
        ({"a": 1.0}, {"a": "down"}, "'a' must be one of 'min', 'max'; got 'down'"),
    ],
    ids=["nothing", "different names", "no direction"],
)
def test_what_cannot_be_compared_is_refused(baseline, directions, said):
    with pytest.raises(ValueError, match=said):
        MeanRelativeGain(baseline, directions)


def test_an_unknown_metric_is_refused_with_the_closest_name():
    with pytest.raises(ValueError, match="Did you mean 'accuracy'"):
        MeanRelativeGain(BASELINE, DIRECTIONS).update({"acuracy": 1.0})


@given(st.lists(st.floats(-100.0, 100.0), min_size=2, max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_paired_interval_is_that_of_scipys_paired_t_test(gains):
    interval = t_interval(gains)
    if statistics.stdev(gains) < 1e-6:
        assert interval.high - interval.low < 1e-4
        return
    expected = stats.ttest_rel(gains, np.zeros(len(gains))).confidence_interval(0.95)
    assert interval.low == pytest.approx(expected.low, rel=1e-6, abs=1e-6)
    assert interval.high == pytest.approx(expected.high, rel=1e-6, abs=1e-6)
    assert interval.excludes_zero == (expected.low > 0.0 or expected.high < 0.0)


def test_one_value_has_no_interval_and_nan_has_no_limits():
    assert t_interval([1.0]) is None
    assert math.isnan(t_interval([1.0, math.nan]).low)
    assert not Interval(1.0, math.nan, math.nan).excludes_zero
