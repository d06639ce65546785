"""What stands beside it in a Trainer: other callbacks, tuners, finetuning, other front doors."""

import copy
import functools
import pickle

import lightning as L
import pytest
import pytorch_lightning as pl
import torch
from lightning.fabric import Fabric
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    LearningRateMonitor,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner

import lightning_uncertainty as defaults
from lightning_uncertainty import Task, UncertaintyMixin
from tests.models import TASKS, Plain, Recorded, Returned, Validated, Weighed, batches, fit, learned_from, load, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.trainer.test_checkpoints import assert_same_run, save_at
from tests.trainer.test_matrix import difference

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[key], rtol=0.0, atol=0.0, equal_nan=True)
        else:
            assert value == other[key]


# ---------------------------------------------------------------------------------------------------- averaging

needs_averaging = pytest.mark.skipif(
    not hasattr(lightning_callbacks, "EMAWeightAveraging"), reason="weight averaging came with Lightning 2.6"
)


@needs_averaging
@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "ours last"])
def test_averaged_weights_leave_s_alone_and_resume_exactly(tmp_path, ours_first):
    def callbacks():
        pair = [UncertaintyCallback(), lightning_callbacks.EMAWeightAveraging()]
        return pair if ours_first else pair[::-1]

    def train(*more, **options):
        module = Validated()
        runner = trainer(tmp_path, *callbacks(), *more, enable_checkpointing=True)
        runner.fit(module, batches(), batches(seed=3), **options)
        return module

    whole = train(save_at(tmp_path, 14))
    plain, _ = fit(tmp_path)
    assert whole.uncertainty.log_vars == plain.uncertainty.log_vars  # validation sees the average, s the training
    assert not torch.equal(whole.net.weight, plain.net.weight)
    assert_same_run(whole, train(ckpt_path=tmp_path / "step=14.ckpt"))
    loaded = Validated.load_from_checkpoint(tmp_path / "step=14.ckpt")
    assert loaded.uncertainty.steps == 14


