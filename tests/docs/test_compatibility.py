"""docs/compatibility.md says what the tests do."""

import re

import pytest

from tests.docs.compatibility import FEATURES, MATRIX, PAGE, PROMISES, ROOT, STATUSES, pins, render
from tests.workers.collection import collect
from tests.workers.processes import run_ranks

PROVEN = {feature.title: feature for feature in (*FEATURES, *PROMISES, MATRIX) if feature.status != "not run"}
NOT_RUN = {feature.title: feature for feature in FEATURES if feature.status == "not run"}


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """By test, for each of its cases, whether a mark skips it or expects it to fail."""
    files = sorted({feature.file for feature in PROVEN.values()})
    return run_ranks(collect, ROOT, files, folder=tmp_path_factory.mktemp("collected"), world=1)[0]


def test_the_page_is_what_the_table_says():
    assert PAGE.read_text() == render(), "Write it again with `python -m tests.docs.compatibility`."


@pytest.mark.parametrize("title", PROVEN)
def test_every_test_that_is_named_is_collected_and_runs(collected, title):
    """In all its cases: a list of cases that became empty is collected as one that is skipped."""
    feature = PROVEN[title]
    assert feature.status in STATUSES
    assert feature.tests
    for name in feature.proof:
        assert name in collected, f"{name} is not collected"
        assert not any(collected[name]), f"{name} is skipped or expected to fail"


def test_no_named_test_stops_itself():
    for feature in PROVEN.values():
        text = (ROOT / feature.file).read_text()
        assert not re.search(r"pytest\.(skip|xfail|importorskip)\(", text), feature.file


def test_the_check_sees_a_test_that_is_missing_skipped_or_expected_to_fail(tmp_path):
    """The check of the check."""
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_runs(): pass\n"
        "@pytest.mark.skip\ndef test_skipped(): pass\n"
        "@pytest.mark.skipif(True, reason='why')\ndef test_skipped_here(): pass\n"
        "@pytest.mark.skipif(False, reason='why')\ndef test_not_skipped_here(): pass\n"
        "@pytest.mark.xfail\ndef test_expected_to_fail(): pass\n"
        "@pytest.mark.parametrize('case', [])\ndef test_without_cases(case): pass\n"
    )
    (found,) = run_ranks(collect, tmp_path, ["test_some.py"], folder=tmp_path / "collected", world=1)
    assert found == {
        "test_some.py::test_runs": [False],
        "test_some.py::test_skipped": [True],
        "test_some.py::test_skipped_here": [True],
        "test_some.py::test_not_skipped_here": [False],
        "test_some.py::test_expected_to_fail": [True],
        "test_some.py::test_without_cases": [True],
    }


@pytest.mark.parametrize("title", NOT_RUN)
def test_what_is_not_run_names_a_script_that_can_be(title):
    feature = NOT_RUN[title]
    assert not feature.tests
    assert 'if __name__ == "__main__":' in (ROOT / feature.file).read_text()


def test_every_feature_stands_once():
    assert len(PROVEN) + len(NOT_RUN) == len(FEATURES) + len(PROMISES) + 1


# Of these any version will do: they look at the code, not the code at them.
TOOLS = {"import-linter", "mypy", "pandas-stubs", "ruff", "hatchling"}


def test_the_lowest_versions_that_are_tested_are_those_that_are_allowed():
    allowed = dict(re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()))
    pinned = pins("constraints-lowest.txt")
    assert len(allowed) > 15
    for package in allowed.keys() - TOOLS:
        parts, numbers = pinned[package].split("."), allowed[package].split(".")
        assert parts[: len(numbers)] == numbers, package
