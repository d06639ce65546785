"""Sigma on held-out data: from the losses that validation weighs, over all batches, loaders and ranks."""

import csv
import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_uncertainty import CrossEntropy, Task, UncertaintyWarning, UncertaintyWeighting
from lightning_uncertainty.findings import Finding
from lightning_uncertainty.likelihoods import Likelihood
from lightning_uncertainty.predictive.scores import WIDTH
from lightning_uncertainty.reporting.diagnosis import diagnose
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.summary import as_text, summarize
from tests.models import TASKS, Returned, Weighed, load, trainer
from tests.paper import UncertaintyCallback
from tests.workers.monitor_ranks import Validated, held_out, part
from tests.workers.processes import run_ranks

KEYS = {name: f"uncertainty/sigma_val/{name}" for name in TASKS}


class Sigmas(Callback):
    """What stands in callback_metrics where others decide."""

    def __init__(self):
        self.seen = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.seen.append({name: trainer.callback_metrics[key].item() for name, key in KEYS.items()})


def run(folder, module=None, val=None, *, callback=None, last=(), ckpt_path=None, **options):
    module = Validated() if module is None else module
    callback = UncertaintyCallback(report=False, summary=False) if callback is None else callback
    runner = trainer(folder, callback, *last, **options)
    runner.fit(module, part(0, 6), val or part(6, 13), ckpt_path=ckpt_path)
    return module, callback, runner


def by_hand(seen, *, samples):
    """The root of the mean squared error, and the mean absolute error, over what one validation has seen."""
    found = {}
    for name in TASKS:
        pairs = [(loss, n if samples else 1) for loss, n in (batch[name] for batch in seen) if not math.isnan(loss)]
        mean = math.fsum(loss * n for loss, n in pairs) / sum(n for _, n in pairs)
        found[name] = math.sqrt(mean) if TASKS[name] == "gaussian" else mean
    return found


@pytest.mark.parametrize("samples", [False, True])
def test_it_is_the_optimum_of_the_mean_over_all_batches_and_loaders_and_is_logged_at_each_validation(tmp_path, samples):
    module, sigmas, logger = Validated(), Sigmas(), CSVLogger(tmp_path)
    module.samples = samples
    val = [part(6, 10), part(10, 13)]
    val[1].batches = [[each[:3] for each in batch] for batch in val[1].batches]
    run(tmp_path, module, val, last=[sigmas], max_epochs=3, logger=logger)
    for got, seen in zip(sigmas.seen, module.seen[-3:], strict=True):
        assert got == pytest.approx(by_hand(seen, samples=samples), rel=1e-5)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row[KEYS["a"]]]
    assert [int(row["step"]) for row in rows] == [5, 11, 17]
    assert {name: float(rows[-1][key]) for name, key in KEYS.items()} == pytest.approx(sigmas.seen[-1])
    assert module.uncertainty.sigmas_val == pytest.approx(sigmas.seen[-1])


