"""What a strategy, and a quantity of the state, get from the engine for free."""

import io
import math
from dataclasses import dataclass

import pytest
import torch

from lightning_uncertainty import UncertaintyWarning
from lightning_uncertainty.engine.state import EngineState, TaskTensors
from lightning_uncertainty.strategies import Fixed, Strategy, Uncertainty
from tests.models import Weighed, fit
from tests.paper import UncertaintyCallback, UncertaintyWeighting

TASKS = {"a": "gaussian", "b": "laplace", "c": 0.5}


def leaf(value):
    return torch.tensor(value, requires_grad=True)


def train(weighting, steps=1, **values):
    for _ in range(steps):
        losses = {name: leaf(value) for name, value in values.items()}
        total = weighting(losses)
        total.backward()
        weighting.step()
    return total, {name: loss.grad.item() for name, loss in losses.items()}


# ---------------------------------------------------------------------------------------------------- given factors


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("fixed", (1.0, 1.0, 0.5)), (Fixed({"a": 3.0}), (3.0, 1.0, 0.5)), (Fixed({"c": 0.0, "b": 2.0}), (1.0, 2.0, 0.0))],
    ids=["by name", "one given", "a number overruled"],
)
def test_fixed_is_the_sum_with_the_given_factors(strategy, expected):
    weighting = UncertaintyWeighting(TASKS, strategy=strategy)
    total, gradients = train(weighting, steps=3, a=2.0, b=3.0, c=4.0)
    assert tuple(gradients.values()) == expected
    assert total.item() == sum(factor * loss for factor, loss in zip(expected, (2.0, 3.0, 4.0), strict=True))
    assert tuple(weighting.weights.values()) == expected
    assert weighting.sigmas == {}
    assert "uncertainty/sigma/a" not in weighting.snapshot().metrics()