def fit_with_averaging(folder, cls, step, *, resume=False):
    """Averages from the third of four epochs on; saves after ``step``, or goes on from there."""
    averaging = StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=3, annealing_epochs=2)
    saver = [] if resume else [save_at(folder, step)]
    path = folder / f"step={step}.ckpt" if resume else None
    callback = Callback() if cls is Plain else UncertaintyCallback()
    module, runner = fit(
        folder,
        cls(),
        callback=callback,
        callbacks=[averaging, *saver],
        ckpt_path=path,
        max_epochs=4,
        enable_checkpointing=not resume,
    )
    runner.save_checkpoint(folder / "end.ckpt")
    end = load(folder / "end.ckpt")
    return module, {key: end[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}


def test_stochastic_weight_averaging_leaves_s_alone(tmp_path):
    """s is that of the losses on the way, bit for bit, and the network at the end is the average."""
    module, _ = fit_with_averaging(tmp_path, Recorded, 48)
    plain, _ = fit(tmp_path, max_epochs=4)
    assert len(module.seen) == 96
    assert difference(module.uncertainty.state_dict(), learned_from(module.seen)) is None
    assert not torch.equal(module.net.weight, plain.net.weight)


@pytest.mark.parametrize("step", [14, 30], ids=["first epoch", "second epoch"])
def test_stochastic_weight_averaging_resumes_exactly_until_it_averages(tmp_path, step):
    whole, end = fit_with_averaging(tmp_path, Weighed, step)
    rest, same_end = fit_with_averaging(tmp_path, Weighed, step, resume=True)
    assert difference(end, same_end) is None
    assert_same_run(whole, rest)


def test_resumed_while_lightning_averages_the_network_is_inexact_without_us_too_and_s_follows_its_losses(tmp_path):
    _, end = fit_with_averaging(tmp_path / "plain", Plain, 54)
    _, other_end = fit_with_averaging(tmp_path / "plain", Plain, 54, resume=True)
    assert difference(end, other_end) is not None  # the yardstick, without the plugin
    whole, _ = fit_with_averaging(tmp_path, Recorded, 54)
    saved = load(tmp_path / "step=54.ckpt")["lightning_uncertainty"]
    assert difference(saved, learned_from(whole.seen[:54])) is None
    rest, _ = fit_with_averaging(tmp_path, Recorded, 54, resume=True)
    assert len(rest.seen) == 96 - 54
    assert difference(rest.uncertainty.state_dict(), learned_from(rest.seen, saved)) is None


# ---------------------------------------------------------------------------------------------------- finetuning


class Thaw(BaseFinetuning):
    """The body starts to learn in the second epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.body)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.body, optimizer)


class Deep(Weighed):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 4)

    def losses(self, batch):
        return super().losses([self.body(batch[0]), batch[1]])

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.05)


class Remember(Callback):
    def on_train_start(self, trainer, pl_module):
        self.state = pl_module.uncertainty.state_dict()


def test_finetuning_resumes_exactly_before_the_thaw(tmp_path):
    """After it Lightning itself resumes the network inexactly: with and without us, the moments of the new group."""
    whole, _ = fit(tmp_path, Deep(), callbacks=[Thaw(), save_at(tmp_path, 14)], enable_checkpointing=True)
    rest, _ = fit(tmp_path, Deep(), callbacks=[Thaw()], ckpt_path=tmp_path / "step=14.ckpt")
    assert_same_run(whole, rest)


def test_finetuning_resumed_after_the_thaw_has_the_s_of_the_checkpoint(tmp_path):
    fit(tmp_path, Deep(), callbacks=[Thaw(), save_at(tmp_path, 30)], enable_checkpointing=True)
    remember = Remember()
    _, runner = fit(tmp_path, Deep(), callbacks=[Thaw(), remember], ckpt_path=tmp_path / "step=30.ckpt")
    saved = torch.load(tmp_path / "step=30.ckpt", weights_only=True)["callbacks"]["UncertaintyCallback(uncertainty)"]
    del saved["history"]  # the callback's, and not of the engine
    assert_same_state(remember.state, saved)
    assert len(runner.optimizers[0].param_groups) == 2  # those of the user and of Thaw, none of ours


# ---------------------------------------------------------------------------------------------------- tuners


class Sized(Weighed):
    """With a batch size to find, and a count of what the search costs."""

    batch_size, calls = 2, 0

    def training_step(self, batch, batch_idx):
        self.calls += 1
        return super().training_step(batch, batch_idx)

    def train_dataloader(self):
        x, y = (torch.cat(parts) for parts in zip(*batches().batches, strict=True))
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=self.batch_size)


def find_lr(runner, module):
    Tuner(runner).lr_find(module, num_training=10, update_attr=False)


def find_batch_size(runner, module):
    Tuner(runner).scale_batch_size(module, max_trials=2, steps_per_trial=2)


@pytest.mark.parametrize("with_callback", [True, False], ids=["callback", "mixin alone"])
@pytest.mark.parametrize("find", [find_lr, find_batch_size])
def test_after_a_search_s_is_what_it_was(tmp_path, find, with_callback):
    callbacks = [defaults.UncertaintyCallback()] if with_callback else []
    module = Sized()
    find(trainer(tmp_path, *callbacks), module)
    assert_same_state(module.uncertainty.state_dict(), defaults.UncertaintyWeighting(TASKS).state_dict())
    runner = trainer(tmp_path, *callbacks, max_epochs=1)
    runner.fit(module)
    before = module.uncertainty.state_dict()
    find(runner, module)
    assert_same_state(module.uncertainty.state_dict(), before)


class SearchedReturned(Returned):
    """Remembers what it learned from and the totals that Lightning saw."""

    lr = batch_size = 2

    def __init__(self):
        super().__init__()
        self.seen, self.totals = [], []

    def losses(self, batch):
        losses = super().losses(batch)
        self.seen.append({name: loss.detach().clone() for name, loss in losses.items()})
        return losses

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.totals.append(outputs["loss"].item())

    train_dataloader = Sized.train_dataloader


class SearchedWeighed(UncertaintyMixin, SearchedReturned):
    tasks = TASKS
    training_step = Weighed.training_step


@pytest.mark.parametrize("trained", [False, True], ids=["before a fit", "after a fit"])
@pytest.mark.parametrize("cls", [SearchedReturned, SearchedWeighed])
@pytest.mark.parametrize("find", [find_lr, find_batch_size])
def test_a_search_sees_the_totals_of_the_training_that_it_stands_for(tmp_path, find, cls, trained):
    module, callback = cls(), UncertaintyCallback(TASKS)
    alone = UncertaintyWeighting(TASKS)
    if trained:
        trainer(tmp_path, callback, max_epochs=1).fit(module)
        alone.load_state_dict(callback.weighting.state_dict())
    before, log_vars = alone.state_dict(), alone.log_vars
    alone.searching = True  # without the regularisers, which would make small losses negative
    module.seen, module.totals = [], []
    find(trainer(tmp_path, callback), module)
    totals = []
    for losses in module.seen:
        total = alone({name: loss.requires_grad_() for name, loss in losses.items()})
        total.backward()
        alone.step()
        totals.append(total.item())
    assert len(module.totals) == {find_lr: 10, find_batch_size: 4}[find]
    assert module.totals == pytest.approx(totals, rel=1e-6)
    assert alone.log_vars != log_vars  # it has learned, and is back where it was
    assert_same_state(callback.weighting.state_dict(), before)


FINDERS = {
    "LearningRateFinder": (functools.partial(LearningRateFinder, num_training_steps=10, update_attr=False), 10),
    "BatchSizeFinder": (functools.partial(BatchSizeFinder, max_trials=2, steps_per_trial=3), 2 * 3),
}


@pytest.mark.parametrize("finder", FINDERS)
def test_a_fit_that_searches_first_is_the_fit_without_the_search(tmp_path, finder):
    """With the batch size that was found, for which Lightning trains on its own account."""
    make, trials = FINDERS[finder]
    searched, plain = Sized(), Sized()
    trainer(tmp_path, UncertaintyCallback(), make(), max_epochs=1).fit(searched)
    plain.batch_size = searched.batch_size
    trainer(tmp_path, UncertaintyCallback(), max_epochs=1).fit(plain)
    assert (searched.batch_size > Sized.batch_size) == (finder == "BatchSizeFinder")
    assert searched.calls == plain.calls + trials
    assert plain.calls == plain.uncertainty.steps == 192 // searched.batch_size
    assert_same_run(searched, plain)


# ---------------------------------------------------------------------------------------------------- bystanders


@pytest.mark.usefixtures("empty_pictures")
def test_the_keys_of_the_learning_rate_monitor_are_those_without_the_plugin(tmp_path):
    keys = []
    for module, callback in ((Plain(), Callback()), (Weighed(), UncertaintyCallback())):
        monitor = LearningRateMonitor()
        fit(
            tmp_path,
            module,
            callback=callback,
            callbacks=[monitor],
            logger=CSVLogger(tmp_path),
            log_every_n_steps=5,
        )
        keys.append(list(monitor.lrs))
    assert keys == [["lr-Adam"], ["lr-Adam"]]


def test_predicting_needs_nothing_and_changes_nothing(tmp_path):
    class Predicts(Weighed):
        def predict_step(self, batch, batch_idx):
            return self.net(batch[0])

    module = Predicts()
    runner = trainer(tmp_path, UncertaintyCallback(), max_epochs=1)
    runner.fit(module, batches())
    runner.save_checkpoint(tmp_path / "run.ckpt")
    before = module.uncertainty.state_dict()
    predicted = runner.predict(module, batches())
    assert_same_state(module.uncertainty.state_dict(), before)
    fresh = Predicts()
    again = trainer(tmp_path, UncertaintyCallback()).predict(fresh, batches(), ckpt_path=tmp_path / "run.ckpt")
    assert all(torch.equal(one, two) for one, two in zip(predicted, again, strict=True))
    assert_same_state(fresh.uncertainty.state_dict(), before)


def test_fitting_twice_with_one_trainer_goes_on(tmp_path):
    """With s and its moments; the user's optimizer starts anew, as without the plugin."""
    module, runner = fit(tmp_path, Recorded(), max_epochs=1)
    runner.fit_loop.max_epochs = 2
    runner.fit(module, batches())
    assert len(module.seen) == 48
    assert difference(module.uncertainty.state_dict(), learned_from(module.seen)) is None


# ---------------------------------------------------------------------------------------------------- shipping


class Shipped(Weighed):
    """With a forward pass, and a property that TorchScript must not see either."""

    __jit_unused_properties__ = [*Weighed.__jit_unused_properties__, "settings"]  # as Lightning has it

    def forward(self, x):
        return self.net(x)

    @property
    def settings(self):
        return {self: object()}


class Shared(UncertaintyMixin):
    """What the modules of a project have in common: it knows the mixin, but not LightningModule."""


class ShippedShared(Shared, Shipped):
    pass


class ShippedPlain(Plain):
    forward = Shipped.forward


class ShippedReturned(Returned):
    forward = Shipped.forward


X = torch.arange(12.0).reshape(3, 4)
WAYS = {
    "TorchScript": lambda net: net.to_torchscript(),
    "TorchScript, traced": lambda net: net.to_torchscript(method="trace", example_inputs=X),
    "torch.export": lambda net: torch.export.export(net, (X,)).module(),
    "torch.export, strict": lambda net: torch.export.export(net, (X,), strict=True).module(),
    "torch.fx": torch.fx.symbolic_trace,
    "functional_call": lambda net: lambda x: torch.func.functional_call(net, dict(net.named_parameters()), (x,)),
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
}


class Ships(Callback):
    """In the middle of a fit, as a callback does that exports the best network so far."""

    def __init__(self, way):
        self.way = way

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 5:
            self.same = same_numbers(self.way, pl_module)


def same_numbers(way, net):
    training, net = net.training, net.eval()
    same = torch.allclose(WAYS[way](net)(X), net(X))
    net.train(training)
    return same


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", [ShippedPlain, Shipped, ShippedShared, ShippedReturned])
@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:.*torch.jit")
def test_a_network_can_be_shipped_before_during_and_after_a_fit(tmp_path, cls, way):
    ours = UncertaintyCallback(TASKS if cls is ShippedReturned else None)
    callback, during = Callback() if cls is ShippedPlain else ours, Ships(way)
    fresh = cls()
    assert same_numbers(way, fresh)
    trained, _ = fit(tmp_path, fresh, callback=callback, callbacks=[during], max_epochs=1)
    assert during.same
    assert same_numbers(way, trained)
    if cls is Shipped:
        given = cls()
        given.uncertainty = UncertaintyWeighting(TASKS)
        assert same_numbers(way, given)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "tasks", [TASKS, {"a": "gaussian", "b": 0.1}, [Task("a"), Task("b")]], ids=["short", "mixed", "list"]
)
@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:.*torch.jit")
def test_tasks_that_were_given_to_the_module_do_not_hinder_it(tmp_path, tasks, way):
    """Nor to a module inside it."""
    outer, inner = ShippedPlain(), Shipped()
    outer.net = inner
    inner.tasks = tasks
    assert same_numbers(way, inner)
    assert same_numbers(way, outer)
    trained, _ = fit(tmp_path, inner, max_epochs=1)
    assert same_numbers(way, trained)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_of_a_module_has_an_engine_of_its_own(tmp_path, way):
    module, _ = fit(tmp_path, max_epochs=1)
    twin = WAYS[way](module)
    assert_same_run(module, twin)
    fit(tmp_path, twin, max_epochs=1)
    assert twin.uncertainty.steps == 2 * module.uncertainty.steps == 48
    assert twin.uncertainty.log_vars != module.uncertainty.log_vars


