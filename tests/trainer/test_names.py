"""The names of the mixin: what else a module calls so is refused where it is written, with the way out."""

import functools

import lightning as L
import pytest
import torch
from torch import nn

import lightning_uncertainty as package
from lightning_uncertainty import Task, UncertaintyMixin
from lightning_uncertainty.likelihoods import LAPLACE
from tests.models import TASKS, Plain, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback

OWN = {
    "module": lambda: nn.Linear(2, 2),
    "modules by name": lambda: nn.ModuleDict({"a": nn.Linear(2, 2)}),
    "modules yet to come": nn.ModuleDict,
    "parameter": lambda: nn.Parameter(torch.zeros(2)),
    "tensor": lambda: torch.zeros(2),
    "number": lambda: 0.5,
    "string": lambda: "entropy",
    "names": lambda: {"a", "b"},
    "metrics": lambda: {"a": nn.MSELoss(), "b": nn.L1Loss()},
    "function": lambda: lambda x: x,
}
NAMES = ["uncertainty", "weigh", "tasks"]


def says_the_way_out(name):
    return rf"{name} is a name of UncertaintyMixin: .*; found .*another name, for example `own_{name}`"


def made(name, put):
    """A module that does with ``name`` what ``put`` does, at the end of its ``__init__``."""

    class Net(Weighed):
        def __init__(self):
            super().__init__()
            put(self, name)

    return Net()


@pytest.mark.parametrize("what", OWN)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_assigned_to_a_name_of_the_mixin_is_refused_there(name, what):
    with pytest.raises((TypeError, ValueError), match="Net" + r"\." + says_the_way_out(name)):
        made(name, lambda module, name: setattr(module, name, OWN[what]()))


REGISTERED = {
    "add_module": lambda module, name: module.add_module(name, nn.Linear(2, 2)),
    "register_module": lambda module, name: module.register_module(name, nn.Linear(2, 2)),
    "register_parameter": lambda module, name: module.register_parameter(name, nn.Parameter(torch.zeros(2))),
    "register_buffer": lambda module, name: module.register_buffer(name, torch.zeros(2)),
    "register_buffer, not saved": lambda module, name: module.register_buffer(name, torch.zeros(2), persistent=False),
}


@pytest.mark.parametrize("way", REGISTERED)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_registered_under_a_name_of_the_mixin_is_refused_there(name, way):
    with pytest.raises(TypeError, match=says_the_way_out(name)):
        made(name, REGISTERED[way])
    net = made("own", REGISTERED[way])
    assert hasattr(net, "own")


@pytest.mark.parametrize("value", [lambda *_: 0, property(str), 0.5, nn.Linear(2, 2), nn.Linear])
@pytest.mark.parametrize("name", ["uncertainty", "weigh"])
@pytest.mark.parametrize("place", ["the class", "a class before", "a class behind"])
def test_what_a_class_calls_so_is_refused_where_it_is_written(place, name, value):
    other = type("Other", (L.LightningModule if place == "a class behind" else object,), {name: value})
    bases = {"a class before": (other, Weighed), "a class behind": (UncertaintyMixin, other)}.get(place, (Weighed,))
    with pytest.raises(TypeError, match=r"Net\." + says_the_way_out(name)):
        type("Net", bases, {name: value} if place == "the class" else {})


@pytest.mark.parametrize("value", [{"a", "b"}, lambda *_: 0, classmethod(str), {"a": nn.Linear(2, 2)}, 3])
def test_tasks_of_a_class_that_are_none_are_refused_where_they_are_written(value):
    with pytest.raises((TypeError, ValueError), match=r"Net\." + says_the_way_out("tasks")):
        type("Net", (Weighed,), {"tasks": value})


@pytest.mark.parametrize(
    "tasks",
    [TASKS, [Task("a"), Task("b", "laplace")], {"a": 1.0, "b": LAPLACE}, None, {}, (Task(name) for name in "ab")],
    ids=["short", "list", "mixed", "left to the callback", "to be filled", "generator"],
)
def test_tasks_may_be_given_in_every_form(tasks):
    assert made("tasks", lambda module, name: setattr(module, name, tasks)).tasks is tasks
    assert type("Net", (Weighed,), {"tasks": tasks}).tasks is tasks


@pytest.mark.parametrize("kind", [property, functools.cached_property])
def test_tasks_may_be_computed(tmp_path, kind):
    class Net(Weighed):
        tasks = kind(lambda self: {"a": "gaussian", "b": self.likelihood})
        likelihood = "softmax"

    if kind is functools.cached_property:
        Net.tasks.__set_name__(Net, "tasks")
    module, _ = fit(tmp_path, Net(), max_epochs=1)
    assert module.uncertainty.tasks["b"].likelihood.name == "softmax"


def test_weigh_may_be_extended_and_wrapped(tmp_path):
    class Net(Weighed):
        def weigh(self, losses, **options):
            return 2.0 * super().weigh(losses, **options)

    module = Net()
    module.weigh = functools.wraps(module.weigh)(lambda *args, weigh=module.weigh, **options: weigh(*args, **options))
    fit(tmp_path, module, max_epochs=1)
    plain, _ = fit(tmp_path, max_epochs=1)
    assert module.uncertainty.steps == plain.uncertainty.steps == 24


def test_a_module_may_keep_its_own_names_beside_those_of_the_mixin(tmp_path):
    class Net(Weighed):
        def __init__(self):
            super().__init__()
            self._uncertainty = nn.Linear(2, 2)  # what one falls back to first
            self.own_uncertainty = nn.Linear(2, 2)

    module = Net()
    with pytest.raises(AttributeError, match="no weights yet"):
        _ = module.uncertainty
    fit(tmp_path, module, max_epochs=1)
    assert isinstance(module._uncertainty, nn.Linear)
    assert isinstance(module.uncertainty, package.UncertaintyWeighting)


# ---------------------------------------------------------------------------------------------------- probing


@pytest.mark.parametrize("make", [Weighed, UncertaintyCallback], ids=["module", "callback"])
def test_who_probes_every_attribute_meets_a_value_or_an_attribute_error(tmp_path, make):
    """As frameworks do, before and after a fit."""
    one = make()
    for name in dir(one):
        if name not in dir(L.LightningModule) and name not in dir(L.Callback):
            getattr(one, name, None)
            hasattr(one, name)
    attribute = "uncertainty" if make is Weighed else "weighting"
    assert not hasattr(one, attribute)
    assert getattr(one, attribute, 7) == 7
    with pytest.raises(AttributeError, match=r"no weights yet.*Trainer"):
        getattr(one, attribute)
    module, callback = (one, UncertaintyCallback()) if make is Weighed else (Weighed(), one)
    fit(tmp_path, module, callback=callback, max_epochs=1)
    assert hasattr(one, attribute)


def test_a_name_that_nobody_has_is_reported_as_ever():
    for kind in (Plain, Weighed):
        with pytest.raises(AttributeError, match=rf"'{kind.__name__}' object has no attribute 'nothing'"):
            _ = kind().nothing


def test_an_attribute_error_in_the_users_property_is_not_taken_for_ours():
    class Net(Weighed):
        @property
        def head(self):
            return self.missing

    with pytest.raises(AttributeError, match="no attribute 'head'"):  # the words of nn.Module
        _ = Net().head


def test_the_refusal_comes_before_any_training(tmp_path):
    class Net(Weighed):
        def configure_model(self):
            self.uncertainty = nn.Linear(2, 2)

    with pytest.raises(TypeError, match=says_the_way_out("uncertainty")):
        trainer(tmp_path).fit(Net(), batches())
