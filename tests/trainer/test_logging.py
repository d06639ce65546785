import csv
import math
import re
import statistics

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util.tensor_util import make_ndarray

from lightning_uncertainty import GradientView
from lightning_uncertainty.reporting.files import read_report
from tests.models import Validated, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback

pytestmark = pytest.mark.usefixtures("empty_pictures")

KEYS = {
    "uncertainty/weight/a",
    "uncertainty/sigma/a",
    "uncertainty/loss/a",
    "uncertainty/share/a",
    "uncertainty/weight/b",
    "uncertainty/sigma/b",
    "uncertainty/loss/b",
    "uncertainty/share/b",
    "uncertainty/relative_loss",
    "uncertainty/loss_sum",
    "uncertainty/trust",
}


def logged_fit(folder, module=None, **options):
    """Train without a report, which takes longer than the training, and of which nothing is said here."""
    return fit(folder, module, callback=UncertaintyCallback(report=False), **options)


def rows(logger):
    """The rows of a CSV file that hold our keys, by step."""
    with open(f"{logger.log_dir}/metrics.csv") as file:
        return {int(row["step"]): row for row in csv.DictReader(file) if row["uncertainty/loss_sum"]}


def events(logger):
    reader = EventAccumulator(logger.log_dir)
    reader.Reload()
    return {tag: {event.step: event.value for event in reader.Scalars(tag)} for tag in reader.Tags()["scalars"]}


def test_csv_and_tensorboard_hold_the_same_keys_steps_and_values(tmp_path):
    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "tb")]
    logged_fit(tmp_path, logger=loggers, log_every_n_steps=10)
    table, series = rows(loggers[0]), events(loggers[1])
    assert series.keys() >= KEYS
    for key in KEYS:
        assert series[key].keys() == table.keys() == {9, 19, 29, 39}
        for step, row in table.items():
            assert float(row[key]) == pytest.approx(series[key][step], rel=1e-6)


def test_rows_have_the_epoch_beside_the_step_as_those_of_lightning(tmp_path):
    logger = CSVLogger(tmp_path)
    logged_fit(tmp_path, logger=logger, log_every_n_steps=10)
    assert {step: float(row["epoch"]) for step, row in rows(logger).items()} == {9: 0.0, 19: 0.0, 29: 1.0, 39: 1.0}


def layout(logger):
    """The charts of TensorBoard's tab "Custom Scalars", by category: title -> pattern of the tags."""
    (event,) = EventAccumulator(logger.log_dir).Reload().Tensors("custom_scalars__config__")
    content = layout_pb2.Layout.FromString(make_ndarray(event.tensor_proto).item())
    return {c.title: {chart.title: [*chart.multiline.tag] for chart in c.chart} for c in content.category}