def test_it_is_in_the_history_the_summary_and_the_checkpoint_and_a_resumed_run_keeps_it(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    options = {"max_epochs": 3, "enable_checkpointing": True, "log_every_n_steps": 2}
    module, callback, _ = run(tmp_path, last=[save], **options)
    for name, sigma in module.uncertainty.sigmas_val.items():
        series = callback.history.series("sigma_val", name)
        assert math.isnan(series[0])
        assert series[-1] == pytest.approx(sigma)
        assert f"{sigma:.4g}" in as_text(summarize(callback.history))
    assert Validated.load_from_checkpoint(tmp_path / "epoch=2.ckpt").uncertainty.sigmas_val == pytest.approx(
        module.uncertainty.sigmas_val
    )

    class Seen(Callback):
        def on_train_start(self, trainer, pl_module):
            self.kept = pl_module.uncertainty.sigmas_val

    seen = Seen()
    saved = load(tmp_path / "epoch=1.ckpt")["callbacks"]["UncertaintyCallback(uncertainty)"]
    resumed, again, _ = run(tmp_path, last=[save, seen], ckpt_path=tmp_path / "epoch=1.ckpt", **options)
    assert seen.kept == pytest.approx({name: math.exp(0.5 * s) for name, s in log_vars(saved).items()}, rel=1e-6)
    assert resumed.uncertainty.sigmas_val == module.uncertainty.sigmas_val
    assert again.history.series("sigma_val", "a")[-1] == callback.history.series("sigma_val", "a")[-1]


def log_vars(saved):
    loss = dict(zip(saved["tasks"], saved["val_loss"], strict=True))
    return {"a": loss["a"].log().item(), "b": 2.0 * loss["b"].log().item()}


def test_a_validation_by_itself_gives_it_and_a_test_does_not(tmp_path):
    module, _, runner = run(tmp_path, max_epochs=1)
    before = module.uncertainty.sigmas_val
    module.test_step = module.validation_step
    module.on_test_epoch_start = module.on_validation_epoch_start
    runner.test(module, part(0, 2), verbose=False)
    assert module.uncertainty.sigmas_val == before
    runner.validate(module, part(0, 2), verbose=False)
    after = by_hand(module.seen[-1], samples=False)
    assert module.uncertainty.sigmas_val == pytest.approx(after, rel=1e-5)
    assert runner.callback_metrics[KEYS["a"]].item() == pytest.approx(after["a"], rel=1e-5)


def test_without_a_weighed_validation_nothing_changes(tmp_path):
    class Silent(Weighed):
        def validation_step(self, batch, batch_idx):
            self.log("mine", self.losses(batch)["a"])

    module, callback, runner = run(tmp_path, Silent())
    assert module.uncertainty.sigmas_val == {}
    assert not [key for key in runner.callback_metrics if "sigma_val" in key]
    assert "sigma_val" not in as_text(summarize(callback.history)).splitlines()[2]


def test_where_the_loss_alone_does_not_tell_there_is_none():
    kinds = {"exact": "softmax_exact", "nll": "nll", "aux": 0.5, "a": "gaussian"}
    weighting = UncertaintyWeighting(kinds).eval()
    weighting.held_out.begin()
    logits = CrossEntropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    weighting({"exact": logits, "nll": torch.tensor(-3.0), "aux": torch.tensor(2.0), "a": torch.tensor(9.0)})
    assert weighting.held_out.end()
    assert weighting.sigmas_val == pytest.approx({"a": 3.0})


class Memorizing(Validated):
    """A network that can learn ten samples by heart."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 200), torch.nn.ReLU(), torch.nn.Linear(200, 2))
        self.lr = 0.01


@pytest.mark.filterwarnings("ignore:The log-variance of task")
def test_an_overfitted_network_is_found_out_and_an_honest_one_is_not(tmp_path):
    found = {}
    for cls, epochs in ((Memorizing, 150), (Validated, 40)):
        module, callback, _ = run(tmp_path, cls(), max_epochs=epochs, log_every_n_steps=2)
        found[cls] = [each for each in diagnose(callback.history) if each.finding is Finding.OVERFITS]
        for each in found[cls]:
            ratio = module.uncertainty.sigmas_val[each.task] / module.uncertainty.sigmas[each.task]
            assert ratio > 1.25
            assert f"is {ratio:.3g} times the learned one" in each.sentence
    assert [each.task for each in found[Memorizing]] == ["a", "b"]
    assert found[Validated] == []


def test_a_history_of_a_version_without_it_is_read(tmp_path):
    _, callback, _ = run(tmp_path, log_every_n_steps=2)
    state = callback.history.state_dict()
    del state["columns"]
    state["values"] = state["values"][:, :4]
    old = History.from_state_dict(state)
    assert old.series("sigma", "a") == callback.history.series("sigma", "a")
    assert all(map(math.isnan, old.series("sigma_val", "a")))


def test_two_ranks_with_shards_of_6_and_2_batches_have_that_of_one_process(tmp_path):
    one, other = run_ranks(held_out, tmp_path, folder=tmp_path)
    assert one["sigmas"] == other["sigmas"]
    assert [len(rank["seen"]) for rank in (one, other)] == [6, 2]
    assert (
        one["reduced"]
        == other["reduced"]
        == [
            ("all_reduce", 6 * len(TASKS)),
            ("all_reduce", WIDTH * len(TASKS)),
        ]
    )
    alone = held_out(tmp_path, devices=1)
    assert len(alone["seen"]) == 8
    assert one["sigmas"] == pytest.approx(alone["sigmas"], rel=1e-6)
    assert one["scores"] == other["scores"]
    assert one["scores"]["a"] == pytest.approx(alone["scores"]["a"], rel=1e-6)
    assert one["scores"]["a"]["samples"] == sum(range(1, 9))
    assert one["sigmas"] == pytest.approx(by_hand([*one["seen"], *other["seen"]], samples=True), rel=1e-5)


# ---------------------------------------------------------------------------------------------------- which of the two


class Predicting(Validated):
    """Predicts the scale of its task a, and remembers the one that it tests with."""

    def predict_step(self, batch, batch_idx):
        return self.uncertainty.predictive("a", self.net(batch[0])[:, 0]).scale[0].item()

    def test_step(self, batch, batch_idx):
        self.tested = self.predict_step(batch, batch_idx)


def scale_of(way, module, tmp_path, *last, **options):
    runner = trainer(tmp_path, *last)
    if way == "test":
        runner.test(module, part(0, 1), verbose=False, **options)
        return module.tested
    return runner.predict(module, part(0, 1), **options)[0]


@pytest.mark.parametrize("way", ["predict", "test"])
def test_which_sigma_predicts_follows_the_module_and_the_checkpoint_into_other_trainers(tmp_path, way):
    callback = UncertaintyCallback(sigma_from="validation", report=False, summary=False)
    fitted, _, runner = run(tmp_path, Predicting(), callback=callback)
    path, expected = tmp_path / "x.ckpt", pytest.approx(fitted.uncertainty.sigmas_val["a"])
    runner.save_checkpoint(path)
    assert fitted.uncertainty.sigmas["a"] != expected
    loaded = Predicting.load_from_checkpoint(path)
    assert scale_of(way, loaded, tmp_path) == expected
    assert scale_of(way, loaded, tmp_path, UncertaintyCallback()) == expected
    assert scale_of(way, Predicting(), tmp_path, ckpt_path=path) == expected
    assert scale_of(way, fitted, tmp_path) == expected
    told = UncertaintyCallback(sigma_from="training")
    assert scale_of(way, Predicting(), tmp_path, told, ckpt_path=path) != expected
    assert scale_of(way, fitted, tmp_path, told) == pytest.approx(fitted.uncertainty.sigmas["a"])


def test_what_was_set_by_hand_stays_in_other_trainers_and_with_a_checkpoint_that_was_not_asked(tmp_path):
    fitted, _, runner = run(tmp_path, Predicting())
    runner.save_checkpoint(tmp_path / "x.ckpt")
    expected, path = pytest.approx(fitted.uncertainty.sigmas_val["a"]), tmp_path / "x.ckpt"
    assert runner.predict(fitted, part(0, 1))[0] == pytest.approx(fitted.uncertainty.sigmas["a"])
    fitted.uncertainty.sigma_from = "validation"
    assert runner.predict(fitted, part(0, 1), ckpt_path=path)[0] == expected
    assert scale_of("predict", fitted, tmp_path, ckpt_path=path) == expected
    fitted.uncertainty.reset()
    assert fitted.uncertainty.sigma_from == "validation"


# ---------------------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize("losses", [(4.0, math.inf, math.nan), (math.nan, math.nan)], ids=str)
def test_losses_of_a_validation_that_are_not_finite_are_told_of_once(losses):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace"}).eval()

    def validate():
        with weighting.validating():
            for loss in losses:
                weighting({"a": torch.tensor(loss), "b": torch.tensor(1.0)})

    count = sum(not math.isfinite(loss) for loss in losses)
    with pytest.warns(UncertaintyWarning, match=rf"Task 'a': {count} losses of a validation are NaN or infinite"):
        validate()
    validate()  # a second warning would be an error
    assert weighting.sigmas_val == pytest.approx({"a": 2.0, "b": 1.0} if 4.0 in losses else {"b": 1.0})


def test_nan_where_some_batches_have_no_labels_is_no_trouble():
    weighting = UncertaintyWeighting({"a": "gaussian"}).eval()
    with weighting.validating():
        for loss in (4.0, math.nan):
            weighting({"a": torch.tensor(loss)})
    assert weighting.sigmas_val == pytest.approx({"a": 2.0})


# ---------------------------------------------------------------------------------------------------- could not move


@pytest.mark.filterwarnings("ignore:The log-variance of task")
@pytest.mark.parametrize(
    ("task", "options"),
    [
        (Task("a", bounds=(-9.0, -3.0)), {}),
        (Task("a", init=-3.0), {"freeze_after": 5}),
        (Task("a", Likelihood("mine", 0.5), init=-3.0), {"freeze_after": 5}),
        (Task("a", Likelihood("mine", 0.5), bounds=(-9.0, -3.0)), {}),
    ],
    ids=["bound", "frozen", "one's own, frozen", "one's own, bound"],
)
def test_a_network_is_not_said_to_overfit_because_its_sigma_could_not_move(tmp_path, task, options):
    module = Validated()
    module.tasks = [task, Task("b", "laplace")]
    callback = UncertaintyCallback(report=False, summary=False, **options)
    run(tmp_path, module, part(0, 6), callback=callback, max_epochs=40, log_every_n_steps=2)
    assert module.uncertainty.sigmas_val["a"] > 1.25 * module.uncertainty.sigmas["a"]
    assert Finding.OVERFITS not in [each.finding for each in diagnose(callback.history)]


def test_a_module_without_the_mixin_weighs_scores_and_predicts_by_the_callback(tmp_path):
    callback = UncertaintyCallback(TASKS, sigma_from="validation", report=False, summary=False)

    class Bare(Returned):
        def validation_step(self, batch, batch_idx):
            callback.weighting(self.losses(batch))
            callback.weighting.score("a", self.net(batch[0])[:, 0], batch[1][:, 0])

    *_, runner = run(tmp_path, Bare(), callback=callback)
    sigma = callback.weighting.sigmas_val["a"]
    assert runner.callback_metrics[KEYS["a"]].item() == pytest.approx(sigma)
    assert callback.weighting.scores["a"].samples == 7 * 8
    assert callback.weighting.predictive("a", torch.zeros(1)).scale.item() == pytest.approx(sigma)
