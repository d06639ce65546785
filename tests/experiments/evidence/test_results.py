import math

import pytest

from experiments.evidence.page import build_page, write_page
from experiments.evidence.results import HAND, SINGLE, read_results
from experiments.evidence.trainings import Training, Trainings, read_trainings, write_trainings
from tests.experiments.evidence.made_up import trainings


def training(arm, lr, seed, *, val, test=1.0, **others):
    return Training("made-up", arm, lr, seed, 1.0, {"a": val, "b": val} | others, {"a": test, "b": test})


def known(*runs, tuning=(0,)):
    equal = [training("equal", lr, seed, val=1.0) for lr in (0.1, 0.2, 0.3) for seed in tuning]
    return Trainings([*equal, *runs], {"a": "min", "b": "min"}, tuning, 0.2)


def test_a_learning_rate_is_chosen_on_validation_and_never_on_test():
    runs = [
        training("x", 0.1, 0, val=0.9, test=0.1),
        training("x", 0.2, 0, val=0.5, test=0.9),
        training("x", 0.3, 0, val=0.7, test=0.2),
    ]
    assert known(*runs).scores("x") == pytest.approx({0.1: 10.0, 0.2: 50.0, 0.3: 30.0})
    assert known(*runs).best_lr("x") == 0.2
    assert [run.test["a"] for run in known(*runs).chosen("x")] == [0.9]


def test_only_the_first_seeds_choose():
    late = [training("x", 0.1, 0, val=0.5), training("x", 0.2, 0, val=0.6), training("x", 0.2, 1, val=0.0)]
    assert known(*late).best_lr("x") == 0.1


def test_a_rate_that_diverged_is_never_chosen():
    runs = [training("x", 0.1, 0, val=5.0), training("x", 0.2, 0, val=math.nan), training("x", 0.3, 0, val=math.inf)]
    assert known(*runs).best_lr("x") == 0.1


def test_a_rate_at_an_end_is_said_to_be_there():
    def edge(*values):
        return known(*(training("x", (0.1, 0.2, 0.3)[i], 0, val=val) for i, val in enumerate(values))).on_edge("x")

    assert [edge(1.0, 2.0, 3.0), edge(2.0, 1.0, 3.0), edge(3.0, 2.0, 1.0)] == [-1, 0, 1]


def test_of_a_net_for_one_task_only_that_task_counts():
    runs = known(training("single_b", 0.1, 0, val=9.0, b=0.5), training("single_b", 0.2, 0, val=0.1, b=0.9))
    assert runs.scores("single_b") == pytest.approx({0.1: 50.0, 0.2: 10.0})


def test_the_best_by_hand_is_that_with_the_best_validation():
    hands = [training("hand_0", 0.2, 0, val=0.8, test=0.1), training("hand_1", 0.2, 0, val=0.7, test=0.9)]
    assert known(*hands).best_hand() == "hand_1"


def test_a_file_of_trainings_is_read_as_it_was_written(tmp_path):
    runs = [
        training("x", 0.1, 0, val=0.25),
        Training("p", "y", 3e-3, 1, 2.5, {"a": math.nan}, {"a": 1e-9}, {"a": 4.0}),
    ]
    write_trainings(tmp_path / "runs.csv", runs)
    again = read_trainings(tmp_path / "runs.csv")
    assert again[0] == runs[0]
    assert again[1].test == {"a": 1e-9}
    assert math.isnan(again[1].val["a"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    file = tmp_path_factory.mktemp("made-up") / "runs.csv"
    write_trainings(file, [*trainings("weather"), *trainings("yeast")])
    return read_results(file)


def test_gains_are_those_against_equal_weights_of_the_same_seed(results):
    equal, other = (results.metrics("weather", arm) for arm in ("equal", "log_sum"))
    low = ["direct", "diffuse", "temperature", "humidity", "wind"]
    parts = [(equal[2][task] - other[2][task]) / equal[2][task] for task in low]
    parts.append((other[2]["cloudy"] - equal[2]["cloudy"]) / equal[2]["cloudy"])
    assert results.gains["weather"]["log_sum"][2] == pytest.approx(100.0 * sum(parts) / 6)
    assert results.gains["weather"]["equal"] == [0.0] * 4


def test_singles_are_put_together_from_a_net_for_each_task(results):
    single = results.metrics("weather", SINGLE)[1]
    for task, value in single.items():
        (run,) = (run for run in results.trainings["weather"].chosen(f"single_{task}") if run.seed == 1)
        assert run.test[task] == value


def test_costs_are_numbers_of_trainings(results):
    assert results.cost("weather", "log_sum") == 3 * 2 + 2
    assert results.cost("weather", HAND) == 9 * 3 * 2 + 2
    assert results.cost_of_one("weather", HAND) == 27
    assert results.cost_of_one("weather", SINGLE) == 18


def test_the_search_by_hand_ends_at_the_one_that_was_chosen(results):
    curve = results.search("weather")
    tuned = results.gains["weather"][HAND][:2]
    assert curve[-1] == pytest.approx(sum(tuned) / 2)
    assert curve[0] < curve[-1]


def test_what_is_large_and_regular_is_resolved_and_what_is_not_is_not(results):
    resolved = results.resolved("equal")
    assert resolved["weather", "log_sum"] == 1
    assert results.resolved("log_sum")["weather", "equal"] == -1
    assert results.resolved("dwa")["yeast", "random"] == 0


def test_the_page_has_the_numbers_and_the_figures(results, tmp_path):
    pytest.importorskip("pvlib")
    write_trainings(tmp_path / "a.csv", results.runs)
    page = write_page([tmp_path / "a.csv"], tmp_path, command="python -m experiments.evidence")
    text = page.read_text(encoding="utf-8")
    assert f"{results.interval('log_sum').mean:+.1f}" in text
    assert "pvlib disc" in text
    for name in ("profile", "effort", "sets"):
        assert f"({name}.png)" in text
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert build_page(read_results(tmp_path / "trainings.csv"), command="python -m experiments.evidence") == text
