"""The page about models of a library does what it says."""

import re
from types import SimpleNamespace

import pytest
import torch

from lightning_uncertainty import UncertaintyWeighting
from tests.trainer import test_losses_from
from tests.workers.processes import ROOT

PAGE = (ROOT / "docs" / "libraries.md").read_text()
PROGRAM, FUNCTIONS, AGAIN = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_its_program_learns_a_weight_for_each_unit_and_a_second_run_starts_with_it(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(PROGRAM, space)
    weights = space["callback"].weighting.weights
    assert weights["charge"] > 1e4 * weights["mass"]
    assert str(weights) in capfd.readouterr().out
    exec(AGAIN, space)
    assert space["second"].weighting.steps == 8
    again = UncertaintyWeighting.from_state_dict(torch.load("sigma.pt", weights_only=True)).weights
    assert again["mass"] == pytest.approx(weights["mass"], rel=0.1)


def test_its_functions_return_what_weigh_takes():
    space = {}
    exec(FUNCTIONS, space)
    criterion = SimpleNamespace(_calc_unreduced_loss=lambda p, t, _, weights: (p - t).square() * weights)
    found = space["by_target"](criterion, None, torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2, 3) > 0, 2.0)
    assert found["losses"].shape == found["mask"].shape == (2, 3)
    output = SimpleNamespace(loss=torch.tensor(101.0), classification_loss=torch.tensor(2.0))
    assert space["by_term"](None, output, 1, kl_weight=2) == {"bound": 1.0, "kind": 2.0}
    assert space["by_condition"](None, None, {"D": 1}) == {"D": 1}


def test_each_kind_of_source_in_its_table_is_trained_in_the_tests():
    rows = re.findall(r"^\| (?:are|come)", PAGE, flags=re.MULTILINE)
    kinds = {("a path each" if isinstance(path, dict) else path) for _, path, _ in test_losses_from.SOURCES.values()}
    assert {"single", "inner.loss", "a path each", "log", None} <= kinds
    assert len(rows) == 5
