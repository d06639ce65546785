import contextlib
import copy
import math
import pickle
from inspect import signature
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy

import lightning_uncertainty as package
from lightning_uncertainty import CrossEntropy, UncertaintyMixin, UncertaintyWarning
from lightning_uncertainty.strategies import Uncertainty
from lightning_uncertainty.weighting import WeightingOptions
from tests.models import TASKS, Plain, Returned, Validated, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.trainer.test_matrix import difference

# ---------------------------------------------------------------------------------------------------- both ways


def test_mixin_alone_gets_a_default_callback(tmp_path):
    module = Weighed()
    runner = trainer(tmp_path)
    runner.fit(module, batches())
    assert module.uncertainty.steps == 48
    assert sum(isinstance(callback, package.UncertaintyCallback) for callback in runner.callbacks) == 1
    runner.fit_loop.max_epochs = 3
    runner.fit(module, batches())
    assert sum(isinstance(callback, package.UncertaintyCallback) for callback in runner.callbacks) == 1


def test_mixin_keeps_the_callback_and_the_options_that_the_trainer_has(tmp_path):
    callback = UncertaintyCallback(lr=0.5)
    module, runner = fit(tmp_path, callback=callback)
    assert [c for c in runner.callbacks if isinstance(c, UncertaintyCallback)] == [callback]
    assert module.uncertainty is callback.weighting
    assert callback.weighting.strategy.adam.lr == 0.5


def test_callback_alone_weighs_the_returned_losses_and_gives_training_step_back(tmp_path):
    with_mixin, _ = fit(tmp_path)
    alone, _ = fit(tmp_path, Returned(), callback=UncertaintyCallback(TASKS))
    for ours, theirs in zip(alone.parameters(), with_mixin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert "training_step" not in vars(alone)
    without, _ = fit(tmp_path, Returned(), callback=Callback())  # and it still trains without the callback
    assert not torch.equal(without.net.weight, alone.net.weight)


def test_a_training_step_set_on_the_instance_is_restored(tmp_path):
    module = Returned()
    mine = module.training_step
    module.training_step = mine
    fit(tmp_path, module, callback=UncertaintyCallback(TASKS))
    assert module.training_step is mine


def test_training_step_is_restored_when_training_fails(tmp_path):
    class Broken(Returned):
        def configure_optimizers(self):
            raise OSError("mine")

    module = Broken()
    with pytest.raises(OSError, match="mine"):
        fit(tmp_path, module, callback=UncertaintyCallback(TASKS))
    assert "training_step" not in vars(module)


@pytest.mark.parametrize("fails", [False, True], ids=["after training", "after a failure"])
def test_the_engine_works_without_a_trainer_afterwards(tmp_path, fails):
    class Maybe(Weighed):
        def on_train_epoch_end(self):
            if fails:
                raise OSError("mine")

    module = Maybe()
    with pytest.raises(OSError, match="mine") if fails else contextlib.nullcontext():
        fit(tmp_path, module)
    before = module.uncertainty.log_vars
    module.weigh({name: torch.tensor(1e3, requires_grad=True) for name in "ab"}).backward()
    module.uncertainty.step()
    assert module.uncertainty.log_vars != before


def test_a_deep_copy_made_during_training_has_a_step_of_its_own(tmp_path):
    class Copies(Callback):
        def on_train_end(self, trainer, module):
            self.copy = copy.deepcopy(module)

    copies = Copies()
    module = Returned()
    fit(tmp_path, module, callback=UncertaintyCallback(TASKS), callbacks=[copies])
    before = module.net.weight.clone()
    output = copies.copy.training_step(batches().batches[0], 0)
    output["loss"].backward()
    assert copies.copy.net.weight.grad.abs().sum() > 0.0
    assert module.net.weight.grad is None or torch.equal(module.net.weight, before)


def test_returned_losses_may_hold_logits(tmp_path):
    class Classifier(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(4, 3)

        def training_step(self, batch, batch_idx):
            logits = self.net(batch[0])
            return {"losses": {"kind": CrossEntropy(logits, batch[1][:, 0].sign().long() + 1)}}

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.05)

    callback = UncertaintyCallback({"kind": "softmax_exact"})
    fit(tmp_path, Classifier(), callback=callback)
    assert callback.weighting.log_vars["kind"] != 0.0


@pytest.mark.filterwarnings("ignore:.*training_step.* returned .None.")
def test_a_skipped_batch_stays_skipped(tmp_path):
    class Skips(Returned):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if batch_idx % 2 else None

    callback = UncertaintyCallback(TASKS)
    fit(tmp_path, Skips(), callback=callback, max_epochs=1)
    assert callback.weighting.state_dict()["count"].tolist() == [11.0, 11.0]  # the first of the 12 sets s


def test_an_engine_given_to_the_module_is_used_as_it_is(tmp_path):
    module = Weighed()
    module.uncertainty = UncertaintyWeighting(TASKS, lr=0.25)
    mine = module.uncertainty
    fit(tmp_path, module)
    assert module.uncertainty is mine
    assert mine.steps == 48
    with pytest.raises(ValueError, match="Drop one of the two"):
        fit(tmp_path, module, callback=UncertaintyCallback(TASKS))


def test_fitting_again_goes_on_with_the_same_sigma(tmp_path):
    module, _ = fit(tmp_path)
    before = module.uncertainty.state_dict()
    callback = UncertaintyCallback(freeze_after=0)
    fit(tmp_path, module, callback=callback, max_epochs=1)
    assert torch.equal(callback.weighting.state_dict()["log_var"], before["log_var"])
    assert callback.weighting.steps == 72


def test_a_new_module_starts_anew_in_the_same_callback(tmp_path):
    callback = UncertaintyCallback()
    first, _ = fit(tmp_path, callback=callback)
    second, _ = fit(tmp_path, callback=callback)
    assert first.uncertainty is not second.uncertainty
    assert first.uncertainty.log_vars == second.uncertainty.log_vars


# ---------------------------------------------------------------------------------------------------- what learns


def test_nothing_of_it_is_in_the_module_or_its_optimizer(tmp_path):
    module, runner = fit(tmp_path)
    plain = Plain()
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert module.state_dict().keys() == plain.state_dict().keys()
    assert not list(module.buffers())
    assert len(runner.optimizers[0].param_groups) == 1


def test_with_weights_fixed_at_one_the_network_is_bit_identical_to_a_run_without(tmp_path):
    weighed, _ = fit(tmp_path, callback=UncertaintyCallback({"a": 1.0, "b": 1.0}))
    plain, _ = fit(tmp_path, Plain(), callback=Callback())
    assert torch.equal(weighed.net.weight, plain.net.weight)
    assert torch.equal(weighed.net.bias, plain.net.bias)


def test_weight_decay_clipping_and_schedules_of_the_user_do_not_reach_s(tmp_path):
    """The network stands still here, so that s sees the same losses whatever acts on the user's optimizer."""

    class Hostile(Weighed):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.0, weight_decay=10.0)
            return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-30, total_steps=100)]

    class Calm(Weighed):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    hostile, _ = fit(tmp_path, Hostile(), gradient_clip_val=1e-4)
    calm, _ = fit(tmp_path, Calm())
    assert hostile.uncertainty.log_vars == pytest.approx(calm.uncertainty.log_vars, abs=1e-6)
    assert len(set(calm.uncertainty.log_vars.values())) == 2


