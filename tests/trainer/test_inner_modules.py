"""Modules inside the module that is trained, each with a callback and an engine of its own."""

import csv
import warnings

import lightning as L
import pytest
import pytorch_lightning as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_uncertainty import UncertaintyMixin
from tests.models import TASKS, Plain, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.trainer.test_matrix import difference

pytestmark = pytest.mark.usefixtures("empty_pictures")

PATHS = ("generator", "parts.critic")


class Part(UncertaintyMixin, nn.Module):
    """What weighs need not be a LightningModule."""

    tasks = TASKS

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Linear(4, 2)

    losses = Plain.losses


class Pair(UncertaintyMixin, Plain):
    """Two modules with two totals; the outer one has the mixin for the sake of ``load_from_checkpoint`` alone."""

    def __init__(self):
        super().__init__()
        self.net = None
        self.generator = Part(1)
        self.parts = nn.ModuleDict({"critic": Part(2)})

    def engines(self):
        return {path: self.get_submodule(path).uncertainty for path in PATHS}

    def states(self):
        return {path: engine.state_dict() for path, engine in self.engines().items()}

    def totals(self, batch):
        for path in PATHS:
            part = self.get_submodule(path)
            yield part.weigh(part.losses(batch))

    def training_step(self, batch, batch_idx):
        return sum(self.totals(batch))


