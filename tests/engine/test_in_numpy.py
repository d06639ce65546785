"""Steps on a CPU are taken in numpy: the same formulas as in torch, which other devices and graphs use."""

import copy
import math
import pickle

import pytest
import torch

from lightning_uncertainty import UncertaintyWeighting
from lightning_uncertainty.engine import window

TASKS = {"a": "gaussian", "b": "laplace", "c": "softmax", "aux": 0.25}
SIZES = torch.tensor([300.0, 2.0, 0.01, 1.0])


def trained(steps=150, hide=None, **options):
    weighting = UncertaintyWeighting(TASKS, **options)
    weighting.expect(100)
    for step in range(steps):
        noise = torch.rand(4, generator=torch.Generator().manual_seed(step)) + 0.5
        losses = dict(zip(TASKS, (noise * SIZES * 0.99**step).requires_grad_().unbind(), strict=True))
        for name, value in hide(step) if hide else ():
            losses[name] = losses[name] * value
        weighting({name: loss for name, loss in losses.items() if loss is not None}).backward()
        weighting.step()
    return weighting


@pytest.mark.parametrize(
    "hide",
    [
        None,
        lambda step: [("b", math.nan)] if step % 3 == 0 else (),
        lambda step: [("a", 0.0)] if step < 40 else (),
        lambda step: [("c", 1e30)] if step == 77 else (),
    ],
    ids=["whole", "a NaN", "late", "an outlier"],
)
@pytest.mark.parametrize("options", [{}, {"scale": None}, {"guard": False, "lr": 0.1}, {"min_variance_ratio": 0.5}])
def test_both_take_the_same_steps(hide, options, monkeypatch):
    one = trained(hide=hide, **options)
    monkeypatch.setattr(window, "NUMPY", False)
    other = trained(hide=hide, **options)
    for key, tensor in one.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            torch.testing.assert_close(tensor, other.state_dict()[key], rtol=1e-4, atol=1e-6, equal_nan=True)
            assert tensor.dtype == other.state_dict()[key].dtype
    torch.testing.assert_close(one._factor, other._factor, rtol=1e-4, atol=0.0)


def test_the_steps_are_really_taken_there(monkeypatch):
    weighting = trained(30)
    monkeypatch.setattr(type(weighting.strategy), "learn", lambda *_: pytest.fail("a step in torch"))
    values = torch.ones(4, requires_grad=True)
    before = weighting.log_var
    weighting(values).backward()
    weighting.step()
    assert (weighting.log_var != before)[:3].all()


def test_a_loss_that_is_overwritten_later_stays_as_it_was():
    weighting = trained(30)
    values = torch.ones(4, requires_grad=True)
    weighting(values).backward()
    weighting.step()
    with torch.no_grad():
        values.fill_(9.0)
    assert weighting.snapshot().tasks["a"].raw_loss == 1.0


def test_copies_and_loaded_engines_share_no_memory():
    weighting = trained(30)
    twins = copy.deepcopy(weighting), pickle.loads(pickle.dumps(weighting)), UncertaintyWeighting(TASKS)
    twins[2].expect(100)
    twins[2].load_state_dict(weighting.state_dict())
    before = weighting.snapshot()
    for twin in twins:
        assert twin.snapshot() == before
        twin(torch.ones(4, requires_grad=True)).backward()
        twin.step()
    assert weighting.snapshot() == before
    assert twins[0].snapshot() == twins[1].snapshot() == twins[2].snapshot() != before