@pytest.mark.parametrize("accumulate", [1, 3])
def test_one_step_per_optimizer_step(tmp_path, accumulate):
    module, runner = fit(tmp_path, accumulate_grad_batches=accumulate)
    assert module.uncertainty.steps == runner.global_step == 48 // accumulate


def test_manual_optimisation_with_two_optimizers_steps_once_per_batch(tmp_path):
    class Manual(Weighed):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(self.weigh(self.losses(batch)))
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD([parameter], lr=0.01) for parameter in self.parameters()]

    module, runner = fit(tmp_path, Manual())
    assert runner.global_step == 96
    assert module.uncertainty.steps == 48


def test_validation_test_and_sanity_check_may_weigh_and_change_nothing(tmp_path):
    class Watch(Callback):
        def on_validation_start(self, trainer, module):
            self.before = module.uncertainty.state_dict()

        def on_validation_end(self, trainer, module):
            after = module.uncertainty.state_dict()
            assert all(
                torch.equal(after[k].nan_to_num(), v.nan_to_num()) if isinstance(v, torch.Tensor) else after[k] == v
                for k, v in self.before.items()
                if not k.startswith("val_")  # the relative loss of validation, from which nothing is learned
            )

    with_validation, without = Validated(), Weighed()
    runner = trainer(tmp_path, UncertaintyCallback(), Watch(), num_sanity_val_steps=2, val_check_interval=5)
    runner.fit(with_validation, batches(), batches(seed=3))
    fit(tmp_path, without)
    assert with_validation.uncertainty.log_vars == without.uncertainty.log_vars
    assert torch.equal(with_validation.net.weight, without.net.weight)
    before = with_validation.uncertainty.log_vars
    (result,) = runner.test(with_validation, batches(seed=4), verbose=False)
    assert math.isfinite(result["val_loss"])
    assert with_validation.uncertainty.log_vars == before


