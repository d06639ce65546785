"""The numbers of the page on the evidence, of the README and of the results are those of the committed trainings."""

import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest

from experiments.evidence.page import build_page
from experiments.evidence.problems import PROBLEMS, load
from experiments.evidence.results import ARMS, HAND, SINGLE, read_results
from experiments.evidence.statistics import bootstrap, holm, p_value
from experiments.evidence.trainings import read_trainings
from experiments.evidence.why import NAMES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evidence.md"
FOLDER = ROOT / "docs" / "evidence"


@pytest.fixture(scope="module")
def results():
    return read_results(FOLDER / "trainings.csv")


def rows(text, columns):
    """The cells of all rows with so many columns."""
    lines = (line.strip("|").split("|") for line in text.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in cells] for cells in lines if len(cells) == columns]


def test_the_trainings_are_those_of_all_sets_and_arms(results):
    assert set(results.trainings) == set(PROBLEMS)
    assert results.arms == list(ARMS)
    assert {name: len(results.gains[name]["equal"]) for name in PROBLEMS} == {n: load(n).seeds for n in PROBLEMS}


def test_the_results_are_built_from_the_trainings(results):
    pytest.importorskip("pvlib")
    start = "## Over all sets"
    committed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert committed[committed.index(start) :] == (built := build_page(results, command=""))[built.index(start) :]


def test_the_numbers_of_the_table_are_those_of_the_trainings(results):
    titles = {title.replace("*", ""): arm for arm, title in ARMS.items()}
    table = [row for row in rows(PAGE.read_text(encoding="utf-8"), 6) if row[0].replace("*", "") in titles]
    assert len(table) == len(ARMS) - 1
    groups = [[n for n in results.gains if load(n).units is kind] for kind in (True, False)]
    for title, units, alike, middle, chance, signs in table:
        arm = titles[title.replace("*", "")]
        means = [fmean(map(fmean, results.over(arm, group))) for group in groups]
        assert [units, alike, middle] == [f"{value:+.1f}" for value in (*means, results.middle(arm))]
        assert chance == f"{results.chance(arm, 'equal'):.2f}"
        resolved = [sign for (_, each), sign in results.resolved("equal").items() if each == arm]
        assert signs == f"{resolved.count(1)} / {resolved.count(-1)}"


# Every "+1.2 %" of a sentence, as `<arm> on <set>`.
CLAIM = re.compile(r"([+-]\d+\.\d) %[,.;:)]*<!-- (\w+) (\w+) -->")


@pytest.mark.parametrize("page", [PAGE, ROOT / "README.md"], ids=["page", "readme"])
def test_the_numbers_of_the_sentences_are_those_of_the_trainings(results, page):
    claims = CLAIM.findall(page.read_text(encoding="utf-8"))
    assert len(claims) >= 3
    groups = {
        "units": [n for n in results.gains if load(n).units],
        "alike": [n for n in results.gains if not load(n).units],
    }
    for value, arm, where in claims:
        problems = groups.get(where) or ([where] if where in results.gains else list(results.gains))
        assert value == f"{fmean(map(fmean, results.over(arm, problems))):+.1f}", (arm, where)


def test_the_counts_of_tasks_are_those_of_the_trainings(results):
    gains = {}
    for name, known in results.trainings.items():
        mine, equal = results.metrics(name, "uncertainty"), results.metrics(name, "equal")
        for task in known.directions:
            gains[f"{name} {task}"] = [known.gain(mine[seed], equal[seed], [task]) for seed in sorted(equal)]
    corrected, total = holm({key: p_value(each) for key, each in gains.items()}), len(gains)
    means = [fmean(gains[key]) for key, chance in corrected.items() if chance < 0.05]
    better, worse = sum(mean > 0.0 for mean in means), sum(mean < 0.0 for mean in means)
    said = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"of {total}, {better} are better with the default than with equal weights, {worse} are worse" in said


def test_which_arms_beat_the_default_is_what_the_page_says(results):
    beaten = {key for key, sign in results.resolved("uncertainty").items() if sign > 0 and key[1] != SINGLE}
    assert beaten == {
        ("fluids", "article"),
        ("fluids", "log_sum"),
        ("modules", HAND),
        ("modules", "initial"),
        ("signals", HAND),
    }
    by_hand = {
        problem: sign for (problem, arm), sign in results.resolved(HAND).items() if arm == "uncertainty" and sign
    }
    assert by_hand == {"flights": 1, "modules": -1, "signals": -1}


def test_weights_that_standardise_come_as_far_on_the_first_seeds(results):
    means = []
    for arm in ("hand_0", "uncertainty"):
        gains = []
        for known in (results.trainings[name] for name in results.gains if load(name).units):
            equal = {run.seed: run.test for run in known.chosen("equal")}
            tuned = [run for run in known.chosen(arm) if run.seed in known.tuning]
            gains.append(fmean(known.gain(run.test, equal[run.seed], list(known.directions)) for run in tuned))
        means.append(f"{fmean(gains):+.1f} %")
    assert f"of the six sets: {means[0]}, the default {means[1]}" in " ".join(PAGE.read_text(encoding="utf-8").split())


