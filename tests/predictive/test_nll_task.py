"""A task whose loss is a negative log-likelihood already."""

import pytest
import torch

import lightning_uncertainty as lu
from lightning_uncertainty import Task
from lightning_uncertainty.reporting.diagnosis import diagnose
from lightning_uncertainty.reporting.history import History
from tests.paper import UncertaintyWeighting


def step(weighting, **losses):
    weighting({name: torch.tensor(loss, requires_grad=True) for name, loss in losses.items()}).backward()
    weighting.step()


def test_its_factor_is_its_importance_whatever_the_loss_is():
    weighting = UncertaintyWeighting([Task("wind", "nll", importance=3.0), Task("depth", "laplace", init=0.0)])
    for loss in (-7.0, 0.0, 1e4):
        wind = torch.tensor(loss, requires_grad=True)
        total = weighting({"wind": wind, "depth": torch.tensor(2.0, requires_grad=True)})
        total.backward()
        assert wind.grad == 3.0
    assert weighting.eval()({"wind": torch.tensor(-7.0)}) == -21.0
    assert "wind" not in weighting.sigmas


def test_a_scale_of_the_total_keeps_its_ratio_to_learned_tasks():
    tasks = {"wind": "nll", "depth": "laplace", "class": "softmax", "aux": 0.25}
    factors = {}
    for scale in (None, "sum", "geometric", "depth"):
        weighting = lu.UncertaintyWeighting(tasks, scale=scale, guard=False)
        for loss in (4.0, 2.0, 1.0):
            step(weighting, wind=-loss, depth=30.0 * loss, **{"class": 0.1 * loss, "aux": loss})
        factors[scale] = {name: task.factor for name, task in weighting.snapshot().tasks.items()}
    for found in factors.values():
        assert found["aux"] == 0.25
        for name in ("depth", "class"):
            assert found["wind"] / found[name] == pytest.approx(factors[None]["wind"] / factors[None][name], rel=1e-5)


def test_a_negative_loss_is_no_fault():
    weighting, history = UncertaintyWeighting({"wind": "nll", "depth": "laplace"}), History()
    for _ in range(300):
        step(weighting, wind=-2.0, depth=1.0)
        history.add(weighting.snapshot())
    weighting.check()  # a warning would be an error here
    assert {each.finding.severity for each in diagnose(history)} <= {"fine", "look"}
    assert not [each for each in diagnose(history) if each.task == "wind"]


def test_a_checkpoint_keeps_what_it_is():
    weighting = UncertaintyWeighting({"wind": "nll", "depth": "laplace"})
    step(weighting, wind=-2.0, depth=1.0)
    twin = lu.UncertaintyWeighting.from_state_dict(weighting.state_dict())
    assert {name: task.likelihood.name for name, task in twin.tasks.items()} == {"wind": "nll", "depth": "laplace"}
