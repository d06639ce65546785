import math

import numpy as np
import pytest
from scipy import stats

from experiments.evidence.statistics import bootstrap, chance, holm, p_value, profile


def test_the_interval_is_the_percentile_bootstrap_of_the_mean():
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    draws = np.random.default_rng(1).choice(values, (20_000, 5)).mean(axis=1)
    found = bootstrap([values])
    assert found.mean == pytest.approx(6.2)
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), rel=0.03)


def test_over_several_sets_each_is_resampled_on_its_own():
    """A difference between sets is no noise: the interval is as narrow as the seeds agree."""
    near, far = [0.0, 0.2, 0.1], [100.0, 100.2, 100.1]
    found = bootstrap([near, far])
    assert found.mean == pytest.approx(50.1)
    assert found.high - found.low < 0.2


def test_an_interval_of_equal_values_has_no_width_and_one_of_nan_is_nan():
    assert bootstrap([[2.0, 2.0], [4.0, 4.0]]).low == bootstrap([[2.0, 2.0], [4.0, 4.0]]).high == 3.0
    assert math.isnan(bootstrap([[math.nan, 1.0]]).mean)


def test_the_chance_counts_pairs_of_seeds_and_each_set_alike():
    assert chance([[3.0, 1.0]], [[2.0, 2.0]]) == 0.5
    assert chance([[3.0], [0.0, 0.0, 0.0]], [[2.0], [1.0, 1.0, 1.0]]) == 0.5
    assert chance([[1.0, 1.0]], [[1.0]]) == 0.5
    one, other = np.random.default_rng(0).normal(size=(2, 7))
    u = stats.mannwhitneyu(one, other).statistic
    assert chance([list(one)], [list(other)]) == pytest.approx(u / 49)


def test_p_is_that_of_the_paired_t_test():
    one, other = np.random.default_rng(0).normal(size=(2, 5))
    assert p_value(list(one - other)) == pytest.approx(stats.ttest_rel(one, other).pvalue)
    assert p_value([0.0, 0.0]) == 1.0
    assert p_value([2.0, 2.0]) == 0.0
    assert p_value([math.nan, 1.0]) == 1.0


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    assert holm({"a": 0.01, "b": 0.02, "c": 0.5}) == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.5})
    assert holm({"a": 0.03, "b": 0.01, "c": 0.02}) == pytest.approx({"b": 0.03, "c": 0.04, "a": 0.04})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


def test_the_profile_counts_runs_within_a_distance_of_the_best():
    gains = {"p": {"a": [0.0, 4.0], "b": [1.0, 0.0]}, "q": {"a": [0.0, 0.0], "b": [9.0, 9.0]}}
    assert profile(gains, "a", [0.0, 1.0, 9.0]) == [0.25, 0.5, 1.0]
    assert profile(gains, "b", [0.0, 4.0]) == [0.75, 1.0]
