"""The experiment on sigma at prediction time: its data, its claims, and the page that is written from them."""

import json
import math

import numpy as np
import pytest
import torch

from experiments.predictive import coverage, returns
from experiments.predictive.__main__ import FOLDER, page
from experiments.predictive.coverage import NOISE, SOURCES, covered, fewer, known_noise

NUMBERS = json.loads((FOLDER / "results.json").read_text())


def test_the_noise_of_the_made_up_data_is_the_one_that_is_said(monkeypatch):
    one, other = known_noise(400, 0), known_noise(400, 1)
    assert [len(part[0]) for part in (one.train, one.val, one.test)] == [400, 133, coverage.FRESH]
    assert not torch.equal(one.train[0], other.train[0])
    said = dict(NOISE)
    for name in said:
        monkeypatch.setitem(NOISE, name, 0.0)
    noise = {name: one.test[1][name] - signal for name, signal in known_noise(400, 0).test[1].items()}
    assert noise["depth"].std().item() == pytest.approx(said["depth"], rel=0.02)
    assert noise["price"].abs().mean().item() == pytest.approx(said["price"], rel=0.03)


def test_fewer_rows_are_rows_of_the_same_table():
    table = known_noise(400, 0)
    small = fewer(table, 90, seed=3)
    assert [len(part[0]) for part in (small.train, small.val)] == [90, 30]
    assert small.test is table.test
    rows = {tuple(row) for row in table.train[0].tolist()}
    assert all(tuple(row) in rows for row in small.train[0].tolist())


def test_a_short_training_gives_both_sigmas_and_their_coverage(monkeypatch):
    monkeypatch.setattr(coverage, "FRESH", 500)
    found = covered(known_noise(60, 0), epochs=3, seed=0, width=8)
    assert {task: [*sources] for task, sources in found.items()} == {task: [*SOURCES] for task in NOISE}
    assert all(each["sigma"] > 0.0 and 0.0 <= each["covered"] <= 1.0 for task in NOISE for each in found[task].values())


def test_a_likelihood_by_hand():
    days, variance = np.array([1.0, -2.0]), np.array([4.0, 1.0])
    by_hand = (0.5 * math.log(2 * math.pi * 4) + 1 / 8 + 0.5 * math.log(2 * math.pi) + 2) / 2
    assert returns.nll(days, 0.0, variance) == pytest.approx(by_hand)


@pytest.fixture
def made_up(monkeypatch):
    days = np.random.default_rng(0).normal(size=(200, 2))
    monkeypatch.setattr(returns, "returns", lambda: days)
    return days


def test_no_day_is_known_before_it_comes(made_up):
    before = returns.known_before()
    made_up[100] += 5.0
    after = returns.known_before()
    assert torch.equal(before[:101], after[:101])
    assert not torch.equal(before[101], after[101])


def test_the_parts_are_in_order_and_a_head_is_trained_on_the_first(made_up):
    parts = returns.parts()
    assert [len(part[0]) for part in parts] == [120, 20, 60]
    torch.testing.assert_close(parts[2][1]["nasdaq"], torch.tensor(made_up[140:, 1], dtype=torch.float32))
    found = returns.head(0, epochs=1)
    assert all(math.isfinite(found[source][index]) for source in SOURCES for index in returns.INDICES)


def test_the_page_is_that_of_the_numbers():
    assert (FOLDER / "RESULTS.md").read_text() == page(NUMBERS)


def test_sigma_of_the_validation_covers_and_that_of_the_training_does_not():
    """Known noise, 400 rows, 10 seeds: what the package promises."""
    runs = NUMBERS["coverage"]["known noise, 400 rows"]
    assert len(runs) == 10
    for task in NOISE:
        mean = {source: np.mean([run[task][source]["covered"] for run in runs]) for source in SOURCES}
        assert 0.87 <= mean["validation"] <= 0.93
        assert mean["training"] < 0.7


def test_a_variance_head_is_as_good_as_garch_and_far_better_than_a_constant():
    base = NUMBERS["baselines"]
    assert base["GARCH(1,1) of arch"] == pytest.approx({"sp500": 1.104, "nasdaq": 1.303}, abs=1e-3)
    for index in returns.INDICES:
        head = np.mean([run["training"][index] for run in NUMBERS["heads"]])
        assert head < base["GARCH(1,1) of arch"][index] + 0.02
        assert head < base["constant sigma"][index] - 0.2
