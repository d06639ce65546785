"""Arms: how options, weights, strategies and functions of the seed are told apart, and what each trains."""

import math

import numpy as np
import pytest
import torch

from lightning_uncertainty import UncertaintyCallback, UncertaintyWeighting
from lightning_uncertainty.comparison.arms import Arm, ComparisonError, parse_arms
from lightning_uncertainty.comparison.result import ComparisonResult
from lightning_uncertainty.strategies import Random
from lightning_uncertainty.strategies.fixed import Fixed
from tests.comparison.test_study import METRICS, QUICK, Net, run

TWO = {"a": 0.1, "b": 3.0}


@pytest.mark.parametrize(
    ("given", "arm"),
    [
        ({"lr": 0.02}, Arm("mine", options={"lr": 0.02})),
        ({"freeze_after": 0, "init": 1.0}, Arm("mine", options={"freeze_after": 0, "init": 1.0})),
        (TWO, Arm("mine", TWO)),
        ({"a": 1, "b": 0}, Arm("mine", {"a": 1, "b": 0})),
        ({"a": np.float32(0.5), "b": np.int64(3)}, Arm("mine", {"a": 0.5, "b": 3.0})),
        ("fixed", Arm("mine", options={"strategy": "fixed"})),
        (lambda seed: {"a": seed, "b": 1}, Arm("mine", {"a": 7, "b": 1})),
    ],
    ids=["option", "options", "weights", "weight of 0", "weights of numpy", "strategy", "function of the seed"],
)
def test_an_arm_is_read_by_its_form(given, arm):
    arms = parse_arms({"mine": given}, {}, "equal")
    assert [each.name for each in arms] == ["equal", "learned", "mine"]
    assert arms[-1].at(7) == arm


def test_equal_and_learned_weights_stay_unless_they_are_replaced_or_left_out():
    def names(arms, baseline="equal"):
        return [arm.name for arm in parse_arms(arms, {"mine": TWO}, baseline)]

    assert names({"more": {"lr": 0.1}}) == ["equal", "learned", "mine", "more"]
    assert names({"equal": None}, "mine") == ["mine", "learned"]
    assert names({"learned": None}) == ["equal", "mine"]
    assert parse_arms({"learned": {"lr": 0.5}}, {}, "equal")[1] == Arm("learned", options={"lr": 0.5})


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"mine": {"lr": 0.02, "a": 1.0}}, "an option, 'lr', beside 'a', which is none"),
        ({"mine": {"scale": 1.0, "a": 1.0}}, r"if 'scale' is a task, by `fixed=\{'mine': ...\}`"),
        ({"mine": {"lrr": "fast"}}, "If it is meant as an option: Did you mean 'lr'"),
        ({"mine": {}}, "The arm 'mine' is empty"),
        ({"mine": {"a": -1.0, "b": 1.0}}, "at least 0; got -1.0"),
        ({"mine": {"a": True, "b": 1.0}}, "at least 0; got True"),
        ({"by-hand": TWO}, "'by-hand' cannot name fixed weights, since it is in `arms` too"),
        ({"../up": TWO}, "cannot name an arm"),
        ({"equal": None}, "no baseline 'equal'"),
        ({"equal": "log_sum"}, "would have the strategy 'log_sum', and tables would call it 'equal'"),
        ({"dwa": Random(seed=3)}, "would have the strategy 'random'"),
    ],
    ids=[
        *("mixed", "task like an option", "no option", "empty", "negative", "bool", "twice", "name", "no baseline"),
        *("another strategy", "another object"),
    ],
)
def test_what_is_no_arm_is_refused(arms, said):
    with pytest.raises(ComparisonError, match=said):
        parse_arms(arms, {"by-hand": TWO}, "equal")


class Ambiguous(Net):
    """One of its tasks is called like an option."""

    tasks = {"lr": "gaussian", "b": "laplace"}

    def losses(self, batch):
        losses = super().losses(batch)
        return {"lr": losses["a"], "b": losses["b"]}


class Given(Net):
    """It brings an engine of its own."""

    def __init__(self):
        super().__init__()
        self.uncertainty = UncertaintyWeighting({"a": "gaussian", "b": "gaussian"})


@pytest.mark.parametrize(
    ("module", "arm", "said"),
    [
        (Net, {"lr": -1.0}, "The options of the arm 'mine' cannot be used: .*-1.0"),
        (Net, {"tasks": {"a": "gauss"}}, "The options of the arm 'mine' cannot be used: .*'gaussian'"),
        (Net, {"a": 1.0, "bb": 1.0}, "a task 'bb'. Did you mean 'b'"),
        (Net, {"lrr": 1.0}, "a task 'lrr'. Known: 'a', 'b'. Or is it the option 'lr'"),
        (Net, "dwaa", "The options of the arm 'mine' cannot be used: .*'dwaa'"),
        (Net, lambda _: {"a": 1.0}, "say nothing of 'b'"),
        (Ambiguous, {"lr": 0.5}, "read in two ways: 'lr' is a task and an option"),
        (Given, {"lr": 0.5}, "the module brings an UncertaintyWeighting, whose own options count"),
    ],
    ids=["option", "tasks", "task", "no option", "strategy", "function", "both", "engine"],
)
def test_an_arm_that_does_not_fit_the_module_is_refused_before_any_run(tmp_path, module, arm, said):
    with pytest.raises(ComparisonError, match=said):
        run(tmp_path, module, metrics={"val/b": "min"}, arms={"mine": arm})
    assert not (tmp_path / "runs").exists()


