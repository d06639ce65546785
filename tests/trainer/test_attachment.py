"""The engine follows its network: it starts anew where the network does, and stays where its state came along."""

import copy
import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.tuner import Tuner

from lightning_uncertainty import UncertaintyWarning
from lightning_uncertainty.trainer.attachment import attached_weighting, send_with_state_dict
from tests.models import TASKS, Returned, Validated, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.trainer.test_matrix import difference

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]
ANEW = r"got other weights by `load_state_dict` .* starts anew with it"


def run(module):
    """What a run leaves in the network and in the engine."""
    return {**module.state_dict(), **attached_weighting(module).state_dict()}


def one_epoch(folder, module, seed=0, callback=None):
    callback = UncertaintyCallback(TASKS) if callback is None else callback
    fit(folder, module, data=batches(seed=seed), callback=callback, max_epochs=1)
    return callback


# ---------------------------------------------------------------------------------------------------- starting anew


@pytest.mark.parametrize("same_callback", [False, True], ids=["new callback", "same callback"])
@pytest.mark.parametrize("cls", [Weighed, Returned])
def test_folds_of_one_module_that_is_put_back_know_nothing_of_each_other(tmp_path, cls, same_callback):
    module, alone = cls(), cls()
    untrained = copy.deepcopy(module.state_dict())
    first = one_epoch(tmp_path, module, seed=1)
    module.load_state_dict(untrained)
    with pytest.warns(UncertaintyWarning, match=ANEW):
        second = one_epoch(tmp_path, module, seed=2, callback=first if same_callback else None)
    by_itself = one_epoch(tmp_path, alone, seed=2)
    assert difference(run(module), run(alone)) is None
    assert difference(second.state_dict(), by_itself.state_dict()) is None  # the history too


def test_a_test_and_a_search_between_two_folds_change_nothing_of_that(tmp_path):
    module, alone = Validated(), Validated()
    untrained = copy.deepcopy(module.state_dict())
    one_epoch(tmp_path, module, seed=1)
    Tuner(trainer(tmp_path, UncertaintyCallback())).lr_find(module, batches(), num_training=10, update_attr=False)
    module.load_state_dict(untrained)
    trainer(tmp_path, UncertaintyCallback()).test(module, batches(), verbose=False)
    with pytest.warns(UncertaintyWarning, match=ANEW):
        one_epoch(tmp_path, module, seed=2)
    one_epoch(tmp_path, alone, seed=2)
    assert difference(run(module), run(alone)) is None


class Outer(L.LightningModule):
    """Its inner module weighs."""

    def __init__(self):
        super().__init__()
        self.inner = Weighed()

    def training_step(self, batch, batch_idx):
        return self.inner.training_step(batch, batch_idx)

    def configure_optimizers(self):
        return self.inner.configure_optimizers()


def test_an_inner_module_starts_anew_with_the_outer_one(tmp_path):
    module = Outer()
    untrained = copy.deepcopy(module.state_dict())
    fit(tmp_path, module, callback=UncertaintyCallback(module="inner"), max_epochs=1)
    module.load_state_dict(untrained)
    with pytest.warns(UncertaintyWarning, match=ANEW):
        fit(tmp_path, module, callback=UncertaintyCallback(module="inner"), max_epochs=1)
    assert module.inner.uncertainty.steps == 24


def test_whoever_resets_the_engine_is_told_nothing(tmp_path):
    module = Weighed()
    untrained = copy.deepcopy(module.state_dict())
    for resets_first in (True, False):
        one_epoch(tmp_path, module)
        if resets_first:
            module.uncertainty.reset()
        module.load_state_dict(untrained)
        if not resets_first:
            module.uncertainty.reset()
    one_epoch(tmp_path, module)  # warnings are errors
    assert module.uncertainty.steps == 24


def test_an_engine_that_was_given_is_told_of_and_kept(tmp_path):
    module = Weighed()
    module.uncertainty = mine = UncertaintyWeighting(TASKS)
    untrained = copy.deepcopy(module.state_dict())
    fit(tmp_path, module, max_epochs=1)
    module.load_state_dict(untrained)
    with pytest.warns(UncertaintyWarning, match=r"because you gave the engine.*`model.uncertainty.reset\(\)`"):
        fit(tmp_path, module, max_epochs=1)
    assert module.uncertainty is mine
    assert mine.steps == 48
    fit(tmp_path, module, max_epochs=1)  # once, and not at each fit


# ---------------------------------------------------------------------------------------------------- staying


def best(tmp_path):
    """A module that has been trained, and the path of an earlier checkpoint of it."""
    module, runner = fit(tmp_path, max_epochs=1)
    runner.save_checkpoint(tmp_path / "best.ckpt")
    fit(tmp_path, module, max_epochs=1)
    return module, tmp_path / "best.ckpt"


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_reading_and_testing_with_other_weights_loses_nothing(tmp_path):
    module = Validated()
    fit(tmp_path, module, max_epochs=1)
    before = module.uncertainty.state_dict()
    module.load_state_dict(module.state_dict())
    trainer(tmp_path, UncertaintyCallback()).test(module, batches(), verbose=False)
    assert difference(module.uncertainty.state_dict(), before) is None


def from_checkpoint(_, path):
    return Weighed.load_from_checkpoint(path), {}


def resumed(module, path):
    module.load_state_dict(weights(path))  # to look at them
    return module, {"ckpt_path": path, "max_epochs": 2}


def with_own_state_after(module, path):
    module.load_state_dict(weights(path))
    module.uncertainty.load_state_dict(module.uncertainty.state_dict())
    return module, {}


def with_own_state_before(module, path):
    module.uncertainty.load_state_dict(torch.load(path, weights_only=True)["lightning_uncertainty"])
    module.load_state_dict(weights(path))
    return module, {}


def from_a_process(module, _):
    """As a launcher that spawns brings the results home."""
    send_with_state_dict(module, "", module.uncertainty)
    home = Weighed()
    home.load_state_dict(module.state_dict())
    return home, {}


def never_replaced(module, _):
    return module, {}


WAYS = {from_checkpoint: 24, resumed: 24, with_own_state_after: 48, with_own_state_before: 24, from_a_process: 48}


@pytest.mark.parametrize("way", [*WAYS, never_replaced], ids=lambda way: way.__name__)
def test_sigma_goes_on_where_its_state_came_along(tmp_path, way):
    module, options = way(*best(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncertaintyWarning)
        fit(tmp_path, module, **{"max_epochs": 1, **options})
    assert module.uncertainty.steps == WAYS.get(way, 48) + 24


def test_without_the_mixin_the_former_callback_brings_the_state(tmp_path):
    module = Returned()
    untrained = copy.deepcopy(module.state_dict())
    former = one_epoch(tmp_path, module)
    module.load_state_dict(untrained)
    callback = UncertaintyCallback(TASKS)
    callback.load_state_dict(former.state_dict())
    one_epoch(tmp_path, module, callback=callback)
    assert callback.weighting.steps == 48