# ---------------------------------------------------------------------------------------------------- two of them


@pytest.mark.parametrize("cls", [Weighed, Returned])
def test_two_callbacks_in_one_trainer_are_refused_with_the_way_out(tmp_path, cls):
    runner = trainer(tmp_path, UncertaintyCallback(TASKS, name="one"), UncertaintyCallback(TASKS, name="two"))
    with pytest.raises(ValueError, match=r"UncertaintyCallbacks 'one' and 'two' .*Name all tasks in one of them"):
        runner.fit(cls(), batches())


def test_two_modules_in_two_trainers_know_nothing_of_each_other(tmp_path):
    one, _ = fit(tmp_path, Weighed(lr=0.5))
    two, _ = fit(tmp_path, Weighed())
    alone, _ = fit(tmp_path, Weighed())
    assert_same_run(two, alone)
    assert one.uncertainty.log_vars != two.uncertainty.log_vars


def test_modules_inside_a_module_get_no_weights_without_a_callback_and_are_told_so(tmp_path):
    class Outer(Plain):
        def __init__(self):
            super().__init__()
            self.one, self.two = Weighed(), Weighed()

        def training_step(self, batch, batch_idx):
            return self.one.weigh(self.one.losses(batch)) + self.two.weigh(self.two.losses(batch))

    with pytest.raises(ValueError, match=r"if it has a callback: `UncertaintyCallback\(module="):
        fit(tmp_path, Outer())
    with pytest.raises(RuntimeError, match=r"from a callback of its own, `UncertaintyCallback\(module="):
        fit(tmp_path, type("Weighing", (UncertaintyMixin, Outer), {"tasks": TASKS})())