def test_tensorboard_gets_charts_with_the_curves_of_all_tasks_from_the_first_row_on(tmp_path):
    class Looks(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 20:
                trainer.logger.experiment.flush()
                seen.update(layout(trainer.logger))

    seen, logger = {}, TensorBoardLogger(tmp_path)
    logged_fit(tmp_path, logger=logger, log_every_n_steps=10, callbacks=[Looks()])
    (charts,) = seen.values()
    assert seen == layout(logger)  # once
    assert charts.keys() == {"weights", "sigmas", "raw losses", "shares"}
    drawn = {title: {tag for tag in events(logger) if re.search(pattern, tag)} for title, (pattern,) in charts.items()}
    assert drawn["weights"] == {"uncertainty/weight/a", "uncertainty/weight/b"}
    assert drawn["raw losses"] == {"uncertainty/loss/a", "uncertainty/loss/b"}


def test_logged_values_are_those_of_the_run(tmp_path):
    class Recorder(Weighed):
        seen = ()

        def training_step(self, batch, batch_idx):
            losses = self.losses(batch)
            self.seen = (*self.seen, {name: loss.item() for name, loss in losses.items()})
            return self.weigh(losses)

    logger = CSVLogger(tmp_path)
    module, _ = logged_fit(tmp_path, Recorder(), logger=logger, log_every_n_steps=1)
    table = rows(logger)
    assert list(table) == list(range(48))
    for step, losses in enumerate(module.seen):
        row = {key: float(value) for key, value in table[step].items() if key in KEYS}
        for name, loss in losses.items():
            assert row[f"uncertainty/loss/{name}"] == pytest.approx(loss, rel=1e-6)
        assert row["uncertainty/loss_sum"] == pytest.approx(sum(losses.values()), rel=1e-6)
        weighted = {
            "a": 0.5 * row["uncertainty/weight/a"] * losses["a"],  # Gaussian: 1/2 sigma^-2 L
            "b": row["uncertainty/weight/b"] * losses["b"],  # Laplace: L / b
        }
        assert row["uncertainty/share/a"] == pytest.approx(weighted["a"] / sum(weighted.values()), rel=1e-5)
        assert row["uncertainty/weight/a"] == pytest.approx(row["uncertainty/sigma/a"] ** -2, rel=1e-5)
        assert row["uncertainty/weight/b"] == pytest.approx(row["uncertainty/sigma/b"] ** -1, rel=1e-5)
    assert row["uncertainty/weight/a"] == pytest.approx(module.uncertainty.weights["a"])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_line_up_with_those_of_lightning(tmp_path, accumulate):
    class Logs(Weighed):
        def training_step(self, batch, batch_idx):
            self.log("mine", float(batch_idx))
            return super().training_step(batch, batch_idx)

    logger = TensorBoardLogger(tmp_path)
    logged_fit(tmp_path, Logs(), logger=logger, log_every_n_steps=2, accumulate_grad_batches=accumulate)
    series = events(logger)
    assert series["uncertainty/loss_sum"].keys() == series["mine"].keys()


def test_steps_line_up_with_those_of_lightning_under_manual_optimisation(tmp_path):
    class Manual(Weighed):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.log("mine", float(batch_idx))
            one, two = self.optimizers()
            one.zero_grad()
            two.zero_grad()
            self.manual_backward(self.weigh(self.losses(batch)))
            one.step()
            if batch_idx % 3 == 0:
                two.step()

        def configure_optimizers(self):
            return [torch.optim.SGD([parameter], lr=0.01) for parameter in self.parameters()]

    logger = TensorBoardLogger(tmp_path)
    logged_fit(tmp_path, Manual(), logger=logger, log_every_n_steps=5)
    series = events(logger)
    assert series["uncertainty/loss_sum"].keys() == series["mine"].keys()


def test_the_keys_stay_the_same_when_a_task_is_missing_or_comes_late(tmp_path):
    class Late(Weighed):
        def training_step(self, batch, batch_idx):
            losses = self.losses(batch)
            if self.global_step < 5:
                del losses["b"]
            return self.weigh(losses)

    logger = CSVLogger(tmp_path)
    logged_fit(tmp_path, Late(), logger=logger, log_every_n_steps=1)
    table = rows(logger)
    assert math.isnan(float(table[4]["uncertainty/loss/b"]))
    assert float(table[4]["uncertainty/loss_sum"]) == float(table[4]["uncertainty/loss/a"])
    assert float(table[5]["uncertainty/loss/b"]) > 0.0


def test_names_as_in_a_table_are_kept_and_loggers_get_keys_that_they_take(tmp_path, capsys):
    class Table(Weighed):
        tasks = {"U/atom": "gaussian", "mu (D)": "laplace"}

        def losses(self, batch):
            return dict(zip(self.tasks, super().losses(batch).values(), strict=True))

    loggers, callback = (
        [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "tb")],
        UncertaintyCallback(prog_bar=True),
    )
    view = GradientView("net", every_n_steps=10)
    module, runner = fit(tmp_path, Table(), callback=callback, callbacks=[view], logger=loggers, log_every_n_steps=10)
    expected = {re.sub(r"/([ab])$", lambda found: "/" + {"a": "U_atom", "b": "mu_D"}[found[1]], key) for key in KEYS}
    for keys in (
        events(loggers[1]).keys(),
        runner.callback_metrics.keys(),
        next(iter(rows(loggers[0]).values())).keys(),
    ):
        assert {key for key in keys if key.startswith("uncertainty/")} == expected
    assert {"gradients/norm/U_atom", "gradients/cosine/U_atom/mu_D"} <= runner.callback_metrics.keys()
    assert {"weight/U_atom", "weight/mu_D"} <= runner.progress_bar_metrics.keys()
    assert callback.history.tasks == tuple(module.uncertainty.weights) == ("U/atom", "mu (D)")
    assert "U/atom" in capsys.readouterr().out
    (page,) = tmp_path.rglob("uncertainty.html")
    assert ">mu (D)<" in page.read_text()
    assert read_report(page.parent).history.tasks == ("U/atom", "mu (D)")
    runner.save_checkpoint(tmp_path / "run.ckpt")
    assert Table.load_from_checkpoint(tmp_path / "run.ckpt").uncertainty.weights == module.uncertainty.weights
    with pytest.raises(ValueError, match=re.escape("There is no task 'mu D'. Did you mean 'mu (D)'?")):
        module.uncertainty({"mu D": torch.ones(())})