def test_options_of_an_arm_count_over_those_of_the_callback(tmp_path):
    callback = UncertaintyCallback(init=1.0, freeze_after=0)
    arms = {
        "other": {"init": 2.0},
        "free": {"freeze_after": None, "lr": 0.1},
        "one-task": {"tasks": {"a": "gaussian", "b": 0.0}},
        "by-seed": lambda seed: {"a": float(seed), "b": 1.0},
    }
    result = run(tmp_path, seeds=[3], trainer={**QUICK, "callbacks": [callback]}, arms=arms)
    weights = {r.arm: r.weights for r in result.runs}
    assert weights["learned"]["a"] == pytest.approx(math.exp(-1.0))
    assert weights["other"]["a"] == pytest.approx(math.exp(-2.0))
    assert weights["free"]["a"] != pytest.approx(math.exp(-1.0))
    assert weights["one-task"] == {"a": pytest.approx(math.exp(-1.0)), "b": 0.0}
    assert weights["by-seed"] == {"a": 3.0, "b": 1.0}
    again = run(tmp_path, seeds=[3], trainer={**QUICK, "callbacks": [callback]}, arms={**arms, "other": {"init": 3.0}})
    assert [r.arm for r in again.runs if not r.reused] == ["other"]


def test_a_strategy_is_an_arm(tmp_path):
    arms = {"plain": "fixed", "ours": Fixed(TWO), "by-weights": TWO}
    result = run(tmp_path, seeds=[0], arms=arms)
    found = {r.arm: (r.metrics["val/a"], r.metrics["val/b"], r.factors) for r in result.runs}
    assert found["plain"] == found["equal"] != found["ours"]
    assert found["ours"] == found["by-weights"]
    assert result.table.caption.endswith("is better; plain is the strategy fixed; ours is the strategy fixed")
    assert ComparisonResult.load(tmp_path / "runs").table.caption == result.table.caption
    assert [r.reused for r in run(tmp_path, seeds=[0], arms={**arms, "ours": Fixed({**TWO, "a": 0.2})}).runs] == [
        each.arm != "ours" for each in result.runs
    ]


class TwoNets(Net):
    """Each task has a net of its own, so that what one trains cannot be seen in the other."""

    ends = []

    def __init__(self):
        super().__init__()
        self.nets = torch.nn.ModuleDict({name: torch.nn.Linear(4, 1) for name in ("a", "b")})

    def losses(self, batch):
        x, y = batch
        error = {name: self.nets[name](x)[:, 0] - y[:, i] for i, name in enumerate(("a", "b"))}
        return {"a": error["a"].square().mean(), "b": error["b"].abs().mean()}

    def on_train_end(self):
        super().on_train_end()
        self.ends.append({name: net.weight.detach().clone() for name, net in self.nets.items()})


def test_a_task_of_weight_0_gives_no_gradient(tmp_path):
    """The single-task arm is bit for bit a training on its loss alone, and leaves the other net as it was."""

    class Alone(TwoNets):
        tasks = {"a": "gaussian"}

        def losses(self, batch):
            return {"a": super().losses(batch)["a"]}

        def validation_step(self, batch, batch_idx):
            self.log("val/a", self.losses(batch)["a"])

    ends = {}
    for name, module, weights in (("single", TwoNets, {"a": 1.0, "b": 0.0}), ("alone", Alone, {"a": 1.0})):
        TwoNets.ends.clear()
        arms = {"equal": None, "learned": None, name: weights}
        run(tmp_path / name, module, metrics={"val/a": "min"}, seeds=[0], arms=arms, baseline=name)
        ends[name] = TwoNets.ends[-1]
    torch.testing.assert_close(ends["single"], ends["alone"], rtol=0.0, atol=0.0)


def test_the_factors_that_were_learned_can_be_trained_with(tmp_path):
    result = run(tmp_path)
    learned = {r.seed: r.factors for r in result.runs if r.arm == "learned"}
    weights = {r.seed: r.weights for r in result.runs if r.arm == "learned"}
    # gaussian: 1 / (2 sigma^2); laplace: 1 / b; in one scale
    assert learned[0]["a"] / learned[0]["b"] == pytest.approx(0.5 * weights[0]["a"] / weights[0]["b"], rel=1e-5)
    more = run(tmp_path, arms={"retrained": learned.__getitem__})
    assert {r.seed: r.factors for r in more.runs if r.arm == "retrained"} == {
        seed: pytest.approx(factors) for seed, factors in learned.items()
    }
    assert [r.reused for r in more.runs] == 4 * [True] + 2 * [False]
    assert all((r.folder / "logs" / "metrics.csv").is_file() for r in more.runs)
    assert set(METRICS) <= set(more.runs[-1].metrics)
