"""The recipes of CONTRIBUTING.md: what they write passes the tests that they name."""

import inspect
import re

import pytest
import torch

from lightning_uncertainty import likelihoods
from tests import oracle, test_likelihoods
from tests.paper import UncertaintyWeighting
from tests.strategies import test_laws
from tests.workers.processes import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
LIKELIHOOD, TERM, STRATEGY, LOGGER = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def run(code):
    space = {"torch": torch}
    exec(code, space)
    return space


def test_a_new_likelihood_is_checked_by_the_formula_that_was_written_for_it(monkeypatch):
    new = run(LIKELIHOOD)["EXPONENTIAL"]
    monkeypatch.setitem(likelihoods.LIKELIHOODS, new.name, new)
    monkeypatch.setattr(oracle, "TERMS", {**oracle.TERMS, **run(TERM)["TERM"]})
    for regularizer in oracle.REGULARIZERS:
        for s, loss in test_likelihoods.POINTS:
            test_likelihoods.test_term_is_the_formula_of_the_article(new.name, regularizer, s, loss)
            test_likelihoods.test_closed_form_derivatives_are_those_of_autograd(new.name, regularizer, s, loss)
        test_likelihoods.test_gradient_vanishes_at_the_closed_form_optimum(new.name, regularizer, 2)
    assert UncertaintyWeighting({"wait": "exponential"}).tasks["wait"].likelihood is new


LAWS = [
    (name, law)
    for name, law in inspect.getmembers(test_laws, inspect.isfunction)
    if name.startswith("test_") and "compiled" not in name and {*inspect.signature(law).parameters} <= {"make", "name"}
]


@pytest.mark.parametrize("law", [law for _, law in LAWS], ids=[name for name, _ in LAWS])
def test_a_new_strategy_obeys_the_laws(law):
    rule = run(STRATEGY)["SmallestFirst"]
    given = {
        "name": rule.name,
        "make": lambda tasks=test_laws.TASKS, **options: UncertaintyWeighting(tasks, strategy=rule(), **options),
    }
    law(**{name: given[name] for name in inspect.signature(law).parameters})


def test_a_new_logger_is_read_back(tmp_path):
    run(LOGGER)["test_it_stores_each_weight"](tmp_path)


def test_what_it_names_is_there():
    files = re.findall(r"`((?:lightning_uncertainty|tests|docs|\.github)/[\w/.]*)`", PAGE)
    assert len(files) > 8
    assert all((ROOT / file).exists() for file in files)
    assert {*re.findall(r"`(\w+)` (?:of|in) `", PAGE)} >= {"TERMS", "_ALL", "folder_of"}
    for name, file in re.findall(r"`(\w+)` (?:of|in) `([\w/.]+\.py)`", PAGE):
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), file
    for target in re.findall(r"make (\w+)", PAGE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
