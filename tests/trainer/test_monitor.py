"""What callbacks, schedulers and loggers monitor: the relative loss of training and of validation."""

import csv
import math
from itertools import chain

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_uncertainty import UncertaintyWarning
from lightning_uncertainty.trainer.gradient_view import GradientView
from tests.models import TASKS, Weighed, load, trainer
from tests.paper import UncertaintyCallback
from tests.workers.monitor_ranks import TRAIN, VAL, Validated, Values, part, validate
from tests.workers.processes import run_ranks


def run(folder, module=None, val=None, *, callback=None, first=(), last=(), ckpt_path=None, **options):
    """Train with callbacks before and after ours."""
    module = Validated() if module is None else module
    callback = UncertaintyCallback(report=False, summary=False) if callback is None else callback
    runner = trainer(folder, *first, callback, *last, **options)
    runner.fit(module, part(0, 6), val or part(6, 13), ckpt_path=ckpt_path)
    return module, runner


def by_hand(validations, *, samples=False):
    means = []
    for seen in validations:
        pairs = {name: [b[name] for b in seen if not math.isnan(b[name][0])] for name in TASKS}
        if not samples:
            pairs = {name: [(loss, 1) for loss, _ in row] for name, row in pairs.items()}
        means.append({name: sum(x * n for x, n in row) / sum(n for _, n in row) for name, row in pairs.items()})
    return [math.prod(mean[n] / means[0][n] for n in TASKS) ** (1 / len(TASKS)) for mean in means]


@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("sanity", [0, 2])
def test_the_validation_is_the_mean_over_all_its_batches_against_the_first_one(tmp_path, order, samples, sanity):
    """Several loaders are pooled, the sanity check is not in it, and where the callback stands does not matter."""
    values, module = Values(), Validated()
    module.samples = samples
    val = [part(6, 10), part(10, 13)]
    val[1].batches = [[each[:3] for each in batch] for batch in val[1].batches]
    run(tmp_path, module, val, **{order: [values]}, max_epochs=4, num_sanity_val_steps=sanity)
    expected = by_hand(module.seen[-4:], samples=samples)
    assert values.val == pytest.approx(expected, rel=1e-5)
    assert values.val[0] == 1.0
    assert values.val[-1] < 1.0


@pytest.mark.parametrize("monitor", [TRAIN, VAL])
@pytest.mark.parametrize("order", ["first", "last"])
def test_checkpoints_and_early_stopping_find_it_in_either_order(tmp_path, monitor, order):
    name = "{epoch}-{" + monitor + ":.3f}"
    best = ModelCheckpoint(tmp_path, monitor=monitor, filename=name, auto_insert_metric_name=False)
    stop = EarlyStopping(monitor, patience=2, min_delta=0.05)
    _, runner = run(tmp_path, **{order: [stop, best]}, max_epochs=30, enable_checkpointing=True)
    assert 3 < runner.current_epoch < 30
    assert 0.0 < best.best_model_score < 0.9
    assert best.best_model_path.endswith(f"-{best.best_model_score:.3f}.ckpt")
    saved = load(best.best_model_path)["callbacks"]["UncertaintyCallback(uncertainty)"]
    assert (saved["val_base_loss"] > 0.0).all()


def test_the_name_of_a_checkpoint_may_hold_it(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor=TRAIN, filename="{epoch}-{uncertainty/relative_loss:.3f}")
    run(tmp_path, last=[best], enable_checkpointing=True)
    assert f"relative_loss={best.best_model_score:.3f}" in best.best_model_path
    assert load(best.best_model_path)["epoch"] == 1


def test_where_validation_does_not_weigh_nothing_is_logged(tmp_path):
    class Silent(Weighed):
        def validation_step(self, batch, batch_idx):
            self.log("mine", self.losses(batch)["a"])

    logger = CSVLogger(tmp_path)
    _, runner = run(tmp_path, Silent(), logger=logger)
    assert VAL not in runner.callback_metrics
    assert all(VAL not in row for row in logger.experiment.metrics)


def test_it_is_logged_at_the_step_of_the_validation(tmp_path):
    logger, values = CSVLogger(tmp_path), Values()
    run(tmp_path, logger=logger, last=[values], log_every_n_steps=1)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = {int(row["step"]): float(row[VAL]) for row in csv.DictReader(file) if row[VAL]}
    assert rows == {5: values.val[0], 11: values.val[1]}


