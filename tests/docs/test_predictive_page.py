"""The page about predictions does what it says: its code runs, and its numbers are those of the experiment."""

import re
from importlib.util import find_spec

import pytest

from lightning_uncertainty.findings import OPTIMISTIC
from tests.workers.processes import ROOT

PAGE = (ROOT / "docs" / "predictive.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
FOREIGN = {"torch_uncertainty": "torch-uncertainty", "laplace": "laplace-torch"}


def foreign(block):
    """The library of a recipe, None for code of ours."""
    return next((name for name in FOREIGN if f"from {name}" in block), None)


@pytest.mark.timeout(300)
def test_its_code_runs_from_top_to_bottom_with_the_libraries_that_are_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    space, skipped = {}, []
    for block in BLOCKS:  # what "predictive.md" asserts, too
        if (library := foreign(block)) is not None and find_spec(library) is None:
            skipped.append(library)
            continue
        exec(compile(block, "predictive.md", "exec"), space)
    assert set(skipped) <= set(FOREIGN)
    assert len(space["nets"]) == 3
    assert space["parts"]["depth"].samples == 3


def test_its_tables_are_those_of_the_experiment():
    results = (ROOT / "experiments" / "predictive" / "RESULTS.md").read_text()
    rows = [line for line in results.splitlines() if line.startswith("|")]
    assert len(rows) > 15
    assert all(row in PAGE for row in rows)


def test_its_recipes_name_the_libraries_and_its_rule_is_the_one_of_the_finding():
    assert [foreign(block) for block in BLOCKS if foreign(block)] == [*FOREIGN]
    assert all(f"### {name} 0." in PAGE for name in FOREIGN.values())
    assert f"If it is over {OPTIMISTIC:g} times the learned sigma" in PAGE
