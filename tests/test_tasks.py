import itertools
import re
from enum import Enum
from fractions import Fraction

import numpy as np
import pytest
from torch import nn
from torch.nn import functional as F

from lightning_uncertainty import Task, predictive
from lightning_uncertainty.likelihoods import LAPLACE, Likelihood, fixed
from lightning_uncertainty.tasks import metric_keys, parse_tasks


@pytest.mark.parametrize(
    "specs",
    [
        {"depth": "laplace", "aux": 0.1},
        {"depth": Task("depth", "laplace"), "aux": fixed(0.1)},
        {"depth": {"likelihood": "laplace"}, "aux": {"likelihood": 0.1}},
        [Task("depth", LAPLACE), Task("aux", 0.1)],
    ],
    ids=["short", "tasks by name", "dicts", "list"],
)
def test_all_forms_mean_the_same(specs):
    assert parse_tasks(specs) == (Task("depth", LAPLACE), Task("aux", fixed(0.1)))


def test_options_of_a_task_can_come_from_a_config_file():
    (task,) = parse_tasks({"depth": {"likelihood": "laplace", "init": 0.5, "bounds": [-3, 3]}})
    assert task == Task("depth", "laplace", init=0.5, bounds=(-3.0, 3.0))


@pytest.mark.parametrize("name", ["depth", "a", "7", "inverse_depth", "Tiefe-größe", "a.b c", "_x", "Δε"])
def test_a_name_that_loggers_take_is_its_own_key(name):
    assert Task(name).name == name
    assert metric_keys([name]) == {name: name}


KEYS = {
    "U/atom": "U_atom",
    "mu (D)": "mu_D",
    "CC50 [uM]": "CC50_uM",
    "log P (o/w)": "log_P_o_w",
    "⟨r²⟩": "r²",
    "Δε̃": "Δε",
    "depth ": "depth",
    " depth": "depth",
    "a\nb": "a_b",
    "-a": "a",
    "{a}": "a",
    "a" * 99 + "!": "a" * 99,
}


@pytest.mark.parametrize(("name", "key"), KEYS.items(), ids=map(repr, KEYS))
def test_other_names_are_kept_and_have_a_key_that_loggers_take(name, key):
    assert Task(name).name == name
    assert metric_keys([name]) == {name: key}


@pytest.mark.parametrize(
    "names", [("U/atom", "U_atom", "U:atom"), ("%", "$", "task"), ("a", "a ", "a!"), ("x (1)", "x [1]")], ids=str
)
def test_keys_differ_and_do_not_depend_on_the_order(names):
    keys = metric_keys(names)
    assert len({*keys.values()}) == len(names)
    assert all(re.fullmatch(r"\w[\w.-]*", key) for key in keys.values())
    assert {name: keys[name] for name in ("U_atom", "task", "a") if name in names}.items() <= {
        (name, name) for name in names
    }
    for order in itertools.permutations(names):
        assert metric_keys(order) == keys


@pytest.mark.parametrize("name", ["", " ", "\n"])
def test_a_name_without_anything_to_read_is_refused(name):
    with pytest.raises(ValueError, match=r"cannot name a task\. Expected a name that can be read, for example 'depth'"):
        Task(name)


@pytest.mark.parametrize(
    ("specs", "error", "message"),
    [
        ({}, ValueError, "no tasks"),
        ([], ValueError, "no tasks"),
        ([Task("a"), Task("b"), Task("a")], ValueError, "more than once: 'a'"),
        ("depth", TypeError, "Expected tasks as"),
        (3, TypeError, "Expected tasks as"),
        ({"depth", "normals"}, TypeError, "Expected tasks as"),
        ({3: "laplace"}, TypeError, "must be a string"),
        ({"depth": "l1"}, ValueError, "Unknown likelihood 'l1'"),
        ({"depth": True}, ValueError, "Unknown likelihood True"),
        ({"depth": None}, ValueError, "Unknown likelihood None"),
        ({"depth": {"likelihod": "laplace"}}, ValueError, "no option 'likelihod'. Did you mean 'likelihood'"),
        ({"depth": {"init": "data"}}, ValueError, 'init must be "auto" or'),
        ({"depth": {"init": float("nan")}}, ValueError, "init must be"),
        ({"depth": {"bounds": (1, 0)}}, ValueError, "bounds must be"),
        ({"depth": {"bounds": 3}}, ValueError, "bounds must be"),
        ({"depth": {"bounds": "ab"}}, ValueError, "bounds must be"),
    ],
)
def test_what_is_wrong_is_said(specs, error, message):
    with pytest.raises(error, match=message):
        parse_tasks(specs)


