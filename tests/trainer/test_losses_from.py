"""Losses inside the code of a library: its modules are trained as they are, by the callback alone."""

# ruff: noqa: ARG001, ARG005  # a split gets all that was seen, and takes what it needs

import contextlib
import copy
import io
import pickle
import sys

import lightning as L
import pytest
import torch
import torchmetrics
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger
from torch import nn

import lightning_uncertainty as defaults
from lightning_uncertainty import GradientView, UncertaintyMixin, compare
from lightning_uncertainty.trainer.watched_calls import NoLossesError
from tests.models import TASKS, Plain, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback
from tests.trainer.test_matrix import difference
from tests.workers import loop_ranks
from tests.workers.processes import run_ranks

pytestmark = pytest.mark.usefixtures("empty_pictures")


class Errors(nn.Module):
    """A criterion with one loss, and what it is made of for whoever computes it again."""

    def parts(self, prediction, target):
        error = prediction - target
        return {"a": error[:, 0].square().mean(), "b": error[:, 1].abs().mean()}

    def forward(self, prediction, target):
        return sum(self.parts(prediction, target).values())


class Named(Errors):
    """A criterion that returns its losses by name, beside their sum."""

    def forward(self, prediction, target):
        parts = self.parts(prediction, target)
        return {**parts, "loss": sum(parts.values()), "count": len(target)}


class One(nn.Module):
    """A criterion for one target."""

    def __init__(self, column, norm):
        super().__init__()
        self.column, self.norm = column, norm

    def forward(self, prediction, target):
        return getattr(prediction[:, self.column] - target[:, self.column], self.norm)().mean()


class Callable:
    """A criterion that is no module, with an attribute that somebody reads."""

    factor = 1.0

    def __call__(self, prediction, target):
        return Named()(prediction, target)


class Holder:
    """An object that is no module, as a plan of training is, with a criterion inside."""

    def __init__(self):
        self.heads = [One(0, "square"), One(1, "abs")]
        self.call = Callable()

    def loss(self, prediction, target):
        return Named()(prediction, target)


class Labelled(torch.Tensor):
    """A tensor of a library's own, whose copies need what only it knows."""

    def clone(self):
        raise AttributeError("labels")


