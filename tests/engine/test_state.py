import copy
import io
import math
import pickle
import warnings

import pytest
import torch

from lightning_uncertainty import Task, UncertaintyWarning
from lightning_uncertainty.likelihoods import Likelihood
from tests.paper import UncertaintyWeighting

TASKS = {"a": "gaussian", "b": "laplace", "c": "softmax"}


def run(weighting, values):
    for row in values:
        weighting(
            {n: v.clone().requires_grad_() for n, v in zip(("a", "b", "c"), row, strict=True) if n in weighting.tasks}
        ).backward()
        weighting.step()


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key].nan_to_num(7.0), other[key].nan_to_num(7.0))
        if isinstance(one[key], torch.Tensor)
        else one[key] == other[key]
        for key in one
    )


@pytest.fixture
def values():
    return torch.rand(60, 3, generator=torch.Generator().manual_seed(0)) * 5


@pytest.fixture
def trained(values):
    weighting = UncertaintyWeighting(TASKS)
    run(weighting, values[:30])
    return weighting


def test_resumed_equals_uninterrupted_bit_for_bit_through_a_safe_load(trained, values):
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    resumed = UncertaintyWeighting(TASKS)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for weighting in (trained, resumed):
        run(weighting, values[30:])
    assert same(trained.state_dict(), resumed.state_dict())
    assert trained.snapshot() == resumed.snapshot()


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))], ids=["copy", "pickle"]
)
def test_a_copy_goes_on_as_the_original_and_is_saved_as_it(trained, values, way):
    twin = way(trained)
    for weighting in (trained, twin):
        run(weighting, values[30:])
    assert same(trained.state_dict(), twin.state_dict())
    fresh = UncertaintyWeighting(TASKS)
    fresh.load_state_dict(twin.state_dict())
    for weighting in (trained, fresh):
        run(weighting, values[:5])
    assert same(trained.state_dict(), fresh.state_dict())


def test_warmup_freezing_and_counts_are_resumed():
    one = UncertaintyWeighting({"a": "gaussian"}, warmup_steps=4, freeze_after=8)
    two = UncertaintyWeighting({"a": "gaussian"}, warmup_steps=4, freeze_after=8)
    losses = [1.0, 2.0, math.nan, 4.0, 5.0, 3.0, 2.0, 8.0, 3.0, 1.0]
    for step, loss in enumerate(losses):
        one({"a": torch.tensor(loss, requires_grad=True)}).backward()
        one.step()
        fresh = UncertaintyWeighting({"a": "gaussian"}, warmup_steps=4, freeze_after=8)
        fresh.load_state_dict(two.state_dict())
        two = fresh
        two({"a": torch.tensor(loss, requires_grad=True)}).backward()
        two.step()
        assert same(one.state_dict(), two.state_dict()), step
    assert one.state_dict()["nonfinite"].item() == 1


def test_a_frozen_engine_stays_frozen():
    one, two = (UncertaintyWeighting({"a": "gaussian"}, init=0.0) for _ in range(2))
    one.freeze()
    two.load_state_dict(one.state_dict())
    two({"a": torch.tensor(9.0, requires_grad=True)}).backward()
    two.step()
    assert two.frozen
    assert two.log_vars["a"] == 0.0


def test_an_engine_can_be_made_of_its_state_alone(trained):
    weighting = UncertaintyWeighting({**TASKS, "aux": 0.25}, regularizer="sigma")
    weighting.log_vars = trained.log_vars
    twin = UncertaintyWeighting.from_state_dict(weighting.state_dict())
    losses = {name: torch.tensor(2.0, requires_grad=True) for name in weighting.tasks}
    assert torch.equal(twin(losses), weighting(losses))


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD, None])
def test_an_engine_made_of_its_state_has_the_factors_that_suited_the_optimizers(make):
    weighting = UncertaintyWeighting(["a", "b", "c"], guard=False)
    weighting.suit([make([torch.nn.Parameter(torch.ones(()))], lr=0.1)] if make else [])
    weighting(torch.tensor([400.0, 0.5, 0.1], requires_grad=True)).backward()
    weighting.step()
    twin = UncertaintyWeighting.from_state_dict(weighting.state_dict())
    assert twin.fixed_weights() == weighting.fixed_weights()
    again = UncertaintyWeighting.from_state_dict(twin.state_dict())
    assert again.fixed_weights() == weighting.fixed_weights()


