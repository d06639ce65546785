"""The history of a run: bounded, unbroken over resumes, and small in checkpoints."""

import io
import math
import pickle
from itertools import pairwise

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_uncertainty import Snapshot, UncertaintyWarning
from lightning_uncertainty.findings import Finding
from lightning_uncertainty.reporting import history as history_module
from lightning_uncertainty.reporting.diagnosis import diagnose
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.snapshot import TaskSnapshot
from lightning_uncertainty.trainer.run_report import RunReport
from tests.models import Plain, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.trainer.test_matrix import difference

# Lightning's word when a checkpoint of a run with more callbacks is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


def snapshot(step, names=("a",), loss=1.0):
    task = TaskSnapshot("gaussian", -0.5 * step, 1.0, 2.0, 1.0, loss, 0, None, True, offset=0.25, absent=3, unit="m")
    return Snapshot(step, dict.fromkeys(names, task))


class Small(History):
    capacity = 10


def grown(count, names=("a",)):
    history = Small()
    for step in range(1, count + 1):
        history.add(snapshot(step, names))
    return history


def same(one, other):
    return difference(one.state_dict(), other.state_dict()) is None


# ---------------------------------------------------------------------------------------------------- bounded


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 64, 1000])
def test_it_is_bounded_evenly_thinned_and_keeps_the_first_and_the_last(count):
    history = grown(count)
    assert len(history) <= 10
    assert (history.steps[0], history.steps[-1]) == (1, count)
    gaps = [b - a for a, b in pairwise(history.steps)]
    assert len(set(gaps[:-1])) <= 1  # the last one comes when it comes
    assert len(history) >= min(count, 5)


def test_it_holds_the_values_of_the_snapshots():
    history = grown(3)
    assert history.series("log_var", "a") == [-0.5, -1.0, -1.5]
    assert history.series("sigma", "a") == pytest.approx([math.exp(-0.25 * step) for step in (1, 2, 3)])
    assert history.totals == [1.25, 1.25, 1.25]
    assert history.shares() == {"a": [1.0, 1.0, 1.0]}
    assert (history.facts["a"].absent, history.facts["a"].unit) == (3, "m")


def test_an_end_is_the_last_point_and_changes_nothing_for_those_that_come():
    other = grown(25)
    ended = other.ended(snapshot(26))
    assert ended.steps == [*other.steps, 26] if other.steps[-1] < 25 else [*other.steps[:-1], 26]
    for step in range(30, 60, 5):
        for history in (ended, other):
            history.add(snapshot(step))
    assert same(ended, other)


def test_a_copy_with_an_end_leaves_the_history_as_it_is():
    history, other = grown(25), grown(25)
    twin = history.ended(snapshot(26, names=("c", "a")))
    assert (twin.steps[-1], twin.tasks) == (26, ("c", "a"))
    twin.add(snapshot(27, names=("c", "a")))
    assert same(history, other)


def test_a_step_that_is_already_recorded_changes_nothing():
    history, other = grown(20), grown(20)
    history.add(snapshot(20, loss=9.0))
    history.add(snapshot(4, loss=9.0))
    assert same(history, other)


def test_tasks_may_come_and_go():
    history = grown(3, names=("a", "b"))
    history.add(snapshot(4, names=("c", "b")))
    assert history.tasks == ("c", "b")
    assert history.series("precision", "b") == [2.0] * 4
    assert [math.isnan(value) for value in history.series("precision", "c")] == [True, True, True, False]


def test_unknown_tasks_and_quantities_are_named_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"Unknown task 'z'. Known: 'a'"):
        grown(1).series("precision", "z")
    with pytest.raises(ValueError, match=r"quantity must be one of 'log_var', .*'sigma_val', 'share'; got 'w'"):
        grown(1).series("w", "a")


# ---------------------------------------------------------------------------------------------------- saved


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_it_comes_back_from_a_safe_load_and_from_a_pickle_as_it_was_and_goes_on(count):
    history = grown(count, names=("a", "b"))
    file = io.BytesIO()
    torch.save(history.state_dict(), file)
    file.seek(0)
    loaded = Small.from_state_dict(torch.load(file, weights_only=True))
    assert same(history, loaded)
    assert same(history, pickle.loads(pickle.dumps(history)))
    for step in range(count + 1, count + 50):
        for each in (history, loaded):
            each.add(snapshot(step, ("a", "b")))
    assert same(history, loaded)


