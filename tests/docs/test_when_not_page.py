"""The page about what should not be learned: its code runs, and its numbers are those of what it says."""

import re

import pytest
import torch

from lightning_uncertainty.engine import guard
from lightning_uncertainty.findings import APART
from tests.workers.processes import ROOT

PAGE = (ROOT / "docs" / "when-not.md").read_text()
DECLARED, HELD = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_fixed_tasks_keep_their_weight_beside_those_that_learn():
    space = {}
    exec(DECLARED, space)
    weighting, factors = space["weighting"], []
    weighting.expect(100)
    for step in range(100):
        losses = torch.tensor([1e-4, 30.0, 100.0 * 0.99**step, 0.01], requires_grad=True)
        weighting(losses).backward()
        weighting.step()
        factors.append(losses.grad)
    start, end = factors[0], factors[-1]
    assert start.tolist() == pytest.approx([1.0, 1e-4, 1.0, 3.0])
    assert end[:2].tolist() == pytest.approx([1.0, 1e-4])
    assert end[3] > 1000.0 * end[2] > 0.0


def test_a_residual_that_rises_is_held_as_it_prints(capsys):
    exec(DECLARED + HELD, {})
    assert capsys.readouterr().out == "['equation']\n"


def test_its_numbers_are_those_of_the_rule():
    assert (guard._STEPS, guard._PART, guard._RISEN) == (200, 0.1, 3.0)
    text = " ".join(PAGE.split())
    assert "`n` is 200 and at most a tenth of the run" in text
    assert "over three times its lowest, or its first" in text
    assert f"over {APART:,.0f} apart" in text
