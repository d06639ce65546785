import signal
from inspect import signature

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_uncertainty import Snapshot, Task, TaskSnapshot, UncertaintyMixin, UncertaintyWarning
from lightning_uncertainty.comparison.fingerprint import describe
from lightning_uncertainty.likelihoods import LAPLACE, Likelihood, fixed
from lightning_uncertainty.regularizers import LogSigma
from lightning_uncertainty.strategies import Fixed, Uncertainty
from tests.models import TASKS, Plain, Returned, Validated, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback
from tests.trainer.test_logging import rows

# Lightning's word when a checkpoint of a run with more callbacks is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


def save_at(folder, step, **options):
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=step, save_top_k=-1, **options)


def assert_same_run(one, other):
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    ours, theirs = one.uncertainty.state_dict(), other.uncertainty.state_dict()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("step", [7, 12], ids=["mid-epoch", "end of an epoch"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, step, accumulate):
    """Network, s, moments and what is logged."""
    options = {"accumulate_grad_batches": accumulate, "log_every_n_steps": 1, "enable_checkpointing": True}
    loggers = [CSVLogger(tmp_path, "whole"), CSVLogger(tmp_path, "rest")]
    ours = [UncertaintyCallback(report=False) for _ in loggers]
    whole, _ = fit(tmp_path, callback=ours[0], callbacks=[save_at(tmp_path, step)], logger=loggers[0], **options)
    last = tmp_path / f"step={step}.ckpt"
    rest, runner = fit(tmp_path, callback=ours[1], ckpt_path=last, logger=loggers[1], **options)
    assert runner.global_step == 48 // accumulate
    assert_same_run(whole, rest)
    table = rows(loggers[0])
    later = rows(loggers[1])
    assert list(later) == [s for s in table if s >= step]
    assert all(later[s] == table[s] for s in later)


def test_weights_only_saved_before_our_turn_are_those_of_the_network_too(tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "seven.ckpt", weights_only=True)

    trainer(tmp_path, Saves(), UncertaintyCallback()).fit(Weighed(), batches())
    content = torch.load(tmp_path / "seven.ckpt", weights_only=True)
    assert content["lightning_uncertainty"]["steps"] == content["global_step"] == 7


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_callback_that_saves_at_the_end_of_a_batch_may_stand_before_or_after_ours(tmp_path, order):
    """The checkpoint holds the step of s that belongs to the network's; without the mixin's help ours comes last."""

    class Saves(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "seven.ckpt")

    callbacks = [Saves(), UncertaintyCallback()]
    whole = Weighed()
    trainer(tmp_path, *(callbacks if order == "before" else callbacks[::-1])).fit(whole, batches())
    content = torch.load(tmp_path / "seven.ckpt", weights_only=True)
    assert content["callbacks"]["UncertaintyCallback(uncertainty)"]["steps"] == 7
    assert content["lightning_uncertainty"]["steps"] == 7
    rest, _ = fit(tmp_path, ckpt_path=tmp_path / "seven.ckpt")
    assert_same_run(whole, rest)


SAVES_ON_EXCEPTION = {"OnExceptionCheckpoint": lambda folder: OnExceptionCheckpoint(folder, "failed")}
if "save_on_exception" in signature(ModelCheckpoint).parameters:  # since Lightning 2.6
    SAVES_ON_EXCEPTION["ModelCheckpoint"] = lambda folder: ModelCheckpoint(
        folder, filename="failed", save_on_exception=True, every_n_epochs=9
    )


@pytest.mark.filterwarnings("ignore:`.fit.ckpt_path=None.` was called without a model")  # OnExceptionCheckpoint's
@pytest.mark.filterwarnings('ignore:.*ckpt_path="last".* is set, but there is no last checkpoint')
@pytest.mark.parametrize("saves", SAVES_ON_EXCEPTION)
@pytest.mark.parametrize("stop", [OSError("mine"), KeyboardInterrupt("mine")], ids=lambda error: type(error).__name__)
def test_a_checkpoint_of_a_failure_after_the_optimizer_step_has_the_step_of_s(tmp_path, saves, stop):
    """The failure lies between the network's step and ours."""

    class Fails(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 7:
                raise stop

    saver = SAVES_ON_EXCEPTION[saves](tmp_path)
    runner = trainer(tmp_path, Fails(), UncertaintyCallback(), saver, enable_checkpointing=True)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises((OSError, SystemExit)):  # Lightning makes an exit of an interrupt
        runner.fit(Weighed(), batches())
    signal.signal(signal.SIGINT, handler)  # which it ignores from then on
    content = torch.load(tmp_path / "failed.ckpt", weights_only=True)
    assert content["callbacks"]["UncertaintyCallback(uncertainty)"]["steps"] == content["global_step"] == 7
    assert content["lightning_uncertainty"]["steps"] == 7


def test_what_goes_wrong_in_the_last_step_does_not_hide_what_went_wrong_first(tmp_path, monkeypatch):
    class Fails(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            monkeypatch.setattr(module.uncertainty, "step", lambda: 1 / 0)
            raise OSError("mine")

    runner = trainer(tmp_path, Fails(), UncertaintyCallback())
    module = Weighed()
    with pytest.raises(OSError, match="mine") as caught:
        runner.fit(module, batches())
    assert caught.value.__context__ is None
    assert module.uncertainty.training  # and it was detached all the same


def test_resuming_without_the_mixin_is_exact_too(tmp_path):
    one, two = UncertaintyCallback(TASKS), UncertaintyCallback(TASKS)
    whole, _ = fit(tmp_path, Returned(), callback=one, callbacks=[save_at(tmp_path, 7)], enable_checkpointing=True)
    rest, _ = fit(tmp_path, Returned(), callback=two, ckpt_path=tmp_path / "step=7.ckpt")
    assert torch.equal(whole.net.weight, rest.net.weight)
    assert one.weighting.log_vars == two.weighting.log_vars


@pytest.fixture
def checkpoint(tmp_path):
    """A run of one epoch and its checkpoint."""
    module, runner = fit(tmp_path, max_epochs=1)
    runner.save_checkpoint(tmp_path / "run.ckpt")
    return module, tmp_path / "run.ckpt"


def test_load_from_checkpoint_without_a_trainer_gives_sigma_back(checkpoint):
    module, path = checkpoint
    loaded = Weighed.load_from_checkpoint(path, weights_only=True)
    assert loaded.uncertainty.sigmas == module.uncertainty.sigmas


def test_load_from_checkpoint_knows_the_tasks_and_the_regularizer_that_only_the_callback_had(tmp_path):
    class NoTasks(UncertaintyMixin, Plain):
        def training_step(self, batch, batch_idx):
            return self.weigh(self.losses(batch))

    callback = UncertaintyCallback({"a": Likelihood("own", rate=0.5), "b": 0.3}, regularizer="sigma")
    module, runner = fit(tmp_path, NoTasks(), callback=callback)
    runner.save_checkpoint(tmp_path / "run.ckpt")
    loaded = NoTasks.load_from_checkpoint(tmp_path / "run.ckpt")
    losses = {name: torch.tensor(2.0) for name in TASKS}
    with torch.no_grad():
        assert torch.equal(loaded.weigh(losses), module.weigh(losses))


def test_load_from_checkpoint_knows_a_likelihood_of_the_module_s_own(tmp_path):
    class Own(Weighed):
        tasks = {"a": Likelihood("own", rate=0.5), "b": "laplace"}

    module, runner = fit(tmp_path, Own())
    runner.save_checkpoint(tmp_path / "run.ckpt")
    assert Own.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True).uncertainty.weights == pytest.approx(
        module.uncertainty.weights
    )


def test_saving_between_two_manual_steps_of_a_batch_makes_no_step_of_ours(tmp_path):
    class Saves(Weighed):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            one, two = self.optimizers()
            self.manual_backward(self.weigh(self.losses(batch)))
            one.step()
            if batch_idx == 3:
                self.trainer.save_checkpoint(tmp_path / "between.ckpt")
            two.step()

        def configure_optimizers(self):
            return [torch.optim.SGD([parameter], lr=0.01) for parameter in self.parameters()]

    module, _ = fit(tmp_path, Saves(), max_epochs=1)
    assert module.uncertainty.steps == 24


def test_save_weights_only_keeps_sigma(tmp_path):
    module, runner = fit(tmp_path, max_epochs=1)
    runner.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    assert Weighed.load_from_checkpoint(tmp_path / "weights.ckpt").uncertainty.sigmas == module.uncertainty.sigmas


def test_a_loaded_module_goes_on_training_with_its_sigma_and_the_options_of_the_callback(checkpoint, tmp_path):
    module, path = checkpoint
    loaded = Weighed.load_from_checkpoint(path)
    before = loaded.uncertainty.log_vars
    callback = UncertaintyCallback(freeze_after=0)
    fit(tmp_path, loaded, callback=callback)
    assert loaded.uncertainty is callback.weighting
    assert loaded.uncertainty.log_vars == before == module.uncertainty.log_vars


def test_it_loads_with_weights_only_and_holds_plain_tensors(checkpoint):
    module, path = checkpoint
    content = torch.load(path, weights_only=True)
    entry = content["callbacks"]["UncertaintyCallback(uncertainty)"]
    assert entry["tasks"] == ["a", "b"]
    assert torch.equal(entry["log_var"], module.uncertainty.log_var)


def test_the_plugin_can_be_added_to_an_existing_checkpoint(tmp_path):
    _, runner = fit(tmp_path, Plain(), callback=Callback(), max_epochs=1)
    runner.save_checkpoint(tmp_path / "plain.ckpt")
    module, runner = fit(tmp_path, ckpt_path=tmp_path / "plain.ckpt")
    assert runner.global_step == 48
    assert module.uncertainty.steps == 24
    assert isinstance(Weighed.load_from_checkpoint(tmp_path / "plain.ckpt"), Weighed)


def test_the_plugin_can_be_removed_from_an_existing_checkpoint(checkpoint, tmp_path):
    module, path = checkpoint
    _, runner = fit(tmp_path, Plain(), callback=Callback(), ckpt_path=path)
    assert runner.global_step == 48
    assert torch.equal(Plain.load_from_checkpoint(path).net.weight, module.net.weight)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_validation_and_test_use_the_weights_of_the_checkpoint(checkpoint, tmp_path, stage):
    module, path = checkpoint
    runner = trainer(tmp_path, UncertaintyCallback())
    fresh = Validated()
    getattr(runner, stage)(fresh, batches(), ckpt_path=path, verbose=False)
    assert fresh.uncertainty.log_vars == module.uncertainty.log_vars


def test_tasks_may_change_between_runs(checkpoint, tmp_path):
    module, path = checkpoint

    class More(Weighed):
        tasks = {"c": "gaussian", **TASKS}

        def losses(self, batch):
            losses = super().losses(batch)
            return {**losses, "c": 1e4 * losses["a"].detach() + 0.0 * losses["b"]}

    with pytest.warns(UncertaintyWarning, match="'c' is not in the checkpoint"):
        more, _ = fit(tmp_path, More(), ckpt_path=path)
    assert more.uncertainty.sigmas["c"] > 20.0

    class Fewer(Weighed):
        tasks = {"a": "gaussian"}

        def losses(self, batch):
            return {"a": super().losses(batch)["a"]}

    with pytest.warns(UncertaintyWarning, match="'b' is in the checkpoint but not among the tasks"):
        fewer, _ = fit(tmp_path, Fewer(), ckpt_path=path, max_epochs=1)
    assert fewer.uncertainty.sigmas == {"a": module.uncertainty.sigmas["a"]}


def test_a_damaged_entry_stops_the_resume_with_its_reason(checkpoint, tmp_path):
    _, path = checkpoint
    content = torch.load(path, weights_only=True)
    del content["lightning_uncertainty"]
    del content["callbacks"]["UncertaintyCallback(uncertainty)"]["exp_avg"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"lacks 'exp_avg'. Nothing was loaded"):
        fit(tmp_path, ckpt_path=path)


def test_two_callbacks_of_one_name_are_refused_and_of_two_names_are_not(tmp_path):
    with pytest.raises(ValueError, match="Two UncertaintyCallbacks of this Trainer have the name 'uncertainty'"):
        trainer(tmp_path, UncertaintyCallback(TASKS), UncertaintyCallback(TASKS))
    trainer(tmp_path, UncertaintyCallback(TASKS, name="one"), UncertaintyCallback(TASKS, name="two"))


# ---------------------------------------------------------------------------------------------------- settings


class OwnRegularizer(LogSigma):
    name = "own"


class OwnStrategy(Uncertainty):
    name = "own"


SETTINGS = {
    "tasks": [Task("a", "gaussian", bounds=(-9.0, 9.0)), Task("b", Likelihood("own", rate=0.5), unit="m")],
    "tasks by name": {"a": {"likelihood": LAPLACE, "init": 0.5}, "b": fixed(0.1)},
    "of numpy": [Task(np.str_("a"), np.float32(0.1)), Task("b", init=np.float64(0.5), bounds=np.array([-1, 1]))],
    "learned": Uncertainty(lr=0.1, regularizer="log1p_var", min_variance_ratio=0.0),
    "of a regulariser of the user's": Uncertainty(regularizer=OwnRegularizer()),
    "given": Fixed({"a": np.float64(2.0)}),
    "of the user's": OwnStrategy(lr=0.5),
    "a snapshot": Snapshot(3, {"a": TaskSnapshot("gaussian", 0.0, 1.0, 1.0, 0.5, 2.0, 0, None, True)}),
}


class Configured(Weighed):
    def __init__(self, setting):
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.parametrize("what", SETTINGS)
def test_settings_in_hyperparameters_load_with_weights_only(tmp_path, monkeypatch, what):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    setting = SETTINGS[what]
    whole, runner = fit(tmp_path, Configured(setting), logger=CSVLogger(tmp_path), max_epochs=1)
    runner.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt")["hyper_parameters"]["setting"]
    loaded = Configured.load_from_checkpoint(tmp_path / "run.ckpt")
    for copied in (saved, loaded.hparams.setting):
        assert type(copied) is type(setting)
        assert describe(copied) == describe(setting)
    rest, _ = fit(tmp_path, Configured(saved), ckpt_path=tmp_path / "run.ckpt", max_epochs=1)
    assert_same_run(whole, rest)


# ---------------------------------------------------------------------------------------------------- the user's hooks


class Names:
    """Hooks as users write them, because those of LightningModule are empty."""

    def on_save_checkpoint(self, checkpoint):
        checkpoint["names"] = ["oak", "pine"]

    def on_load_checkpoint(self, checkpoint):
        self.names = checkpoint["names"]


class OfItsOwn(Weighed):
    on_save_checkpoint, on_load_checkpoint = Names.on_save_checkpoint, Names.on_load_checkpoint


class Inherited(OfItsOwn):
    pass


class FromABaseBefore(Names, Weighed):
    pass


class FromABaseAfter(UncertaintyMixin, Names, Plain):
    tasks, training_step = TASKS, Weighed.training_step


class WithSuper(Weighed):
    def on_save_checkpoint(self, checkpoint):
        super().on_save_checkpoint(checkpoint)
        Names.on_save_checkpoint(self, checkpoint)

    def on_load_checkpoint(self, checkpoint):
        super().on_load_checkpoint(checkpoint)
        assert self.uncertainty.steps == checkpoint["lightning_uncertainty"]["steps"]
        Names.on_load_checkpoint(self, checkpoint)


@pytest.mark.parametrize("weights_only", [False, True], ids=["whole", "weights only"])
@pytest.mark.parametrize("cls", [OfItsOwn, Inherited, FromABaseBefore, FromABaseAfter, WithSuper])
def test_hooks_of_the_user_lose_nothing_with_and_without_super(tmp_path, cls, weights_only):
    module, runner = fit(tmp_path, cls(), max_epochs=1)
    runner.save_checkpoint(tmp_path / "run.ckpt", weights_only=weights_only)
    loaded = cls.load_from_checkpoint(tmp_path / "run.ckpt")
    assert loaded.names == ["oak", "pine"]
    assert_same_run(module, loaded)


def test_a_hook_may_do_as_it_likes_with_what_was_loaded(tmp_path):
    class Resets(Weighed):
        def on_load_checkpoint(self, checkpoint):
            super().on_load_checkpoint(checkpoint)
            self.uncertainty.reset()

    class Renames(Weighed):
        def on_load_checkpoint(self, checkpoint):
            checkpoint["lightning_uncertainty"] = checkpoint.pop("older name")

    module, runner = fit(tmp_path, Resets(), max_epochs=1)
    runner.save_checkpoint(tmp_path / "run.ckpt")
    assert Resets.load_from_checkpoint(tmp_path / "run.ckpt").uncertainty.steps == 0
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    content["older name"] = content.pop("lightning_uncertainty")
    torch.save(content, tmp_path / "old.ckpt")
    assert_same_run(Renames.load_from_checkpoint(tmp_path / "old.ckpt"), module)
