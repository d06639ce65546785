"""The numbers of the page on the evidence, of the README and of the results are those of the committed trainings."""

import re
from pathlib import Path
from statistics import fmean

import pytest

from experiments.evidence.page import build_page
from experiments.evidence.problems import PROBLEMS, load
from experiments.evidence.results import ARMS, read_results

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
CLAIM = re.compile(r"([+-]\d+\.\d) % <!-- (\w+) (\w+) -->")


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