def test_the_table_of_the_control_is_that_of_its_trainings(results):
    control = read_results(FOLDER / "why.csv")
    titles = {title: arm for arm, title in ARMS.items()}
    table = [row for row in rows(PAGE.read_text(encoding="utf-8"), 5) if row[0] in titles]
    assert [titles[row[0]] for row in table] == [arm for arm in control.arms if arm != "equal"]
    for title, *cells in table:
        arm = titles[title]
        pairs = ((results.gains[of][arm], control.gains[name][arm]) for name, of in NAMES.items())
        assert cells == [f"{fmean(gains):+.1f}" for pair in pairs for gains in pair]
    resolved = control.resolved("uncertainty")
    assert {arm for (name, arm), sign in resolved.items() if name == "fluids_forgetting" and sign} == {"equal"}
    assert resolved["signals_forgetting", "no_guard"] == 1


CANDIDATES = (
    "uncertainty",
    "no_floor",
    "none_below",
    "from_the_way",
    "from_the_plain_sum",
    "from_the_start",
    "from_the_start_none_below",
)
TO_CHOOSE, TO_CONFIRM = (
    ("dollars", "fluids", "weather", "yeast"),
    ("diamonds", "flights", "modules", "signals", "scenes"),
)


@pytest.fixture(scope="module")
def candidates(results):
    """All trainings with those of the candidates, and without those of further seeds; and the latter."""
    found = read_trainings(FOLDER / "candidates.csv")
    further = [run for run in found if run.seed >= load(run.problem).seeds]
    both = {
        name: replace(known, runs=[*known.runs, *(r for r in found if r.problem == name and r not in further)])
        for name, known in results.trainings.items()
    }
    return both, further


def gains_of(known, arm):
    equal = {run.seed: run.test for run in known.chosen("equal")}
    return {run.seed: known.gain(run.test, equal[run.seed], list(known.directions)) for run in known.chosen(arm)}


def test_the_table_of_the_candidates_is_that_of_their_trainings(candidates):
    table = [
        row for row in rows(PAGE.read_text(encoding="utf-8"), 7) if row[0].startswith(("up to", "as large", "stays"))
    ]
    for arm, (_, *cells, mean, _) in zip(CANDIDATES, table, strict=True):
        means = [fmean(gains_of(candidates[0][name], arm).values()) for name in TO_CHOOSE]
        assert [*cells, mean] == [f"{value:+.1f}" for value in (*means, fmean(means))]


@pytest.mark.parametrize("arm", ["no_floor", "none_below", "from_the_way"])
def test_the_half_that_confirms_is_that_of_its_trainings(candidates, arm):
    said, differences = " ".join(PAGE.read_text(encoding="utf-8").split()), {}
    for name in TO_CONFIRM:
        new, old = (gains_of(candidates[0][name], each) for each in (arm, "uncertainty"))
        differences[name] = [new[seed] - old[seed] for seed in sorted(old)]
    means = [f"{fmean(differences[name]):+.1f}" for name in TO_CONFIRM]
    titles = ("standardised diamonds", "flights", "solar modules", "MNIST-1D", "scenes")
    assert ", ".join(f"{title} {mean}" for title, mean in zip(titles, means, strict=True)) + " points" in said
    whole = bootstrap([differences[name] for name in TO_CONFIRM])
    assert f"in the mean {whole.mean:+.1f} (95 %: {whole.low:+.1f} to {whole.high:+.1f})" in said


def test_the_default_is_better_than_what_was_before_on_one_half(candidates):
    pairs = [[gains_of(candidates[0][name], each) for each in ("uncertainty", "no_floor")] for name in TO_CHOOSE]
    whole = bootstrap([[new[seed] - old[seed] for seed in sorted(old)] for new, old in pairs])
    said = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"by {whole.mean:.1f} points (95 %: {whole.low:+.1f} to {whole.high:+.1f}), on water alone" in said


def test_the_further_seeds_say_what_the_page_says(candidates):
    known = replace(candidates[0]["signals"], runs=candidates[1])
    equal, found = {run.seed: run.test for run in known.of("equal")}, []
    for lr in (0.01, 0.03):
        new, old = ({run.seed: run.test for run in known.of(arm, lr)} for arm in ("none_below", "uncertainty"))
        tasks = list(known.directions)
        each = [known.gain(new[s], equal[s], tasks) - known.gain(old[s], equal[s], tasks) for s in sorted(equal)]
        found.append((len(each), f"{abs(fmean(each)):.1f} ± {stdev(each) / len(each) ** 0.5:.1f}"))
    said = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert [count for count, _ in found] == [16, 16]
    assert f"better by {found[0][1]} points" in said
    assert f"worse by {found[1][1]} (standard errors)" in said