def test_two_totals_of_one_module_have_an_engine_each(tmp_path):
    """The way out that the refusal names: a second engine, stepped by the user."""

    class Two(Weighed):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.other = UncertaintyWeighting(TASKS)

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            for weigh in (self.weigh, self.other):
                optimizer.zero_grad()
                self.manual_backward(weigh(self.losses(batch)))
                optimizer.step()
            self.other.step()

    module, _ = fit(tmp_path, Two())
    assert module.uncertainty.steps == module.other.steps == 48
    assert set(module.other.log_vars.values()).isdisjoint(module.uncertainty.log_vars.values())


# ---------------------------------------------------------------------------------------------------- front doors


@pytest.mark.parametrize("package", [L, pl], ids=["lightning", "pytorch_lightning"])
def test_both_packages_train_the_same(tmp_path, package):
    class Net(UncertaintyMixin, package.LightningModule):
        tasks = TASKS
        losses, configure_optimizers = Plain.losses, Plain.configure_optimizers

        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.net, self.lr = torch.nn.Linear(4, 2), 0.05

        def training_step(self, batch, batch_idx):
            return self.weigh(self.losses(batch))

    def train(*callbacks, **options):
        module = Net()
        runner = package.Trainer(
            callbacks=list(callbacks),
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        runner.fit(module, batches(), **options)
        return module

    checkpoint = package.pytorch.callbacks.ModelCheckpoint if package is L else pl.callbacks.ModelCheckpoint
    whole = train(
        defaults.UncertaintyCallback(), checkpoint(tmp_path, filename="{step}", every_n_train_steps=7, save_top_k=-1)
    )
    assert_same_run(whole, train(ckpt_path=tmp_path / "step=7.ckpt"))  # the mixin alone: a callback of its own
    assert_same_run(whole, fit(tmp_path, callback=defaults.UncertaintyCallback())[0])
    assert Net.load_from_checkpoint(tmp_path / "step=7.ckpt").uncertainty.steps == 7


def loop(data, model, weighting, optimizer, backward, autocast):
    for batch in data:
        optimizer.zero_grad()
        with autocast():
            total = weighting(model.losses(batch))
        backward(total)
        optimizer.step()
        weighting.step()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fabric_resumes_bit_for_bit(tmp_path, precision):
    def start():
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        module = Plain()
        model, optimizer = fabric.setup(module, torch.optim.Adam(module.parameters(), lr=0.05))
        model.mark_forward_method("losses")
        return fabric, {"model": model, "optimizer": optimizer, "weighting": UncertaintyWeighting(TASKS)}

    def train(fabric, state, data):
        loop(data, state["model"], state["weighting"], state["optimizer"], fabric.backward, fabric.autocast)

    data = batches().batches
    fabric, whole = start()
    train(fabric, whole, data[:10])
    fabric.save(tmp_path / "fabric.ckpt", whole)
    train(fabric, whole, data[10:])
    fabric, rest = start()
    fabric.load(tmp_path / "fabric.ckpt", rest)
    assert rest["weighting"].steps == 10
    train(fabric, rest, data[10:])
    assert_same_state(whole["weighting"].state_dict(), rest["weighting"].state_dict())
    assert_same_state(whole["model"].state_dict(), rest["model"].state_dict())


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "GradScaler"])
def test_a_plain_torch_loop_equals_the_trainer(tmp_path, scaled):
    """With accumulation, whose factor Lightning applies to the total."""
    module, weighting = Plain(), UncertaintyWeighting(TASKS)
    optimizer = module.configure_optimizers()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
    for _ in range(2):
        for index, batch in enumerate(batches().batches):
            scaler.scale(weighting(module.losses(batch)) / 2).backward()
            if index % 2:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                weighting.step()
    trained, _ = fit(tmp_path, accumulate_grad_batches=2)
    torch.testing.assert_close(module.net.weight, trained.net.weight)
    torch.testing.assert_close(weighting.log_var, trained.uncertainty.log_var)
    assert weighting.steps == trained.uncertainty.steps == 24


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "GradScaler"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_plain_torch_loop_resumes_bit_for_bit(tmp_path, scaled, accumulate):
    """From ``torch.save`` of four states in the middle of the data."""

    def start():
        module = Plain()
        return {
            "module": module,
            "optimizer": module.configure_optimizers(),
            "scaler": torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5, enabled=scaled),
            "weighting": UncertaintyWeighting(TASKS),
        }

    def states(run):
        return {name: part.state_dict() for name, part in run.items()}

    def train(run, data):
        for index, batch in enumerate(data):
            run["scaler"].scale(run["weighting"](run["module"].losses(batch)) / accumulate).backward()
            if index % accumulate == accumulate - 1:
                run["scaler"].step(run["optimizer"])
                run["scaler"].update()
                run["optimizer"].zero_grad()
                run["weighting"].step()

    data = batches().batches
    whole, rest = start(), start()
    train(whole, data[:10])
    torch.save(states(whole), tmp_path / "loop.ckpt")
    train(whole, data[10:])
    for name, state in torch.load(tmp_path / "loop.ckpt", weights_only=True).items():
        rest[name].load_state_dict(state)
    assert rest["weighting"].steps == 10 // accumulate
    train(rest, data[10:])
    assert whole["weighting"].steps == 24 // accumulate
    ends = [{name: dict(state) for name, state in states(run).items()} for run in (whole, rest)]
    assert difference(*ends) is None