class Adversaries(Pair):
    """By hand, an optimizer each; the critic learns from every third batch."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for path, optimizer in zip(PATHS, self.optimizers(), strict=True):
            if path == PATHS[1] and batch_idx % 3:
                continue
            part = self.get_submodule(path)
            optimizer.zero_grad()
            self.manual_backward(part.weigh(part.losses(batch)))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(self.get_submodule(path).parameters(), lr=0.05) for path in PATHS]


def pair_of_callbacks(**options):
    return [UncertaintyCallback(module=path, **options) for path in PATHS]


def train(folder, module, *more, ckpt_path=None, **options):
    runner = trainer(folder, *pair_of_callbacks(), *more, **options)
    runner.fit(module, batches(), ckpt_path=ckpt_path)
    return runner


@pytest.fixture(params=[Pair, Adversaries], ids=["automatic", "manual"])
def cls(request):
    return request.param


# ---------------------------------------------------------------------------------------------------- training


def alone(seed, which=lambda _: True):
    """What one part comes to in a plain loop of its own, in which only its own steps count."""
    part, weighting = Part(seed), UncertaintyWeighting(TASKS)
    optimizer = torch.optim.Adam(part.parameters(), lr=0.05)
    weighting.suit([optimizer])
    for _ in range(2):
        weighting.relative.begin_epoch()
        for index, batch in enumerate(batches().batches):
            if which(index):
                optimizer.zero_grad()
                weighting(part.losses(batch)).backward()
                optimizer.step()
                weighting.step()
    return part, weighting


def test_each_module_learns_as_if_it_were_alone(tmp_path, cls):
    """Network and s; a batch from which a module does not learn moves neither its s nor its moments."""
    module = cls()
    train(tmp_path, module)
    # The first window of a task sets its s and takes no step of Adam.
    critics = (lambda _: True, 47.0) if cls is Pair else (lambda index: index % 3 == 0, 15.0)
    for seed, path, (which, count) in ((1, PATHS[0], (lambda _: True, 47.0)), (2, PATHS[1], critics)):
        part, weighting = alone(seed, which)
        found = module.get_submodule(path)
        assert difference(found.uncertainty.state_dict(), weighting.state_dict()) is None
        assert difference(dict(found.state_dict()), dict(part.state_dict())) is None
        assert weighting.state_dict()["count"].tolist() == [count, count]


def test_the_outer_module_may_weigh_too(tmp_path):
    class Both(Pair):
        tasks = {"generator": "gaussian", "critic": "gaussian"}

        def training_step(self, batch, batch_idx):
            generator, critic = self.totals(batch)
            return self.weigh({"generator": generator.exp(), "critic": critic.exp()})

    module, callback = Both(), UncertaintyCallback()
    train(tmp_path, module, callback)
    assert module.uncertainty is callback.weighting
    engines = {id(module.uncertainty), *map(id, module.engines().values())}
    assert len(engines) == 3
    assert {engine.steps for engine in (module.uncertainty, *module.engines().values())} == {48}


def test_a_module_may_be_served_inside_one_that_knows_nothing_of_it(tmp_path):
    class Outer(Plain):
        def __init__(self):
            super().__init__()
            self.inner = Part(1)

        def training_step(self, batch, batch_idx):
            return self.inner.weigh(self.inner.losses(batch))

    module, _ = fit(tmp_path, Outer(), callback=UncertaintyCallback(module="inner"))
    part, weighting = alone(1)
    assert difference(module.inner.uncertainty.state_dict(), weighting.state_dict()) is None
    assert torch.equal(module.inner.net.weight, part.net.weight)


# ---------------------------------------------------------------------------------------------------- logging


def test_each_logs_under_its_prefix(tmp_path, cls):
    module, logger = cls(), CSVLogger(tmp_path)
    runner = trainer(tmp_path, *pair_of_callbacks(prog_bar=True), logger=logger, log_every_n_steps=6)
    runner.fit(module, batches())
    with open(logger.experiment.metrics_file_path, newline="") as file:
        table = list(csv.DictReader(file))
    for path, engine in module.engines().items():
        keys = {key: value for key, value in runner.callback_metrics.items() if key.startswith(f"{path}/")}
        assert {name: keys[f"{path}/weight/{name}"].item() for name in TASKS} == pytest.approx(engine.weights)
        assert f"{path}/loss_sum" in keys
        assert {f"{path}/weight/a", f"{path}/weight/b"} <= runner.progress_bar_metrics.keys()
        columns = [row[f"{path}/weight/a"] for row in table]
        assert sum(bool(value) for value in columns) == 8
        assert float(columns[-1] or columns[-2]) == pytest.approx(engine.weights["a"])
    assert not any(key.startswith("uncertainty/") for key in runner.callback_metrics)


@pytest.mark.parametrize(
    ("options", "name", "prefix"),
    [
        ({}, "uncertainty", "uncertainty"),
        ({"module": "generator"}, "generator", "generator"),
        ({"module": "parts.critic"}, "parts.critic", "parts.critic"),
        ({"module": "generator", "name": "g"}, "g", "generator"),
        ({"module": "generator", "log_prefix": "train/g"}, "generator", "train/g"),
        ({"name": "uncertainty", "log_prefix": "mtl"}, "uncertainty", "mtl"),
    ],
)
def test_name_and_prefix_follow_from_the_module_unless_given(options, name, prefix):
    callback = UncertaintyCallback(TASKS, **options)
    assert (callback.name, callback.log_prefix) == (name, prefix)
    assert callback.state_key == f"UncertaintyCallback({name})"


@pytest.mark.parametrize("empty", ["name", "log_prefix"])
def test_an_empty_name_or_prefix_is_refused(empty):
    with pytest.raises(ValueError, match="must not be empty"):
        UncertaintyCallback(TASKS, module="generator", **{empty: ""})


# ---------------------------------------------------------------------------------------------------- checkpoints


class SaveAtBatch(Callback):
    def __init__(self, path, batch):
        self.path, self.batch = path, batch

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx == self.batch:
            trainer.save_checkpoint(self.path)


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, cls):
    """In the middle of the second epoch; both networks, both s, all moments."""
    path = tmp_path / "mid.ckpt"
    whole, rest = cls(), cls()
    runner = train(tmp_path, whole, SaveAtBatch(path, 30))
    runner.save_checkpoint(tmp_path / "whole.ckpt")
    train(tmp_path, rest, ckpt_path=path).save_checkpoint(tmp_path / "rest.ckpt")
    ends = [torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("whole", "rest")]
    keys = {f"UncertaintyCallback({name})" for name in PATHS}
    assert keys <= ends[0]["callbacks"].keys()
    mine = [{key: value for key, value in end.items() if key != "callbacks"} for end in ends]
    assert difference(*mine) is None
    assert difference(*({key: end["callbacks"][key] for key in sorted(keys)} for end in ends)) is None
    assert difference(whole.states(), rest.states()) is None


def test_load_from_checkpoint_without_a_trainer_gives_both_back(tmp_path, cls):
    module = cls()
    train(tmp_path, module).save_checkpoint(tmp_path / "run.ckpt")
    loaded = cls.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    assert difference(loaded.states(), module.states()) is None
    assert loaded.generator.uncertainty.log_vars != loaded.parts["critic"].uncertainty.log_vars


class Around(Plain):
    """Without the mixin, so that nothing but the callback holds the weights in a checkpoint."""

    def __init__(self):
        super().__init__()
        self.net = None
        self.generator = Part(1)

    def training_step(self, batch, batch_idx):
        return self.generator.weigh(self.generator.losses(batch))


def test_a_checkpoint_from_before_the_name_followed_from_the_module_still_loads(tmp_path):
    path, old = tmp_path / "old.ckpt", UncertaintyCallback(module="generator", name="uncertainty")
    _, runner = fit(tmp_path, Around(), callback=old, max_epochs=1)
    runner.save_checkpoint(path)
    assert list(torch.load(path, weights_only=True)["callbacks"]) == ["UncertaintyCallback(uncertainty)"]
    new = UncertaintyCallback(module="generator")
    with warnings.catch_warnings():  # Lightning's own, of the callback whose key it does not find
        warnings.filterwarnings("ignore", ".*Please add the following callbacks")
        fit(tmp_path, Around(), callback=new, ckpt_path=path, max_epochs=2)
    assert new.weighting.steps == 2 * old.weighting.steps
    assert new.history.steps[0] == old.history.steps[0]


def test_a_spawned_process_sends_both_home(tmp_path):
    module, here = Pair(), Pair()
    train(tmp_path, module, strategy="ddp_spawn", devices=1)
    train(tmp_path, here)
    assert difference(module.states(), here.states()) is None


# ---------------------------------------------------------------------------------------------------- what is wrong

WRONG = {
    "unknown path": ([{"module": "generater"}], r"no module 'generater' .*Did you mean 'generator'\?"),
    "no mixin": ([{"module": "generator.net"}], r"'generator\.net', whose class Linear lacks `self\.weigh`"),
    "one module twice": (
        [{"module": "generator"}, {"module": "generator", "name": "again"}],
        "'generator' and 'again'",
    ),
    "one module by two paths": ([{"module": "generator"}, {"module": "alias", "name": "again"}], "same module"),
    "one prefix twice": ([{"module": path, "log_prefix": "mtl"} for path in PATHS], "another log_prefix than 'mtl'"),
    "no tasks": ([{"module": "untold"}], "Neither UncertaintyCallback nor Untold says"),
}


class Untold(UncertaintyMixin, nn.Linear):
    pass


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused_by_name_before_training(tmp_path, case):
    options, message = WRONG[case]
    module = Pair()
    module.alias, module.untold = module.generator, Untold(1, 1)
    runner = trainer(tmp_path, *(UncertaintyCallback(**option) for option in options))
    with pytest.raises(ValueError, match=message):
        runner.fit(module, batches())


@pytest.mark.parametrize("package", [L, pl], ids=["lightning", "pytorch_lightning"])
@pytest.mark.parametrize("options", [{}, {"name": "one"}, {"module": "inner"}])
def test_one_name_twice_is_refused_with_the_way_out_when_the_trainer_is_made(tmp_path, package, options):
    """Lightning would refuse it there too, and say that `state_key` must be unique."""
    name = next(iter(options.values()), "uncertainty")
    with pytest.raises(
        ValueError, match=rf"have the name '{name}'.*drop the other.*`UncertaintyCallback\(module=\"path\""
    ):
        package.Trainer(
            callbacks=[UncertaintyCallback(**options) for _ in PATHS], logger=False, default_root_dir=tmp_path
        )
    with pytest.raises(ValueError, match="have the name 'one'"):
        trainer(tmp_path, *(UncertaintyCallback(module=path, name="one") for path in PATHS))


def test_the_key_of_a_callback_can_be_compared_without_a_trainer():
    assert UncertaintyCallback().state_key == UncertaintyCallback().state_key == "UncertaintyCallback(uncertainty)"


def test_a_callback_for_an_inner_module_leaves_the_outer_one_without_weights(tmp_path):
    class Outer(Weighed):
        def __init__(self):
            super().__init__()
            self.inner = Part(1)

    with pytest.raises(RuntimeError, match=r"Outer has no weights yet.*`UncertaintyCallback\(module=\"path\"\)`"):
        fit(tmp_path, Outer(), callback=UncertaintyCallback(module="inner"))
