"""The findings that a single snapshot can answer: pure, and one for each thing that is wrong."""

import warnings
from dataclasses import replace

import pytest

from lightning_uncertainty import Snapshot
from lightning_uncertainty.findings import Finding, findings_of
from lightning_uncertainty.snapshot import TaskSnapshot
from tests.paper import UncertaintyWeighting

CALM = TaskSnapshot("laplace", -9.2, 0.01, 1e4, 1e4, 2e-4, 0, None, True)

WRONG = {
    "not finite": ({"nonfinite": 3}, [Finding.NONFINITE]),
    "negative": ({"lowest_loss": -2.0}, [Finding.NEGATIVE_LOSS]),
    "negative, of a fixed weight": ({"lowest_loss": -2.0, "sigma": None, "likelihood": "fixed"}, []),
    "negative, of an exact softmax": ({"lowest_loss": -2.0, "likelihood": "softmax_exact"}, []),
    "cut": ({"cut": True}, [Finding.CUT]),
    "at a bound": ({"at_bound": "lower"}, [Finding.AT_BOUND]),
    "at a bound before its first loss": ({"at_bound": "lower", "started": False}, []),
    "not finite and at a bound": ({"nonfinite": 1, "at_bound": "upper"}, [Finding.NONFINITE, Finding.AT_BOUND]),
    "nothing": ({}, []),
}


def found(**changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(findings_of(Snapshot(7, {"depth": CALM, "aux": replace(CALM, **changes)})))


@pytest.mark.parametrize(("changes", "expected"), WRONG.values(), ids=WRONG)
def test_a_snapshot_has_a_finding_for_each_thing_that_is_wrong_and_warns_of_nothing(changes, expected):
    assert [(each.finding, each.task) for each in found(**changes)] == [(kind, "aux") for kind in expected]


def test_the_texts_have_their_numbers_and_the_remedy():
    (negative,) = found(lowest_loss=-2.0)
    assert str(negative) == (
        "The loss of task 'aux' was negative (lowest mean of a step: -2), which the laplace likelihood does not allow "
        "for. Its weight then only grows. If the loss is already a negative log-likelihood in nats, say so: "
        "`tasks={'aux': \"nll\"}`."
    )
    (bound,) = found(at_bound="lower")
    assert bound.verdict == "at its lower bound"
    assert "held by its lower bound (s = -9.2)" in bound.sentence


def checked(weighting, tasks):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weighting.check(Snapshot(1, tasks))
    return [str(each.message) for each in caught]


def test_a_finding_is_said_once_while_its_numbers_change():
    weighting = UncertaintyWeighting({"aux": "laplace"})
    for number, said in ((1, "in 1 call,"), (20, None), (21, None)):
        texts = checked(weighting, {"aux": replace(CALM, nonfinite=number)})
        assert [said in text for text in texts] == ([True] if said else [])


def test_a_finding_of_many_tasks_is_one_warning_and_of_those_that_follow_few():
    names = [f"t{index:02}" for index in range(40)]
    weighting = UncertaintyWeighting(dict.fromkeys(names, "laplace"))

    def said(count):
        tasks = {name: replace(CALM, nonfinite=int(place < count)) for place, name in enumerate(names)}
        return checked(weighting, tasks)

    (once,) = said(20)
    assert once.startswith("The loss of task 't00' was NaN")
    assert once.endswith(
        " The same of 't01', 't02', 't03', 't04', 't05', 't06', 't07', 't08', 't09', 't10', 't11', 't12' and 7 more."
    )
    assert said(39) == []  # fewer than those that were told of before
    assert len(said(40)) == 1
    assert said(40) == []


def test_a_few_tasks_are_told_of_one_by_one():
    weighting = UncertaintyWeighting(dict.fromkeys("abc", "laplace"))
    texts = checked(weighting, dict.fromkeys("abc", replace(CALM, cut=True)))
    assert [text.split(" is ")[0] for text in texts] == [f"The loss of task {name!r}" for name in "abc"]
