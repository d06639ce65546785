"""Each access to Lightning or torch that is not public: if a release changes it, a test here says which."""

import subprocess
import sys
from importlib import import_module

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lightning_uncertainty.trainer import packages
from lightning_uncertainty.trainer.attachment import attach_weighting, attached_weighting, was_given
from tests.models import TASKS, Plain, Weighed, batches, trainer
from tests.paper import UncertaintyWeighting

BOTH = ["lightning.pytorch", "pytorch_lightning"]
ORDERS = [
    ("lightning.pytorch", "ours"),
    ("pytorch_lightning", "ours"),
    ("ours", "pytorch_lightning"),
    ("lightning.pytorch", "ours", "pytorch_lightning"),
    ("pytorch_lightning", "ours", "lightning.pytorch"),
]


@pytest.fixture(scope="module")
def told():
    """What is printed for each order, and the errors of all."""
    command = [sys.executable, "-m", "tests.workers.import_order", *map(" ".join, ORDERS)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(ORDERS, ran.stdout.split("---\n"), strict=False)), ran.stderr


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_it_imports_the_package_of_the_user_only_and_works_in_each_whatever_came_first(told, order):
    theirs = [name for name in order if name != "ours"]
    default = ["lightning.pytorch"] if order[0] == "ours" else []  # it has to be a callback of something
    texts, errors = told
    imported, speaker, *trained = texts[order].splitlines() or ["", ""]
    assert imported.split() == sorted({*theirs, *default}), errors
    assert speaker == theirs[-1]  # whose log has what Lightning says; as it is without us
    assert trained == [f"{name} 1" for name in theirs], errors


@pytest.mark.parametrize("package", BOTH)
def test_a_callback_is_one_of_each_package(package):
    assert issubclass(packages.CallbackBase, import_module(package).Callback)


@pytest.mark.parametrize("package", BOTH)
def test_the_list_of_callbacks_is_the_trainers_own(package):
    callback = packages.CallbackBase()
    runner = import_module(package).Trainer(logger=False, accelerator="cpu", callbacks=[callback])
    packages.callbacks_of(runner).remove(callback)
    assert callback not in runner.callbacks


@pytest.mark.parametrize("package", BOTH)
def test_who_is_asked_for_a_key_while_a_trainer_is_made_knows_its_callbacks(package):
    class Asked(packages.CallbackBase):
        seen = ()

        @property
        def state_key(self):
            self.seen = [*self.seen, [*packages.callbacks_being_checked()]]
            return "key"

        def state_dict(self):
            return {}

    asked, other = Asked(), packages.CallbackBase()
    import_module(package).Trainer(callbacks=[asked, other], logger=False, accelerator="cpu")
    assert {asked, other} <= {*asked.seen[0]}
    asked.seen = ()
    assert asked.state_key == "key"
    assert asked.seen == [[]]


def test_callbacks_around_a_module_are_those_of_its_trainer_if_it_has_one(tmp_path):
    module = Plain()
    assert packages.callbacks_around(module) == []
    runner = trainer(tmp_path, mine := Callback(), max_epochs=1)
    runner.fit(module, batches(1))
    assert mine in packages.callbacks_around(module)
    with_fabric = Plain()
    L.Fabric(accelerator="cpu", devices=1).setup(with_fabric)
    assert packages.callbacks_around(with_fabric) == []


BAREBONES = {"barebones": True, "logger": None, "enable_checkpointing": None, "enable_progress_bar": None}


@pytest.mark.filterwarnings("ignore:.*barebones")
@pytest.mark.parametrize(
    ("options", "silent"),
    [({}, False), ({"fast_dev_run": True}, True), ({**BAREBONES, "enable_model_summary": None}, True)],
    ids=["ordinary", "trial run", "barebones"],
)
def test_a_trainer_is_silent_in_a_trial_run_and_barebones(tmp_path, options, silent):
    assert packages.is_silent(trainer(tmp_path, **options)) is silent


def test_what_is_published_can_be_monitored_logged_and_shown(tmp_path):
    seen = {}

    class Publishes(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            packages.publish(trainer, {"x": 2.0}, {"bar": 3.0} if batch_idx else None)
            names = ("callback_metrics", "logged_metrics", "progress_bar_metrics")
            seen[batch_idx] = [dict(getattr(trainer, name)) for name in names]

    trainer(tmp_path, Publishes(), max_epochs=1).fit(Plain(), batches(2))
    assert seen == {0: [{"x": 2.0}, {"x": 2.0}, {}], 1: [{"x": 2.0}, {"x": 2.0}, {"bar": 3.0}]}
    assert isinstance(seen[0][0]["x"], torch.Tensor)


@pytest.mark.parametrize(
    ("strategy", "home"),
    [("auto", False), ("ddp", False), ("ddp_spawn", True), ("ddp_fork", True)],
)
def test_only_processes_that_were_spawned_or_forked_bring_their_state_home(tmp_path, strategy, home):
    assert packages.brings_state_home(trainer(tmp_path, strategy=strategy, devices=1)) is home


class Inner(Plain):
    def __init__(self, compile_it):
        super().__init__()
        self.net = compile_it(self.net)


def in_place(module):
    module.compile(backend="eager")
    return module


def test_compiled_modules_are_known_however_they_were_compiled():
    assert not packages.is_compiled(Plain())
    assert packages.is_compiled(Inner(lambda net: torch.compile(net, backend="eager")))
    assert packages.is_compiled(Inner(in_place))
    assert packages.is_compiled(in_place(Plain()))


def test_a_module_that_lightning_unwraps_is_known_to_be_compiled(tmp_path):
    found = []

    class Looks(Callback):
        def setup(self, trainer, module, stage):
            found.append((type(module), packages.is_compiled(module)))

    compiled = torch.compile(Plain(), backend="eager")
    trainer(tmp_path, Looks(), max_epochs=1).fit(compiled, batches(1))
    assert found == [(Plain, True)]


def test_an_engine_is_attached_past_the_module_and_can_be_taken_away():
    module = Weighed()
    before = set(module.state_dict()), list(module.children()), list(module.buffers())
    attach_weighting(module, mine := UncertaintyWeighting(TASKS))
    assert attached_weighting(module) is mine
    assert not was_given(module)
    assert (set(module.state_dict()), list(module.children()), list(module.buffers())) == before
    attach_weighting(module, None)
    assert attached_weighting(module) is None
    module.uncertainty = mine
    attach_weighting(module, UncertaintyWeighting(TASKS))
    assert was_given(module)  # once given, given