class Library(Plain):
    """A module as a library has it: all of its losses are made elsewhere, and it returns and logs their sum."""

    def __init__(self):
        super().__init__()
        self.single, self.named, self.call = Errors(), Named(), Callable()
        self.heads = nn.ModuleList([One(0, "square"), One(1, "abs")])
        self.by_name = nn.ModuleDict({"a": One(0, "square"), "b": One(1, "abs")})
        self.inner = Holder()
        self.logged = []

    def parts(self, prediction, target):
        return self.named.parts(prediction, target)

    def loss_of(self, prediction, target):
        return self.single(prediction, target)

    def training_step(self, batch, batch_idx):
        loss = self.loss_of(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        self.logged.append(loss.detach().clone())
        return loss


def library(loss_of, **others):
    """A kind of Library whose loss is made like this."""
    return type("Made", (Library,), {"loss_of": loss_of, **others})


def split(criterion, output, prediction, target):
    return criterion.parts(prediction, target)


class Dictionary(Library):
    def training_step(self, batch, batch_idx):
        return {"mine": 1, **self.named(self.net(batch[0]), batch[1])}


class Logs(Library):
    def training_step(self, batch, batch_idx):
        output = self.named(self.net(batch[0]), batch[1])
        self.log("a", output["a"])
        self.log_dict({"b": output["b"], "loss": output["loss"]})
        return output["loss"]


def names(module, output, name, value, **options):
    return {name.removeprefix("train/"): value} if name.startswith("train/") else {}


class LogsPaths(Library):
    def training_step(self, batch, batch_idx):
        output = self.named(self.net(batch[0]), batch[1])
        self.log_dict({"train/a": output["a"], "train/b": output["b"], "loss": output["loss"]})
        return output["loss"]


def sum_of_heads(heads):
    return lambda self, prediction, target: sum(head(prediction, target) for head in heads(self))


SOURCES = {
    "a submodule that returns them by name": (library(lambda self, *pair: self.named(*pair)["loss"]), "named", None),
    "a submodule that returns their sum": (Library, "single", split),
    "a method": (library(lambda self, *pair: sum(self.parts(*pair).values())), "parts", None),
    "a method that returns their sum": (Library, "loss_of", lambda self, output, *pair: self.parts(*pair)),
    "an inner object's method": (library(lambda self, *pair: self.inner.loss(*pair)["loss"]), "inner.loss", None),
    "something to call that is no module": (library(lambda self, *pair: self.call(*pair)["loss"]), "call", None),
    "the same in an object": (library(lambda self, *pair: self.inner.call(*pair)["loss"]), "inner.call", None),
    "tensors of a class of its own": (
        library(
            lambda self, *pair: sum(self.of_own(*pair).values()).as_subclass(torch.Tensor),
            of_own=lambda self, *pair: {n: loss.as_subclass(Labelled) for n, loss in self.parts(*pair).items()},
        ),
        "of_own",
        None,
    ),
    "a module list": (library(sum_of_heads(lambda self: self.heads)), {"a": "heads.0", "b": "heads.1"}, None),
    "a module dict": (
        library(sum_of_heads(lambda self: self.by_name.values())),
        {"a": "by_name.a", "b": "by_name.b"},
        None,
    ),
    "a list that is no module": (
        library(sum_of_heads(lambda self: self.inner.heads)),
        {"a": "inner.heads.0", "b": "inner.heads.1"},
        None,
    ),
    "what is logged": (Logs, "log", None),
    "what is logged under other names": (LogsPaths, "log", names),
    "what training_step returns": (Dictionary, None, None),
    "the same, by its name": (Dictionary, "training_step", None),
}


def watching(losses_from, function=None, tasks=TASKS, **options):
    return UncertaintyCallback(tasks, losses_from=losses_from, split=function, **options)


@pytest.mark.parametrize("source", SOURCES)
def test_a_module_as_it_is_trains_as_if_it_called_weigh(tmp_path, source):
    cls, losses_from, function = SOURCES[source]
    callback = watching(losses_from, function)
    module, runner = fit(tmp_path, cls(), callback=callback, accumulate_grad_batches=2)
    weighed, _ = fit(tmp_path, accumulate_grad_batches=2)
    assert difference(module.net.state_dict(), weighed.net.state_dict()) is None
    assert difference(callback.weighting.state_dict(), weighed.uncertainty.state_dict()) is None
    assert runner.callback_metrics["uncertainty/weight/a"] == pytest.approx(weighed.uncertainty.weights["a"])


def test_the_library_sees_and_logs_the_loss_of_its_own(tmp_path):
    module, runner = fit(tmp_path, Library(), callback=watching("single", split), max_epochs=1)
    alone, _ = fit(tmp_path, Library(), callback=Callback(), max_epochs=1)
    assert torch.equal(module.logged[0], alone.logged[0])
    assert runner.callback_metrics["train_loss"] == module.logged[-1]
    assert not torch.equal(module.logged[-1], alone.logged[-1])


def by_element(criterion, output, prediction, target):
    error = prediction - target
    return {"losses": torch.stack([error[:, 0].square(), error[:, 1].abs()], 1), "mask": torch.ones_like(error) > 0}


def test_other_arguments_of_weigh_come_from_the_split_too(tmp_path):
    callback = watching("single", by_element)
    module, _ = fit(tmp_path, Library(), callback=callback)
    weighed, _ = fit(tmp_path)
    torch.testing.assert_close(module.net.state_dict(), weighed.net.state_dict())
    torch.testing.assert_close(callback.weighting.log_var, weighed.uncertainty.log_var)


# ---------------------------------------------------------------------------------------------------- what is added


def regularized(add):
    """A library that does something to the loss that its criterion has returned; `add(module, loss)`."""

    class Regularized(Library):
        def training_step(self, batch, batch_idx):
            output = self.named(self.net(batch[0]), batch[1])
            return add(self, output)

    return Regularized


def norm(module):
    return 0.1 * module.net.weight.square().sum()


def in_place(module, output):
    output["loss"] += norm(module)
    output["loss"].mul_(2.0)
    return output["loss"]


def plain_sum(module):
    inputs, targets = batches().batches[0]
    return module.single(module.net(inputs.double()), targets.double())


# What training_step returns, and what is left of it when the losses of the tasks are gone.
ADDED = {
    "a term": (lambda module, output: output["loss"] + norm(module), norm),
    "a term in place": (in_place, lambda module: 2.0 * norm(module)),
    "a term and a factor": (lambda module, output: 0.5 * (output["loss"] + norm(module)), lambda m: 0.5 * norm(m)),
    "a task's part beside the total": (
        lambda module, output: output["loss"] + 0.3 * output["b"] + norm(module),
        norm,
    ),
    "a factor that trains": (
        lambda module, output: output["loss"] * (1.0 + norm(module)),
        lambda module: plain_sum(module).detach() * (norm(module) - norm(module).detach()),
    ),
    "weights of its own": (lambda module, output: 3.0 * output["a"] + 0.1 * output["b"], lambda module: None),
    "a number": (lambda module, output: output["loss"] + 7.0, lambda module: None),
    "a division": (lambda module, output: output["loss"] / 4, lambda module: None),
}


@pytest.mark.parametrize("whole", [True, False], ids=["all of the output", "the entries of tasks"])
@pytest.mark.parametrize("case", ADDED)
def test_what_training_step_adds_stays_and_the_rest_is_the_weighted_total(tmp_path, case, whole):
    returned, left = ADDED[case]
    module = regularized(returned)().double()
    callback = watching("named", (lambda m, output, *pair: {n: output[n] for n in TASKS}) if whole else None, init=0.0)
    runner = trainer(tmp_path, callback, Gradients(), max_epochs=1, limit_train_batches=1, precision="64-true")
    runner.fit(module, batches())
    by_hand = Library().double()
    parts = by_hand.named.parts(by_hand.net(batches().batches[0][0].double()), batches().batches[0][1].double())
    expected = 0.5 * parts["a"] + parts["b"]  # the factors at s = 0
    rest = left(by_hand)
    (expected if rest is None else expected + rest).backward()
    torch.testing.assert_close(runner.callbacks[1].gradient, by_hand.net.weight.grad, rtol=1e-12, atol=1e-12)
    loss = runner.callbacks[1].loss
    assert loss == pytest.approx((expected if rest is None else expected + rest).item(), rel=1e-12)


class Gradients(Callback):
    """Keeps the gradient and the loss of the last step."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradient = module.net.weight.grad.clone()

    def on_train_batch_end(self, trainer, module, outputs, *others):
        self.loss = float(outputs["loss"])


def test_an_entry_that_is_no_task_stays_in_the_loss(tmp_path):
    module = regularized(lambda module, output: output["a"] + output["b"])()
    runner = trainer(tmp_path, watching("named", tasks={"a": 1.0}), Gradients(), max_epochs=1, limit_train_batches=1)
    runner.fit(module, batches())
    by_hand = Library()
    by_hand.single(by_hand.net(batches().batches[0][0]), batches().batches[0][1]).backward()
    torch.testing.assert_close(runner.callbacks[1].gradient, by_hand.net.weight.grad)


def test_a_loss_that_is_not_finite_sits_out_and_leaves_what_is_added_finite(tmp_path):
    class Masked(Library):
        def training_step(self, batch, batch_idx):
            chosen = batch[1][:, 0].isfinite()  # none in one batch, whose mean is NaN
            output = {
                "a": self.heads[0](self.net(batch[0])[chosen], batch[1][chosen]),
                "b": self.heads[1](self.net(batch[0]), batch[1]),
            }
            return sum(self.both(output).values()) + norm(self)

        def both(self, output):
            return output

    data = batches()
    data.batches[3][1][:, 0] = torch.inf
    callback = watching("both")
    with pytest.warns(Warning, match="'a' was NaN or infinite"):
        module, _ = fit(tmp_path, Masked(), data=data, callback=callback)
    assert torch.isfinite(module.net.weight).all()
    assert callback.weighting.snapshot().tasks["a"].nonfinite == 2


# ---------------------------------------------------------------------------------------------------- nothing is left


class Looks(Callback):
    """Copies and pickles the module while it trains."""

    def on_train_batch_end(self, trainer, module, *others):
        assert_unwatched(module)
        assert_unwatched(copy.deepcopy(module))
        torch.save(module.single, io.BytesIO())
        pickle.dumps(module.inner)


def assert_unwatched(module):
    assert not any(each._forward_hooks for each in module.modules())
    assert {"loss_of", "parts", "log"}.isdisjoint(vars(module))
    assert vars(module.inner).keys() == {"heads", "call"}
    assert type(module.call) is Callable


@pytest.mark.parametrize("losses_from", ["single", "loss_of", "inner.loss", "call", "log"])
@pytest.mark.parametrize("fails", [False, True], ids=["after the fit", "after an exception"])
def test_no_watch_is_found_by_others_or_left_behind(tmp_path, losses_from, fails):
    class Fails(Library):
        def loss_of(self, prediction, target):
            self.log_dict(parts := self.inner.loss(prediction, target))
            if fails and self.logged:
                raise OSError("mine")
            return parts["loss"] + self.call(prediction, target)["loss"] + self.single(prediction, target)

    needs_split = losses_from in ("single", "loss_of")
    callback = watching(losses_from, (lambda module, output, *pair: Errors().parts(*pair)) if needs_split else None)
    module = Fails()
    with pytest.raises(OSError, match="mine") if fails else contextlib.nullcontext():
        fit(tmp_path, module, callback=callback, callbacks=[Looks()], max_epochs=1)
    assert_unwatched(module)
    assert callback.weighting.steps == (1 if fails else 24)


def test_a_method_set_on_the_instance_is_there_afterwards(tmp_path):
    module = Library()
    module.loss_of = mine = module.loss_of
    fit(tmp_path, module, callback=watching("loss_of", lambda m, output, *pair: m.parts(*pair)), max_epochs=1)
    assert vars(module)["loss_of"] is mine


def test_validation_is_left_alone(tmp_path):
    class Validated(Library):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.loss_of(self.net(batch[0]), batch[1]))

    callback, module = watching("single", split), Validated()
    runner = trainer(tmp_path, callback, max_epochs=1)  # with a sanity check
    runner.fit(module, batches(), batches())
    assert callback.weighting.steps == 24
    assert "uncertainty/val_relative_loss" not in runner.callback_metrics
    in_fit = runner.callback_metrics["val_loss"]
    assert in_fit == runner.validate(module, batches(), verbose=False)[0]["val_loss"]
    assert (
        runner.validate(module, batches(), verbose=False)[0]["val_loss"]
        == trainer(tmp_path).validate(module, batches(), verbose=False)[0]["val_loss"]
    )


def test_sigma_comes_back_with_the_mixin_before_the_class_of_the_library(tmp_path):
    class Ours(UncertaintyMixin, Library):
        tasks = TASKS

    module, runner = fit(tmp_path, Ours(), callback=watching("single", split, None))
    runner.save_checkpoint(tmp_path / "run.ckpt")
    loaded = Ours.load_from_checkpoint(tmp_path / "run.ckpt")
    assert loaded.uncertainty.log_vars == module.uncertainty.log_vars
    assert Library.load_from_checkpoint(tmp_path / "run.ckpt").net.weight.equal(module.net.weight)


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    def run(epochs, **options):
        callback = watching("single", split)
        module, runner = fit(tmp_path, Library(), callback=callback, max_epochs=epochs, **options)
        runner.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return {**module.state_dict(), **callback.state_dict()}

    whole = run(4)
    run(2)
    assert difference(run(4, ckpt_path=tmp_path / "2.ckpt"), whole) is None


# ---------------------------------------------------------------------------------------------------- several calls


def test_calls_of_one_criterion_for_other_tasks_are_put_together(tmp_path):
    class Criterion(nn.Module):
        def forward(self, prediction, target, name):
            return (prediction - target).abs().mean()

    class Twice(Library):
        def __init__(self):
            super().__init__()
            self.criterion = Criterion()

        def loss_of(self, prediction, target):
            return sum(self.criterion(prediction[:, k], target[:, k], name="ab"[k]) for k in range(2))

    callback = watching("criterion", lambda m, output, *pair, name: {name: output}, dict.fromkeys("ab", "laplace"))
    fit(tmp_path, Twice(), callback=callback)
    assert callback.weighting.weights["a"] != callback.weighting.weights["b"]
    with pytest.raises(NoLossesError, match=r"more than once in one training_step, and task 'a' has two losses"):
        fit(tmp_path, Twice(), callback=watching("criterion", lambda m, output, *pair, name: {"a": output}))


# ---------------------------------------------------------------------------------------------------- what is refused


class Metric(Library):
    """Its metric sees what the criterion sees, and makes no loss."""

    def __init__(self):
        super().__init__()
        self.metric, self.threshold = torchmetrics.MeanSquaredError(), 0.5

    def loss_of(self, prediction, target):
        self.metric(prediction, target)
        return super().loss_of(prediction, target)


class Compiled(Library):
    def __init__(self):
        super().__init__()
        self.single.compile(backend="eager")


NOWHERE = {
    "a typing error": (Library, "singel", r"leads nowhere in Library: Library has no 'singel'.* Did you mean 'single'"),
    "an inner one": (Library, "heads.7", r"ModuleList has no '7'"),
    "no number": (Library, "inner.heads.a", r"list has no 'a'"),
    "no call": (Metric, "threshold", r"leads to an object of type float. Expected a submodule, or a method"),
    "not called": (Library, "by_name.a", r"by_name.a was not called in training_step.*compiled or scripted"),
    "no losses": (
        Library,
        "single",
        r"single returned Tensor. Write `losses_from=\"single\", split=split`.*\{'a': ...,",
    ),
    "other names": (library(lambda self, *pair: self.named(*pair)["loss"]), "named", r"named returned 'x', 'loss'"),
    "compiled": (Compiled, "single", r"compiled as a whole, which hides the call. Compile the network alone"),
}


@pytest.mark.parametrize("case", NOWHERE)
def test_where_no_losses_are_the_error_says_what_to_write(tmp_path, case):
    cls, losses_from, message = NOWHERE[case]
    module = cls()
    module.named.parts = lambda *pair: {"x": Errors().parts(*pair)["a"]}
    with pytest.raises(NoLossesError, match=message):
        fit(tmp_path, module, callback=watching(losses_from))
    assert_unwatched(module)


def test_what_is_not_the_loss_is_refused(tmp_path):
    with pytest.raises(NoLossesError, match=r"does not depend on what was seen at 'metric'.*beside it"):
        fit(tmp_path, Metric(), callback=watching("metric", lambda m, output, *pair: Errors().parts(*pair)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"losses_from": 3}, TypeError, r"losses_from must be the path of a submodule .* got 3"),
        ({"losses_from": {}}, TypeError, r"losses_from must be"),
        ({"losses_from": {"a": 1}}, TypeError, r"losses_from must be"),
        ({"losses_from": {"a": "x"}, "split": split}, ValueError, r"split must be a function, for one path"),
        ({"losses_from": "x", "split": "y"}, ValueError, r"split must be a function"),
        ({"losses_from": "x", "module": "y"}, ValueError, r"Drop module='y'"),
    ],
)
def test_arguments_that_cannot_be_meant(options, error, message):
    with pytest.raises(error, match=message):
        UncertaintyCallback(TASKS, **options)


def test_manual_optimisation_is_refused(tmp_path):
    module = Library()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="Derive it from UncertaintyMixin"):
        fit(tmp_path, module, callback=watching("single", split))


class Returns(Library):
    def training_step(self, batch, batch_idx):
        output = self.named(self.net(batch[0]), batch[1])
        return {"loss": output["loss"], "recon": output["a"], "kl": output["b"]}


class Tells(Library):
    def training_step(self, batch, batch_idx):
        output = self.named(self.net(batch[0]), batch[1])
        self.log("recon", output["a"])
        self.log("kl", output["b"])
        return output["loss"]


OFFERED = {
    Returns: r"returned 'loss', 'recon', 'kl'. .*`UncertaintyCallback\(\{\"recon\": ..., \"kl\": ...\}\)`",
    Tells: r"returned Tensor. .*`UncertaintyCallback\(\{\"recon\": ..., \"kl\": ...\}, losses_from=\"log\"\)`",
    Library: r"returned Tensor. .*If they are made in 'loss_of', .*`losses_from=\"loss_of\"`",
}


@pytest.mark.parametrize("cls", OFFERED)
def test_a_module_of_others_is_offered_the_line_that_trains_it(tmp_path, cls):
    with pytest.raises(NoLossesError, match=OFFERED[cls]):
        fit(tmp_path, cls(), callback=UncertaintyCallback(TASKS))
    if cls is not Library:
        fit(tmp_path, cls(), callback=watching({Tells: "log"}.get(cls), tasks={"recon": "gaussian", "kl": "laplace"}))


# ---------------------------------------------------------------------------------------------------- around it


def test_a_network_compiled_by_itself_is_no_hindrance(tmp_path):
    module, plain = Library(), Library()
    module.net.compile(backend="eager")
    for each in (module, plain):
        fit(tmp_path, each, callback=watching("single", split), max_epochs=1)
    torch.testing.assert_close(module.net.weight, plain.net.weight)


def test_gradients_of_its_tasks_can_be_looked_at(tmp_path):
    norms = []
    for module, callback in ((Library(), watching("single", split)), (Weighed(), UncertaintyCallback())):
        view = GradientView("net", every_n_steps=1)
        fit(tmp_path, module, callback=callback, callbacks=[view], max_epochs=1, logger=CSVLogger(tmp_path))
        norms.append([snapshot.norms for snapshot in view.snapshots])
    assert norms[0] == norms[1]


def test_a_comparison_trains_it_with_equal_and_with_learned_weights(tmp_path):
    class Measured(Library):
        def validation_step(self, batch, batch_idx):
            self.log_dict(self.parts(self.net(batch[0]), batch[1]))

    trained = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    result = compare(
        Measured,
        {"train": batches(), "val": batches(seed=1)},
        metrics={"a": "min", "b": "min"},
        seeds=[0],
        trainer={**trained, "callbacks": [watching("single", split)]},
        folder=tmp_path / "comparison",
    )
    module, runner = Measured(), trainer(tmp_path, max_epochs=1)
    runner.fit(module, batches(), batches(seed=1))
    plain = runner.validate(module, batches(seed=1), verbose=False)[0]
    for name, value in plain.items():
        assert result.values("equal", name) == [pytest.approx(value, rel=1e-6)]
        assert result.values("learned", name) != result.values("equal", name)


def test_a_line_search_compares_totals_that_have_what_is_added(tmp_path):
    class Searching(Library):
        def training_step(self, batch, batch_idx):
            return self.named(self.net(batch[0]), batch[1])["loss"] + norm(self)

        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), max_iter=4, line_search_fn="strong_wolfe")

    class Own(Searching, Weighed):
        def training_step(self, batch, batch_idx):
            return self.weigh(self.parts(self.net(batch[0]), batch[1])) + norm(self)

    options = {"max_epochs": 1, "limit_train_batches": 3, "precision": "64-true"}  # single precision soon differs
    watched, _ = fit(tmp_path, Searching().double(), callback=watching("named"), **options)
    own, _ = fit(tmp_path, Own().double(), **options)
    torch.testing.assert_close(watched.net.weight, own.net.weight)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_ranks_learn_what_they_learn_from_weigh(tmp_path, accumulate):
    one, other = run_ranks(loop_ranks.losses_of_a_library, tmp_path, accumulate, folder=tmp_path)
    assert difference(one, other) is None
    assert difference(*one) is None


@pytest.mark.parametrize("by", ["a file", "the command line"])
def test_a_configuration_names_path_and_function(tmp_path, by, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

    class Data(L.LightningDataModule):
        def train_dataloader(self):
            return batches()

    arguments = {"tasks": TASKS, "losses_from": "single", "split": "tests.trainer.test_losses_from.split"}
    callbacks = [{"class_path": "lightning_uncertainty.UncertaintyCallback", "init_args": arguments}]
    options = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {**options, "callbacks": callbacks}}))
    given = ["--config", str(tmp_path / "config.yaml"), "--seed_everything", "false"]
    if by == "the command line":
        paths = '{"a": "heads.0", "b": "heads.1"}'
        given += ["--trainer.callbacks.losses_from", paths, "--trainer.callbacks.split", "null"]
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", *given])
    kind = Library if by == "a file" else library(sum_of_heads(lambda self: self.heads))
    module = LightningCLI(kind, Data, save_config_callback=None).model
    weighed, _ = fit(tmp_path, callback=defaults.UncertaintyCallback())
    assert difference(module.net.state_dict(), weighed.net.state_dict()) is None