def test_a_fresh_module_can_be_validated(tmp_path):
    (result,) = trainer(tmp_path, UncertaintyCallback()).validate(Validated(), batches(), verbose=False)
    assert math.isfinite(result["val_loss"])


# ---------------------------------------------------------------------------------------------------- monitoring


def test_callback_metrics_hold_the_weights(tmp_path):
    module, runner = fit(tmp_path)
    for name, weight in module.uncertainty.weights.items():
        assert runner.callback_metrics[f"uncertainty/weight/{name}"].item() == pytest.approx(weight)
    assert runner.callback_metrics["uncertainty/loss_sum"] > 0.0


def test_checkpoints_and_early_stopping_can_monitor_them(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="uncertainty/relative_loss", save_top_k=1, filename="best")
    often = ModelCheckpoint(tmp_path, monitor="uncertainty/weight/a", mode="max", every_n_train_steps=4, filename="a")
    stop = EarlyStopping("uncertainty/sigma/b", patience=1, min_delta=100.0, check_on_train_epoch_end=True)
    _, runner = fit(
        tmp_path, callbacks=[stop, best, often], enable_checkpointing=True, max_epochs=9, log_every_n_steps=4
    )
    assert runner.current_epoch == 2  # sigma cannot fall by 100 an epoch
    assert best.best_model_score.item() < 10.0
    assert often.best_model_score.item() > 0.0


def test_progress_bar_shows_the_weights_on_request(tmp_path):
    _, runner = fit(tmp_path, callback=UncertaintyCallback(prog_bar=True))
    assert runner.progress_bar_metrics.keys() == {"weight/a", "weight/b"}
    _, runner = fit(tmp_path)
    assert not runner.progress_bar_metrics


# ---------------------------------------------------------------------------------------------------- what is wrong


def test_options_are_checked_when_the_callback_is_made():
    with pytest.raises(ValueError, match="warmup must be one of"):
        UncertaintyCallback(warmup="linear")
    with pytest.raises(ValueError, match="Unknown likelihood 'l1'"):
        UncertaintyCallback({"depth": "l1"})


def test_the_weights_of_a_callback_that_no_trainer_has_seen():
    with pytest.raises(RuntimeError, match="a Trainer attaches them"):
        _ = UncertaintyCallback(TASKS).weighting


@pytest.mark.parametrize("cls", [Weighed, Returned])
def test_a_state_that_is_loaded_before_a_trainer_begins_is_the_one_that_it_begins_with(tmp_path, cls):
    fit(tmp_path, cls(), callback=(first := UncertaintyCallback(TASKS)))
    callback, state = UncertaintyCallback(TASKS), first.state_dict()
    callback.load_state_dict(state)
    assert callback.state_dict() == state
    module, _ = fit(tmp_path, cls(), callback=callback, max_epochs=0)
    assert difference(callback.state_dict(), state) is None
    fit(tmp_path, module, callback=callback, max_epochs=1)  # goes on, and does not load it again
    fit(tmp_path, module, callback=callback, max_epochs=1)
    assert callback.weighting.steps == state["steps"] + 48
    assert callback.history.steps[: len(first.history)] == first.history.steps


def test_weighing_before_anything_was_attached_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"no weights yet.*super\(\).configure_callbacks\(\).*UncertaintyWeighting"):
        Weighed().weigh({"a": torch.tensor(1.0)})


def test_the_wrong_order_of_bases_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match=r"Write `class Net\(UncertaintyMixin, LightningModule\)`"):

        class Net(L.LightningModule, UncertaintyMixin):
            tasks = TASKS


def test_tasks_given_nowhere(tmp_path):
    with pytest.raises(ValueError, match="Neither UncertaintyCallback nor Plain says which tasks"):
        fit(tmp_path, Plain())


def test_losses_returned_without_names(tmp_path):
    with pytest.raises(TypeError, match=r"training_step returned Tensor. Return `\{\"losses\""):
        fit(tmp_path, Plain(), callback=UncertaintyCallback(TASKS))


def test_manual_optimisation_without_the_mixin_is_refused(tmp_path):
    module = Returned()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="Derive it from UncertaintyMixin"):
        fit(tmp_path, module, callback=UncertaintyCallback(TASKS))