def test_a_validation_without_any_finite_loss_is_not_finite_and_the_next_one_may_be(tmp_path):
    class Broken(Weighed):
        def validation_step(self, batch, batch_idx):
            self.weigh(
                {n: loss * (math.nan if self.current_epoch == 1 else 1) for n, loss in self.losses(batch).items()}
            )

    values = Values()
    with pytest.warns(UncertaintyWarning, match=r"Task '[ab]': \d losses of a validation are NaN or infinite"):
        run(tmp_path, Broken(), last=[values], max_epochs=3)
    assert [math.isfinite(value) for value in values.val] == [True, False, True]


def test_a_validation_that_needs_gradients_may_weigh(tmp_path):
    class Physics(Weighed):
        def validation_step(self, batch, batch_idx):
            with torch.inference_mode(False), torch.enable_grad():
                self.weigh(self.losses([part.clone() for part in batch]))

    values = Values()
    run(tmp_path, Physics(), last=[values])
    assert values.val[0] == 1.0
    assert values.val[1] < 1.0


@pytest.mark.parametrize("every", ["step", "epoch", "validation"])
def test_a_resumed_run_has_the_same_values_bit_for_bit(tmp_path, every):
    """From the middle of an epoch, its end, and a validation at its end, after which Lightning starts no epoch."""
    options = {
        "step": {"every_n_train_steps": 8},
        "epoch": {"save_on_train_epoch_end": True},
        "validation": {"save_on_train_epoch_end": False},
    }[every]
    save = ModelCheckpoint(tmp_path, filename="{epoch}-{step}", save_top_k=-1, **options)
    whole, resumed = Values(), Values()
    run(tmp_path, last=[whole, save], max_epochs=4, enable_checkpointing=True)
    path = tmp_path / ("epoch=1-step=8.ckpt" if every == "step" else "epoch=1-step=12.ckpt")
    run(tmp_path, first=[resumed], last=[save], max_epochs=4, enable_checkpointing=True, ckpt_path=path)
    assert resumed.train == whole.train[-len(resumed.train) :]
    assert resumed.val == whole.val[-len(resumed.val) :]
    assert len(resumed.train) >= 2


class Late(Validated):
    """A task that begins in epoch 5, in degrees."""

    def losses(self, batch):
        losses = super().losses(batch)
        return {"a": losses["a"], "b": 57.3 * losses["b"]} if self.current_epoch >= 5 else {"a": losses["a"]}


def test_a_task_that_starts_later_neither_stops_the_training_nor_keeps_the_best_checkpoint_before_it(tmp_path):
    stop = EarlyStopping(TRAIN, patience=3)
    best = ModelCheckpoint(tmp_path, monitor=TRAIN, filename="{epoch}")
    _, runner = run(tmp_path, Late(), last=[stop, best], max_epochs=12, enable_checkpointing=True)
    assert runner.current_epoch > 8
    assert load(best.best_model_path)["epoch"] > 5


def test_no_key_is_both_a_leaf_and_a_branch(tmp_path):
    """DVCLive writes a file or a folder for each part of a key, and fails where both are asked for."""
    _, runner = run(tmp_path, last=[GradientView("net", every_n_steps=1)])
    keys = set(runner.callback_metrics)
    assert {TRAIN, VAL, "gradients/norm/a"} <= keys
    branches = chain.from_iterable(
        ("/".join(key.split("/")[:end]) for end in range(1, key.count("/") + 1)) for key in keys
    )
    assert keys.isdisjoint(branches)


def test_two_ranks_agree_and_equal_one_process_with_the_batches_of_both(tmp_path):
    """Also where a rank has no labels of a task, or does not weigh at all; at one all-reduce for each validation."""
    one, other = run_ranks(validate, tmp_path, folder=tmp_path)
    assert one["val"] == other["val"]
    assert one["train"] == other["train"]
    assert one["reduced"] == other["reduced"] == [("all_reduce", 6 * len(TASKS))] * 3
    seen = [ours + theirs for ours, theirs in zip(one["seen"][-3:], other["seen"][-3:], strict=True)]
    assert one["val"] == pytest.approx(by_hand(seen), rel=1e-5)
