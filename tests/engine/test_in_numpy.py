"""Steps on a CPU are taken in Python or numpy: the same formulas as in torch, which other devices and graphs use."""

import copy
import math
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from lightning_uncertainty import Task, UncertaintyWeighting
from lightning_uncertainty.engine import window
from tests.workers.processes import run_ranks

TASKS = {"a": "gaussian", "b": "laplace", "c": "softmax", "aux": 0.25}
SIZES = torch.tensor([300.0, 2.0, 0.01, 1.0])


@pytest.fixture(params=["few tasks", "many tasks"], autouse=True)
def way(request, monkeypatch):
    """Take the four tasks for few, which Python works out by itself, or for many."""
    monkeypatch.setattr(window, "_FEW", 4 if request.param == "few tasks" else 3)


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


def test_both_ways_on_a_cpu_agree_and_a_resume_takes_the_same_steps(monkeypatch):
    one = trained(150)
    other = UncertaintyWeighting(TASKS)
    other.expect(100)
    first = trained(75)
    other.load_state_dict(first.state_dict())
    for step in range(75, 150):
        noise = torch.rand(4, generator=torch.Generator().manual_seed(step)) + 0.5
        other((noise * SIZES * 0.99**step).requires_grad_()).backward()
        other.step()
    assert torch.equal(one.log_var, other.log_var)
    assert torch.equal(one._factor, other._factor)
    monkeypatch.setattr(window, "_FEW", 7 - window._FEW)
    torch.testing.assert_close(trained(150).log_var, one.log_var, rtol=1e-5, atol=1e-6)


def test_a_variance_out_of_range_of_a_float_is_infinite_and_nothing_is_raised():
    for kind in ("sum", None):
        weighting = UncertaintyWeighting(["a", "b"], bounds=(-2000.0, 2000.0), init=0.0, guard=False, scale=kind)
        weighting.log_vars = {"a": -1500.0, "b": 1500.0}
        for _ in range(3):
            weighting(torch.ones(2, requires_grad=True)).backward()
            weighting.step()
        assert weighting.log_var.isfinite().all()


@pytest.mark.parametrize("scale", ["sum", None, "a", "geometric"])
def test_a_task_of_no_importance_is_scaled_as_in_torch(scale, monkeypatch):
    tasks = [Task("a"), Task("b", importance=0.0), Task("c", "laplace", importance=3.0), Task("aux", 0.25)]
    found = []
    for numpy in (True, False):
        monkeypatch.setattr(window, "NUMPY", numpy)
        weighting = UncertaintyWeighting(tasks, scale=scale)
        weighting.suit([torch.optim.Adam([torch.zeros(1, requires_grad=True)])])
        weighting.expect(10)
        for step in range(40):
            noise = torch.rand(4, generator=torch.Generator().manual_seed(step)) + 0.5
            weighting((noise * SIZES.flip(0)).requires_grad_()).backward()
            weighting.step()
        found.append(weighting._factor)
    torch.testing.assert_close(*found, rtol=1e-5, atol=0.0)


def go_on(weighting, steps=range(150, 160)):
    for step in steps:
        noise = torch.rand(4, generator=torch.Generator().manual_seed(step)) + 0.5
        weighting((noise * SIZES * 0.99**step).requires_grad_()).backward()
        weighting.step()
    return weighting.log_var, weighting._factor


def loaded(weighting):
    twin = UncertaintyWeighting(TASKS)
    twin.expect(100)
    twin.load_state_dict(weighting.state_dict())
    return twin


def send_and_go_on(few):
    """In a process of its own: a write to memory that is gone would end this one."""
    window._FEW = few
    weighting = trained(150)
    twin = loaded(weighting)
    ForkingPickler.dumps(weighting)
    return [*go_on(weighting), *go_on(twin)]


def test_an_engine_that_was_sent_to_another_process_goes_on_in_memory_of_its_own(tmp_path):
    """Torch moves the tensors of what it pickles for a process to shared memory."""
    (found,) = run_ranks(send_and_go_on, window._FEW, folder=tmp_path, world=1)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


@pytest.mark.parametrize("move", [lambda w: w.to("cpu"), lambda w: pickle.loads(pickle.dumps(w))])
def test_from_another_device_it_goes_on_as_one_that_is_loaded(move, monkeypatch):
    monkeypatch.setattr(window, "NUMPY", False)
    weighting = trained(150)
    monkeypatch.setattr(window, "NUMPY", True)
    twin = loaded(weighting)
    for one, other in zip(go_on(move(weighting)), go_on(twin), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_a_loss_that_is_never_positive_makes_no_step_longer(value, monkeypatch):
    weighting = trained(150, hide=lambda _: [("aux", value)])
    monkeypatch.setattr(type(weighting), "_learn_the_long_way", lambda *_: pytest.fail("the long way"))
    losses = SIZES.clone()
    losses[3] = value
    weighting(losses.requires_grad_()).backward()
    weighting.step()
    assert not weighting.relative.all_joined
