"""The findings that a single snapshot can answer: pure, and one for each thing that is wrong."""

import warnings
from dataclasses import replace

import pytest

from lightning_uncertainty import Snapshot
from lightning_uncertainty.findings import Finding, findings_of
from lightning_uncertainty.snapshot import TaskSnapshot

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
        "for. Its weight then only grows. If the loss is already a log-likelihood, give the task a fixed weight: "
        "`tasks={'aux': 1.0}`."
    )
    (bound,) = found(at_bound="lower")
    assert bound.verdict == "at its lower bound"
    assert "held by its lower bound (s = -9.2)" in bound.sentence


def test_a_subject_stays_the_same_while_the_numbers_change():
    (first,), (later,) = found(nonfinite=1), found(nonfinite=20)
    assert first.subject == later.subject != found(cut=True)[0].subject
    assert (first.sentence.count("1 call,"), later.sentence.count("20 calls,")) == (1, 1)