def test_a_task_cannot_be_changed():
    with pytest.raises(AttributeError):
        Task("depth").name = "other"


class Head(str, Enum):
    DEPTH = "depth"


@pytest.mark.parametrize("name", [Head.DEPTH, np.str_("depth"), np.array(["depth"])[0]])
def test_a_name_is_a_plain_string_whatever_kind_of_string_was_given(name):
    """A checkpoint that is loaded with weights_only=True takes no other."""
    assert type(Task(name).name) is type(Likelihood(name).name) is str
    assert Task(name).name == Likelihood(name).name == name == "depth"


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.float16(0.5), np.array(0.5), Fraction(1, 2)])
def test_every_kind_of_number_is_a_number_in_a_task(number):
    task = Task("depth", number, init=number, bounds=(-number, number))
    assert task == Task("depth", 0.5, init=0.5, bounds=(-0.5, 0.5))
    assert Task("depth", Likelihood("own", rate=number)) == Task("depth", Likelihood("own", rate=0.5))
    kept = (task.likelihood.coefficient, task.init, *task.bounds)
    assert {type(value) for value in kept} == {float}
    assert Task("depth", bounds=np.array([-1, 1])).bounds == (-1.0, 1.0)


@pytest.mark.parametrize("value", [np.True_, np.array(True), np.array([0.5]), np.str_("0.5"), 1j, np.complex64(1)])
@pytest.mark.parametrize("field", ["likelihood", "init", "bounds"])
def test_what_is_no_number_is_refused_in_a_task(field, value):
    with pytest.raises(ValueError, match=r"Unknown likelihood|init must be|bounds must be"):
        Task("depth", **{field: (value, value) if field == "bounds" else value})


LOSSES = {
    "gaussian": [
        "mse",
        "MSE",
        "l2",
        "mse_loss",
        nn.MSELoss(),
        nn.MSELoss,
        F.mse_loss,
        "Gaussian",
        "normal",
        "regression",
    ],
    "laplace": ["l1", "mae", "L1Loss", nn.L1Loss(), F.l1_loss, "huber", "smooth_l1", nn.HuberLoss(), F.smooth_l1_loss],
    "softmax": ["ce", "cross_entropy", "nll_loss", nn.CrossEntropyLoss(), F.nll_loss, nn.NLLLoss, "classification"],
    "bernoulli": ["bce", "bce_with_logits", nn.BCELoss(), F.binary_cross_entropy_with_logits, "binary", "multilabel"],
    "nll": [
        "gaussian_nll",
        F.gaussian_nll_loss,
        nn.GaussianNLLLoss(),
        nn.PoissonNLLLoss,
        predictive.noisy_cross_entropy,
    ],
}


@pytest.mark.parametrize(("right", "loss"), [(right, loss) for right, losses in LOSSES.items() for loss in losses])
def test_the_name_of_a_loss_is_answered_with_its_likelihood(right, loss):
    with pytest.raises(ValueError, match=rf"Unknown likelihood .*write '{right}'[.,].* Known: 'gaussian', 'laplace'"):
        Task("depth", loss)


@pytest.mark.parametrize("loss", ["kl", "elbo", nn.KLDivLoss(), "dice", "focal", nn.TripletMarginLoss, "IoU"])
def test_a_loss_without_a_likelihood_is_answered_with_a_number(loss):
    with pytest.raises(ValueError, match=r"Unknown likelihood .*write a number, its fixed weight, "):
        parse_tasks({"aux": loss})


@pytest.mark.parametrize("likelihood", ["gausian", "sofmax", [1.0], {1.0}, b"l1", object()])
def test_what_nobody_can_mean_is_answered_with_the_known_ones(likelihood):
    with pytest.raises(ValueError, match=r"Unknown likelihood .*Known: 'gaussian', 'laplace'"):
        Task("depth", likelihood)