def test_optimizers_that_the_trainer_does_not_count_are_told(tmp_path):
    class Raw(Weighed):
        automatic_optimization = False

        def configure_optimizers(self):
            self.own = torch.optim.Adam(self.parameters())
            return torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # which never steps

        def training_step(self, batch, batch_idx):
            self.own.zero_grad()
            self.manual_backward(self.weigh(self.losses(batch)))
            self.own.step()

    with pytest.warns(UncertaintyWarning, match=r"no optimizer has stepped.*`self.uncertainty.step\(\)`"):
        fit(tmp_path, Raw())

    class Own(Raw):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.uncertainty.step()

    module, _ = fit(tmp_path, Own())
    assert module.uncertainty.steps == 48


@pytest.mark.filterwarnings("ignore:The loss of task '.' was NaN", "ignore:Number of steps in which losses came")
def test_losses_that_are_all_nan_are_not_taken_for_losses_that_never_came(tmp_path):
    class Diverged(Weighed):
        def losses(self, batch):
            return {name: loss * math.nan for name, loss in super().losses(batch).items()}

    module, _ = fit(tmp_path, Diverged())  # any other warning is an error
    assert module.uncertainty.snapshot().tasks["a"].nonfinite == 48


def test_a_module_that_never_weighs_is_told(tmp_path):
    class Forgot(Weighed):
        def training_step(self, batch, batch_idx):
            return sum(self.losses(batch).values())

    with pytest.warns(UncertaintyWarning, match="No loss of 'a', 'b' reached UncertaintyCallback"):
        fit(tmp_path, Forgot())


def test_it_can_be_pickled_before_and_after_training(tmp_path):
    callback = UncertaintyCallback(TASKS)
    pickle.loads(pickle.dumps(callback))
    module, _ = fit(tmp_path, callback=callback)
    twin, model = pickle.loads(pickle.dumps((callback, module)))
    assert twin.weighting is model.uncertainty
    assert twin.weighting.log_vars == callback.weighting.log_vars


class Several(SingleDeviceStrategy):
    """Claims to have more processes than torch.distributed knows of, as a strategy for other hardware might."""

    def __init__(self, device):
        super().__init__(device)
        self.world_size = 2


def test_processes_that_cannot_agree_are_refused_by_the_name_of_the_strategy(tmp_path):
    runner = trainer(tmp_path, UncertaintyCallback(), strategy=Several(torch.device("cpu")))
    with pytest.raises(ValueError, match=r"Several runs 2 processes without torch\.distributed"):
        runner.fit(Weighed(), batches())


def test_pipeline_stages_are_refused_unless_a_group_is_given(tmp_path):
    module = Weighed()
    module._device_mesh = SimpleNamespace(mesh_dim_names=("pipeline_parallel", "data_parallel"))
    with pytest.raises(ValueError, match=r"SingleDeviceStrategy has pipeline stages .*'pipeline_parallel'.*group="):
        fit(tmp_path, module)


def test_type_checkers_know_every_option_of_the_engine():
    known = {name: hint.__forward_arg__ for name, hint in WeightingOptions.__annotations__.items()}
    parameters = [
        p for kind in (package.UncertaintyWeighting, Uncertainty) for p in signature(kind).parameters.values()
    ]
    assert known == {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_an_unknown_option_is_refused_with_the_closest_one():
    with pytest.raises(TypeError, match=r"no option 'warm_up'. Did you mean 'warmup'\? Known: "):
        UncertaintyCallback({"a": "gaussian"}, warm_up="equal")


def test_reading_the_callback_while_it_trains_changes_nothing_and_warns_of_nothing(tmp_path):
    """In each batch, from the first; warnings are errors here."""

    class Reads(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            for _ in range(2):
                before = [len(mine.history), mine.history.steps, mine.history.state_dict()]
                _ = mine.weighting.weights, mine.weighting.sigmas, mine.weighting.snapshot(), mine.state_key
                assert difference(before, [len(mine.history), mine.history.steps, mine.history.state_dict()]) is None

    class Late(Weighed):
        """A finding from the start: one task is NaN."""

        def losses(self, batch):
            return {**super().losses(batch), "b": self.net(batch[0][:0])[:, 1].abs().mean()}

    mine, unread = UncertaintyCallback(log_prefix="mtl"), UncertaintyCallback(log_prefix="mtl")
    with pytest.warns(UncertaintyWarning, match="NaN or infinite") as with_reader:
        fit(tmp_path, Late(), callback=mine, callbacks=[Reads()], log_every_n_steps=7)
    with pytest.warns(UncertaintyWarning, match="NaN or infinite") as without:
        fit(tmp_path, Late(), callback=unread, log_every_n_steps=7)
    assert difference(mine.state_dict(), unread.state_dict()) is None
    assert [str(warning.message) for warning in with_reader] == [str(warning.message) for warning in without]