def test_fixed_factors_come_back_from_a_state_and_those_given_now_win():
    state = UncertaintyWeighting(TASKS, strategy=Fixed({"a": 3.0})).state_dict()
    assert UncertaintyWeighting.from_state_dict(state).weights == {"a": 3.0, "b": 1.0, "c": 0.5}
    other = UncertaintyWeighting(TASKS, strategy=Fixed({"a": 7.0}))
    other.load_state_dict(state)
    assert other.weights["a"] == 7.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: UncertaintyWeighting(TASKS, strategy="fixd"), "Unknown strategy 'fixd'. Did you mean 'fixed'"),
        (lambda: UncertaintyWeighting(TASKS, strategy=Fixed({"d": 1.0})), "Unknown task 'd'"),
        (lambda: UncertaintyWeighting(TASKS, strategy=Uncertainty), r"write `strategy=Uncertainty\(\)`"),
        (lambda: UncertaintyCallback(strategy=Uncertainty), r"write `strategy=Uncertainty\(\)`"),
        (lambda: UncertaintyCallback(strategy=3), "Unknown strategy 3"),
        (lambda: Fixed({"a": -1.0}), "'a'"),
        (
            lambda: UncertaintyWeighting(TASKS, strategy="fixed", lr=0.5),
            r"lr=0.5 would have.*Uncertainty\(lr",
        ),
        (lambda: UncertaintyWeighting(TASKS, strategy=Uncertainty(), init=3.0), "init=3.0 would have no effect"),
        (lambda: UncertaintyWeighting(TASKS, strategy=Nameless()), "Nameless has no name"),
        (lambda: UncertaintyWeighting(TASKS, strategy=Clashing()), "cannot have a field 'raw_loss'"),
        (lambda: setattr(UncertaintyWeighting(TASKS, strategy="fixed"), "sigmas", {"a": 1.0}), "'fixed' has no log"),
    ],
    ids=[
        *("name", "task", "a class", "a class for the callback", "a number for the callback", "factor"),
        *("an option beside a name", "one beside an object", "no name", "a field", "sigma"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(("saved", "present"), [("uncertainty", "fixed"), ("fixed", "uncertainty")])
def test_a_state_of_another_strategy_loads_with_a_word_and_keeps_what_is_common(saved, present):
    one, other = (UncertaintyWeighting(TASKS, strategy=strategy) for strategy in (saved, present))
    train(one, steps=3, a=2.0, b=3.0, c=4.0)
    fresh = other.weights
    with pytest.warns(UncertaintyWarning, match=f"strategy='{saved}', and this is '{present}'"):
        other.load_state_dict(one.state_dict())
    assert (other.steps, other.weights) == (3, fresh)
    assert other.snapshot().tasks["a"].raw_loss == 2.0


def test_a_strategy_of_ones_own_settings_is_the_named_one_with_these_options():
    named = UncertaintyWeighting(TASKS, lr=0.1, betas=(0.9, 0.99), init=0.0, regularizer="sigma")
    made = UncertaintyWeighting(TASKS, strategy=Uncertainty(lr=0.1, init=0.0, regularizer="sigma"))
    for weighting in (named, made):
        train(weighting, steps=5, a=2.0, b=3.0, c=4.0)
    assert torch.equal(named.log_var, made.log_var)
    assert named.state_dict()["regularizer"] == made.state_dict()["regularizer"] == "sigma"


def test_engines_do_not_share_the_strategy_that_was_given():
    strategy = Uncertainty(init=0.0)
    one, other = (UncertaintyWeighting(TASKS, strategy=strategy) for _ in range(2))
    train(one, steps=3, a=9.0, b=3.0, c=1.0)
    assert other.log_var.tolist() == [0.0, 0.0, 0.0]
    assert not hasattr(strategy, "state")


# ---------------------------------------------------------------------------------------------------- one of one's own


@dataclass
class EpochState(TaskTensors):
    epoch_mean: torch.Tensor
    epochs: torch.Tensor


class Inverse(Strategy):
    """One over the mean loss of the last step, doubled after each epoch: nobody's method, small and with a state."""

    name = "inverse"

    def bind(self, tasks):
        ones = torch.ones(len(tasks))
        self.state = EpochState(ones, torch.zeros(len(tasks)))
        self.learned = {task.name: False for task in tasks}
        self.offset = torch.zeros(len(tasks))
        self.restored()

    def restored(self):
        self.factor = 2.0**self.state.epochs / self.state.epoch_mean
        return super().restored()

    def learn(self, mean_loss, slope, present):
        self.state.epoch_mean = torch.where(present, mean_loss, self.state.epoch_mean)
        self.restored()

    def end_epoch(self):
        self.state.epochs += 1.0
        self.restored()


class Live(Strategy):
    """One over the very loss of the call: it overrides nothing else."""

    name = "live"

    def bind(self, tasks):
        self.state, self.learned = TaskTensors(), {task.name: False for task in tasks}
        self.factor, self.offset = torch.ones(len(tasks)), torch.zeros(len(tasks))

    def factors(self, raw_loss):
        return 1.0 / raw_loss, self.offset


class Nameless(Live):
    name = None


@dataclass
class ClashingState(TaskTensors):
    raw_loss: torch.Tensor


class Clashing(Live):
    def bind(self, tasks):
        super().bind(tasks)
        self.state = ClashingState(torch.zeros(len(tasks)))


def test_its_state_comes_back_through_a_module_that_is_loaded_without_it(tmp_path):
    module, _ = fit(tmp_path, Weighed(), callback=UncertaintyCallback(strategy=Inverse()), max_epochs=2)
    trained = module.uncertainty.state_dict()
    with pytest.warns(UncertaintyWarning, match="strategy='inverse', and this is 'fixed'"):
        between = UncertaintyWeighting.from_state_dict(trained)
    assert str(between.state_dict()) == str(trained)
    again = UncertaintyWeighting(module.tasks, strategy=Inverse())
    again.load_state_dict(between.state_dict())
    assert again.weights == module.uncertainty.weights
    train(between, a=1.0, b=1.0)  # then it is what it learned since
    assert between.state_dict()["strategy"] == "fixed"


@pytest.mark.parametrize("wrap", [lambda call: call, lambda call: torch.compile(call, backend="aot_eager")])
def test_factors_may_follow_from_the_losses_of_the_call(wrap):
    weighting = UncertaintyWeighting(TASKS, strategy=Live())
    losses = {"a": leaf(4.0), "b": leaf(8.0), "c": leaf(2.0)}
    wrap(weighting.__call__)(losses).backward()
    assert {name: loss.grad.item() for name, loss in losses.items()} == {"a": 0.25, "b": 0.125, "c": 0.5}


def test_a_strategy_of_ones_own_gets_missing_tasks_snapshots_and_checkpoints():
    weighting = UncertaintyWeighting(TASKS, strategy=Inverse())
    train(weighting, a=2.0, b=4.0, c=math.nan)
    assert weighting.weights == {"a": 0.5, "b": 0.25, "c": 1.0}
    weighting.end_epoch()
    file = io.BytesIO()
    torch.save(weighting.state_dict(), file)
    file.seek(0)
    resumed = UncertaintyWeighting(TASKS, strategy=Inverse())
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert str(resumed.snapshot()) == str(weighting.snapshot())  # a NaN equals none
    assert resumed.snapshot().tasks["b"].more == {"epoch_mean": 4.0, "epochs": 1.0}
    assert train(resumed, a=2.0)[1] == train(weighting, a=2.0)[1] == {"a": 1.0}


@pytest.mark.parametrize("freeze_after", [None, 0])
def test_in_a_trainer_it_learns_from_steps_and_ends_of_epochs_unless_frozen(tmp_path, freeze_after):
    callback = UncertaintyCallback(strategy=Inverse(), freeze_after=freeze_after)
    fit(tmp_path, Weighed(), callback=callback, max_epochs=2)
    tasks = callback.weighting.snapshot().tasks.values()
    assert {task.more["epochs"] for task in tasks} == {0.0 if freeze_after == 0 else 2.0}
    for task in tasks:
        assert task.factor == (1.0 if freeze_after == 0 else pytest.approx(4.0 / task.raw_loss, rel=1e-5))
        assert task.sigma is None


def test_a_strategy_may_need_the_tasks_of_the_module(tmp_path):
    callback = UncertaintyCallback(strategy=Fixed({"b": 3.0}))
    fit(tmp_path, Weighed(), callback=callback, max_epochs=1)
    assert callback.weighting.weights == {"a": 1.0, "b": 3.0}
    with pytest.raises(ValueError, match="Unknown task 'nobody'"):
        UncertaintyCallback({"a": "gaussian"}, strategy=Fixed({"nobody": 3.0}))
    with pytest.raises(ValueError, match="lr"):
        UncertaintyCallback(lr=-1.0)
    with pytest.raises(ValueError, match="Unknown strategy 'fixd'"):
        UncertaintyCallback(strategy="fixd")


# ---------------------------------------------------------------------------------------------------- one more quantity


@dataclass
class Remembering(EngineState):
    """One more number of each task: a field, and how a step changes it; its first value is said where it is made."""

    highest_loss: torch.Tensor

    def remember(self, means):
        super().remember(means)
        self.highest_loss = torch.fmax(self.highest_loss, self.raw_loss)


class Weighting(UncertaintyWeighting):
    def _new_state(self, size):
        return Remembering(**super()._new_state(size).tensors(), highest_loss=torch.zeros(size))


def test_one_more_quantity_is_found_in_checkpoint_snapshot_and_after_moving():
    weighting = Weighting(TASKS)
    for loss in (2.0, 9.0, 3.0):
        train(weighting, a=loss, b=1.0, c=1.0)
    assert weighting.state_dict()["highest_loss"].tolist() == [9.0, 1.0, 1.0]
    assert weighting.snapshot().tasks["a"].more == {"highest_loss": 9.0}
    resumed = Weighting(TASKS)
    resumed.load_state_dict(weighting.state_dict())
    assert resumed.snapshot() == weighting.snapshot()
    before = weighting._state.highest_loss
    assert weighting.to("cpu")._state.highest_loss.data_ptr() != before.data_ptr()
    assert weighting.to("meta")._state.highest_loss.device.type == "meta"