def test_a_likelihood_of_ones_own_is_made_of_its_state_too():
    tasks = {"a": Likelihood("own", rate=0.5, coefficient=3.0), "b": Likelihood("gaussian", coefficient=1.0)}
    weighting = UncertaintyWeighting({**tasks, "c": "laplace"})
    weighting({name: torch.tensor(2.0, requires_grad=True) for name in "abc"}).backward()
    weighting.step()
    twin = UncertaintyWeighting.from_state_dict(weighting.state_dict())
    assert twin.tasks == weighting.tasks
    assert twin.weights == weighting.weights


def test_all_settings_of_the_tasks_are_made_of_its_state(tmp_path):
    tasks = [
        Task("depth", "laplace", init=0.5, bounds=(-3.0, 3.0), unit="m", importance=4.0),
        Task("kind", "softmax", classes=10),
        Task("mu (D)", init="auto"),
        Task("aux", 0.25, importance=0.5),
    ]
    weighting = UncertaintyWeighting(tasks)
    torch.save(weighting.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert list(UncertaintyWeighting.from_state_dict(state).tasks.values()) == tasks
    with pytest.raises(ValueError, match=r"its settings .* are damaged: Task 'depth' has no option 'colour'"):
        UncertaintyWeighting.from_state_dict({**state, "settings": {"depth": {"colour": "red"}}})


def test_another_regularizer_than_that_of_the_checkpoint_is_named(trained):
    other = UncertaintyWeighting(TASKS, regularizer="sigma")
    with pytest.warns(UncertaintyWarning, match="trained with regularizer='log_sigma', and this is 'sigma'"):
        other.load_state_dict(trained.state_dict())


def test_a_state_is_not_changed_by_what_comes_after(trained, values):
    state = trained.state_dict()
    kept = {key: value.clone() for key, value in state.items() if isinstance(value, torch.Tensor)}
    run(trained, values[30:])
    assert all(torch.equal(state[key], value) for key, value in kept.items())


def test_tasks_are_matched_by_name_when_reordered(trained):
    other = UncertaintyWeighting({"c": "softmax", "a": "gaussian", "b": "laplace"})
    other.load_state_dict(trained.state_dict())
    assert {n: other.log_vars[n] for n in TASKS} == trained.log_vars


def test_a_new_task_starts_from_the_data_and_a_vanished_one_is_dropped(trained):
    other = UncertaintyWeighting({"new": "gaussian", "b": "laplace"})
    with pytest.warns(UncertaintyWarning) as caught:
        other.load_state_dict(trained.state_dict())
    said = {str(warning.message).split(":")[0] for warning in caught}
    assert said == {
        "Task 'a' is in the checkpoint but not among the tasks",
        "Task 'c' is in the checkpoint but not among the tasks",
        "Task 'new' is not in the checkpoint",
    }
    assert other.log_vars["b"] == trained.log_vars["b"]
    other({"new": torch.tensor(1e4, requires_grad=True)}).backward()
    other.step()
    assert other.log_vars["new"] == pytest.approx(math.log(1e4), rel=1e-6)


def test_fixed_tasks_have_nothing_to_restore_and_many_new_ones_are_one_warning(trained):
    fixed = UncertaintyWeighting({**TASKS, "aux": 0.1})
    fixed.load_state_dict(trained.state_dict())  # a warning would be an error here
    UncertaintyWeighting({**TASKS, "aux": 0.2}).load_state_dict(fixed.state_dict())
    UncertaintyWeighting(TASKS).load_state_dict(fixed.state_dict())
    many = UncertaintyWeighting({**TASKS, **dict.fromkeys(map(str, range(40)), "gaussian")})
    with pytest.warns(UncertaintyWarning) as caught:
        many.load_state_dict(trained.state_dict())
    (text,) = (str(warning.message) for warning in caught)
    assert text.startswith("Task '0' is not in the checkpoint: its sigma was not restored. The same of '1', '2', ")
    assert text.endswith(" and 27 more.")


def test_s_of_another_likelihood_is_not_taken_over(trained):
    other = UncertaintyWeighting({**TASKS, "b": "gaussian"})
    with pytest.warns(UncertaintyWarning, match="'b' was 'laplace' in the checkpoint and is 'gaussian' now"):
        other.load_state_dict(trained.state_dict())
    assert other.log_vars["b"] == 0.0
    assert other.log_vars["a"] == trained.log_vars["a"]


DAMAGE = {
    "not a mapping": (lambda s: [s], "of type list"),
    "empty": (lambda _: {}, "lacks 'version', 'tasks'"),
    "missing key": (lambda s: {k: v for k, v in s.items() if k != "exp_avg"}, "lacks 'exp_avg'"),
    "newer": (lambda s: {**s, "version": 99}, "version is 99"),
    "wrong shape": (lambda s: {**s, "log_var": torch.zeros(5)}, r"'log_var' should be a tensor of shape \(3,\)"),
    "no tensor": (lambda s: {**s, "count": [1, 2, 3]}, "'count' should be a tensor .* and is list"),
    "nan": (lambda s: {**s, "log_var": torch.tensor([0.0, math.nan, 0.0])}, "'log_var' is not finite for 'b'"),
    "nan moment": (lambda s: {**s, "exp_avg_sq": torch.tensor([0.0, 0.0, math.inf])}, "not finite for 'c'"),
    "twice": (lambda s: {**s, "tasks": ["a", "a", "b"]}, "task list"),
    "negative moment": (lambda s: {**s, "exp_avg_sq": torch.tensor([1.0, -1.0, 0.0])}, "'exp_avg_sq' is negative"),
    "negative count": (lambda s: {**s, "count": torch.tensor([1.0, -1.0, 0.0])}, "'count' is negative"),
    "complex": (lambda s: {**s, "log_var": torch.zeros(3, dtype=torch.complex64)}, "'log_var' is complex"),
    "no steps": (lambda s: {**s, "steps": None}, "its steps are None"),
    "negative steps": (lambda s: {**s, "steps": -5}, "its steps are -5"),
    "steps in words": (lambda s: {**s, "steps": "x"}, "its steps are 'x'"),
    "no tasks": (lambda s: {**s, "tasks": None}, "its task list None"),
    "nested tasks": (lambda s: {**s, "tasks": [["a"], "b", "c"]}, "its task list"),
    "no regularizer": (lambda s: {**s, "regularizer": None}, "its regularizer is None"),
    "version 0": (lambda s: {**s, "version": 0}, "its version is 0"),
    "short": (lambda s: {**s, "likelihoods": ["gaussian"]}, "task list"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused_whole(trained, damage):
    spoil, message = DAMAGE[damage]
    weighting = UncertaintyWeighting(TASKS)
    before = weighting.state_dict()
    with pytest.raises(ValueError, match=message):
        weighting.load_state_dict(spoil(trained.state_dict()))
    assert same(before, weighting.state_dict())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("log_var", [-500.0, -30.0])
def test_a_loaded_s_outside_of_the_bounds_is_moved_to_the_nearest_one_and_named(trained, log_var, frozen):
    state = {**trained.state_dict(), "frozen": frozen}
    state["log_var"] = state["start"] = torch.tensor([0.0, log_var, 0.0])
    weighting = UncertaintyWeighting(TASKS, bounds=(-2.0, 2.0))
    with pytest.warns(UncertaintyWarning, match="task 'b' in the checkpoint lies outside its bounds"):
        weighting.load_state_dict(state)
    assert weighting.log_var.tolist() == [0.0, -2.0, 0.0]
    loss = torch.tensor(2.0, requires_grad=True)
    weighting({"b": loss}).backward()
    assert loss.grad.item() == pytest.approx(math.exp(1.0))


def test_moving_copies_and_keeps_single_precision(trained):
    log_var = trained.strategy.log_var
    trained.to("cpu")
    assert trained.strategy.log_var.data_ptr() != log_var.data_ptr()
    assert torch.equal(trained.strategy.log_var, log_var)
    meta = trained.to("meta")
    assert meta.device == torch.device("meta")
    assert meta.log_var.dtype == torch.float32
    with pytest.raises((TypeError, RuntimeError)):
        trained.to(torch.float16)


def test_a_loaded_state_says_nothing_when_all_tasks_match(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UncertaintyWeighting(TASKS).load_state_dict(trained.state_dict())