def test_of_many_tasks_loggers_get_the_quantiles_under_keys_that_stay(tmp_path):
    names = [f"y{index:02}" for index in range(25)]

    class Many(Weighed):
        tasks = {"none": 0.5, **dict.fromkeys(names, "gaussian")}

        def training_step(self, batch, batch_idx):
            error = self.net(batch[0])[:, :1] - batch[1][:, :1] * torch.arange(1.0, 26.0)
            losses = dict(zip(names, error.square().mean(0), strict=True))
            return self.weigh({name: losses[name] for name in names[: 5 * (self.global_step + 1)]})

    logger, callback = CSVLogger(tmp_path), UncertaintyCallback(prog_bar=True)
    _, runner = fit(tmp_path, Many(), callback=callback, logger=logger, log_every_n_steps=1)
    words = ("min", "p10", "median", "p90", "max")
    expected = {f"uncertainty/{quantity}/{word}" for quantity in ("weight", "sigma", "loss", "share") for word in words}
    for keys in (runner.callback_metrics.keys(), rows(logger)[0].keys()):
        assert {key for key in keys if key.startswith("uncertainty/")} == expected | {
            "uncertainty/relative_loss",
            "uncertainty/loss_sum",
            "uncertainty/trust",
        }
    assert {f"weight/{word}" for word in words} == {key for key in runner.progress_bar_metrics if "weight" in key}
    assert callback.history.tasks == ("none", *names)
    for step, row in rows(logger).items():
        place = callback.history.steps.index(step + 1)
        known = [callback.history.series("raw_loss", name)[place] for name in names[: 5 * (step + 1)]]
        ends = [float(row[f"uncertainty/loss/{word}"]) for word in ("min", "median", "max")]
        assert ends == pytest.approx([min(known), statistics.median_high(known), max(known)])


def test_loggers_get_their_arguments_as_lightning_gives_them(tmp_path):
    """By name: a logger of one's own may have them in another order, or with others between them."""

    class Own(CSVLogger):
        seen = ()

        def log_metrics(self, *, step=None, metrics):
            self.seen = (*self.seen, *metrics)

    logged_fit(tmp_path, logger=(logger := Own(tmp_path)), log_every_n_steps=10)
    assert set(logger.seen) >= KEYS


def test_the_prefix_can_be_chosen(tmp_path):
    _, runner = fit(tmp_path, callback=UncertaintyCallback(log_prefix="mtl"))
    assert {key.replace("mtl/", "uncertainty/") for key in runner.callback_metrics} == KEYS


@pytest.mark.parametrize(
    "options",
    [{"logger": False}, {"fast_dev_run": True}, {"log_every_n_steps": 0}, {"max_steps": 3, "max_epochs": -1}],
    ids=str,
)
def test_it_trains_without_a_logger_and_in_short_runs(tmp_path, options):
    module, runner = fit(tmp_path, **options)
    assert module.uncertainty.steps == runner.global_step > 0


def test_barebones_trains_and_logs_nothing(tmp_path):
    module = Weighed()
    runner = trainer(tmp_path, UncertaintyCallback(), **BAREBONES)
    runner.fit(module, batches())
    assert module.uncertainty.steps == 48
    assert not runner.loggers


BAREBONES = {"barebones": True, "logger": None, "enable_checkpointing": None, "enable_progress_bar": None}
BAREBONES["enable_model_summary"] = None


def test_the_sanity_check_logs_nothing(tmp_path):
    logger = CSVLogger(tmp_path)
    runner = trainer(tmp_path, UncertaintyCallback(), logger=logger, num_sanity_val_steps=2, max_steps=0, max_epochs=-1)
    runner.fit(Validated(), batches(), batches())
    assert not logger.experiment.metrics


def test_a_run_that_is_stopped_logs_its_last_step(tmp_path):
    class Stops(Weighed):
        def training_step(self, batch, batch_idx):
            self.trainer.should_stop = self.global_step == 6
            return super().training_step(batch, batch_idx)

    logger = CSVLogger(tmp_path)
    logged_fit(tmp_path, Stops(), logger=logger, log_every_n_steps=50)
    assert list(rows(logger)) == [6]