def test_what_is_not_finite_comes_back_too():
    history = History()
    history.add(snapshot(1, loss=math.nan))
    history.add(snapshot(2, loss=1e300))  # beyond single precision
    assert history.series("raw_loss", "a")[1] == math.inf
    assert same(history, History.from_state_dict(history.state_dict()))


DAMAGES = {
    "no mapping": lambda state: list(state),
    "lacks its steps": lambda state: {key: value for key, value in state.items() if key != "steps"},
    "of a newer version": lambda state: {**state, "version": 2},
    "of another shape": lambda state: {**state, "values": state["values"][:2]},
    "out of order": lambda state: {**state, "steps": state["steps"].flip(0)},
    "a fact too few": lambda state: {**state, "facts": {**state["facts"], "absent": []}},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_history_is_refused(damage):
    with pytest.raises(ValueError, match="This is no usable history"):
        History.from_state_dict(damage(grown(5).state_dict()))


def test_of_very_many_tasks_enough_points_are_kept_to_tell_from(monkeypatch):
    monkeypatch.setattr(history_module, "MOST_BYTES", 100)  # as with hundreds of thousands of tasks
    history = History()
    for step in range(1, 300):
        history.add(snapshot(step, "abc"))
        assert step < 12 or 12 <= len(history) <= 24
    assert (history.steps[0], history.steps[-1]) == (1, 299)
    assert Finding.TOO_SHORT not in {each.finding for each in diagnose(history)}


@pytest.mark.parametrize(("tasks", "points"), [(3, 1000), (30, 1000), (300, 160)])
def test_a_callbacks_state_stays_under_a_megabyte(tmp_path, tasks, points):
    """Measured on a file: full histories of real engines, as they stand in a checkpoint."""
    names = [f"task_{index}" for index in range(tasks)]
    weighting = UncertaintyWeighting(dict.fromkeys(names, "gaussian"), init=0.0)
    history, snap = History(), weighting.snapshot()
    for step in range(1, 2049):
        history.add(Snapshot(step, snap.tasks))
    torch.save({**weighting.state_dict(), "history": history.state_dict()}, tmp_path / "state.pt")
    assert points // 2 <= len(history) <= points + 10
    assert (tmp_path / "state.pt").stat().st_size < 1_000_000


# ---------------------------------------------------------------------------------------------------- of a run


def test_it_holds_the_first_step_the_logging_steps_the_ends_of_epochs_and_the_last(tmp_path):
    callback = UncertaintyCallback()
    module, _ = fit(tmp_path, callback=callback, log_every_n_steps=10, max_steps=47, max_epochs=-1)
    assert callback.history.steps == [1, 10, 20, 24, 30, 40, 47]
    now = module.uncertainty.snapshot()
    for name, task in now.tasks.items():
        assert callback.history.series("precision", name)[-1] == task.precision
        assert callback.history.series("sigma", name)[-1] == task.sigma
        assert callback.history.series("share", name)[-1] == pytest.approx(now.shares[name])
    assert callback.history.totals[-1] == pytest.approx(now.total)


@pytest.mark.parametrize("options", [{"log_every_n_steps": 0}, {"log_every_n_steps": 500}], ids=str)
def test_without_logging_steps_it_holds_the_first_step_and_the_ends_of_epochs(tmp_path, options):
    callback = UncertaintyCallback()
    fit(tmp_path, callback=callback, **options)
    assert callback.history.steps == [1, 24, 48]


class Saves(Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("step", [1, 7, 10, 24, 30])
def test_a_resumed_run_has_one_unbroken_history(tmp_path, step, every, order):
    """Equal to that of an uninterrupted run, whichever callback saved before or after ours, thinned or not."""
    whole, rest = UncertaintyCallback(), UncertaintyCallback()
    saves = Saves(tmp_path / "run.ckpt", step)
    both = [saves, whole] if order == "before" else [whole, saves]
    trainer(tmp_path, *both, log_every_n_steps=every).fit(Weighed(), batches())
    fit(tmp_path, callback=rest, ckpt_path=tmp_path / "run.ckpt", log_every_n_steps=every)
    assert rest.history.steps[-1] == 48
    assert same(whole.history, rest.history)


def test_steps_after_the_checkpoint_are_dropped_and_lived_again(tmp_path):
    callback = UncertaintyCallback()
    often = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=10, save_top_k=-1)
    fit(tmp_path, callback=callback, callbacks=[often], enable_checkpointing=True, log_every_n_steps=3)
    once = callback.history.state_dict()
    fit(tmp_path, callback=callback, ckpt_path=tmp_path / "step=10.ckpt", log_every_n_steps=3)
    assert difference(once, callback.history.state_dict()) is None


def test_a_new_module_starts_a_new_history_and_the_same_one_goes_on(tmp_path):
    callback = UncertaintyCallback()
    module, _ = fit(tmp_path, callback=callback)
    fit(tmp_path, module, callback=callback, max_epochs=1)
    assert callback.history.steps == [1, 24, 48, 72]
    fit(tmp_path, callback=callback)
    assert callback.history.steps == [1, 24, 48]


def test_checkpoints_without_a_history_load_and_those_with_one_load_without_the_plugin(tmp_path):
    _, runner = fit(tmp_path, max_epochs=1)
    runner.save_checkpoint(tmp_path / "run.ckpt")
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    entry = content["callbacks"]["UncertaintyCallback(uncertainty)"]
    del entry["history"], entry["absent"]
    torch.save(content, tmp_path / "old.ckpt")
    callback = UncertaintyCallback()
    fit(tmp_path, callback=callback, ckpt_path=tmp_path / "old.ckpt")
    assert callback.history.steps == [25, 48]
    _, runner = fit(tmp_path, Plain(), callback=Callback(), ckpt_path=tmp_path / "run.ckpt")
    assert runner.global_step == 48


def test_a_damaged_history_warns_and_training_goes_on(tmp_path):
    _, runner = fit(tmp_path, max_epochs=1)
    runner.save_checkpoint(tmp_path / "run.ckpt")
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    content["callbacks"]["UncertaintyCallback(uncertainty)"]["history"] = {"version": 1}
    torch.save(content, tmp_path / "bad.ckpt")
    callback = UncertaintyCallback()
    with pytest.warns(UncertaintyWarning, match=r"no usable history.*starts at the checkpoint"):
        fit(tmp_path, callback=callback, ckpt_path=tmp_path / "bad.ckpt")
    assert callback.history.steps == [25, 48]


def test_absent_tasks_are_counted_in_steps(tmp_path):
    class Sparse(Weighed):
        def losses(self, batch):
            losses = super().losses(batch)
            return losses if self.global_step % 4 == 0 else {"a": losses["a"]}

    module, _ = fit(tmp_path, Sparse())
    assert [task.absent for task in module.uncertainty.snapshot().tasks.values()] == [0, 36]


class Operations(TorchDispatchMode):
    """Counts operators by training batch."""

    def __init__(self):
        super().__init__()
        self.count, self.batches = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


class PerBatch(Callback):
    def __init__(self, operations):
        self.operations = operations

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.operations.batches.append(self.operations.count)


def test_a_step_that_does_not_log_costs_no_operator_more(tmp_path, monkeypatch):
    """With summary and report, and with a history that records nothing at all."""
    counts = []
    for recorded in (True, False):
        if not recorded:
            monkeypatch.setattr(History, "add", lambda *_: None)
            monkeypatch.setattr(RunReport, "begun", True)
        with Operations() as operations:
            callback = UncertaintyCallback(summary=recorded, report=recorded)
            fit(tmp_path, callback=callback, callbacks=[PerBatch(operations)], max_epochs=1, log_every_n_steps=6)
        starts = operations.batches
        counts.append([b - a for a, b in pairwise(starts)])
    with_history, without = counts
    more = [a - b for a, b in zip(with_history, without, strict=True)]
    assert more[0] > 0  # the first point is put aside on the device,
    assert not any(more[1:5])
    assert not any(more[6:])  # and fetched with the first that is logged
