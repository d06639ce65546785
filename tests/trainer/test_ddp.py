"""Data-parallel training with real processes: the ranks agree bit for bit, and nothing more is sent than is said."""

import csv
import math

import pytest
import torch

from tests.workers import loop_ranks, ranks
from tests.workers.processes import run_ranks, run_script

STEPS = ranks.EPOCHS * ranks.COUNT


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both ranks' records of one run per flavour of DDP."""
    folder = tmp_path_factory.mktemp("ddp")
    return run_ranks(ranks.train_with_every_strategy, folder, folder=folder)


def assert_ranks_agree(one, other):
    assert len(one["epochs"]) == len(other["epochs"]) == ranks.EPOCHS
    for ours, theirs in zip(one["epochs"], other["epochs"], strict=True):
        for key, value in ours["engine"].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value.nan_to_num(), theirs["engine"][key].nan_to_num()), key
            else:
                assert value == theirs["engine"][key], key
        assert repr(ours["metrics"]) == repr(theirs["metrics"])  # NaN equals NaN here
        for mine, its in zip(ours["network"], theirs["network"], strict=True):
            assert torch.equal(mine, its)


def global_mean(raw, task, step):
    """The mean over the batches of all ranks that had the task; NaN if none had."""
    losses = [record[step].get(task, math.nan) for record in raw]
    known = [loss for loss in losses if not math.isnan(loss)]
    return sum(known) / len(known) if known else math.nan


def learned_by_hand(raw, task, *, steps=STEPS, lr=1e-2):
    """Start at the closed-form optimum of the first global mean, then Adam on the derivative, in double precision."""
    s, mean, square, count = None, 0.0, 0.0, 0
    for step in range(steps):
        loss = global_mean(raw, task, step)
        if math.isnan(loss):
            continue
        if s is None:
            s = {"a": math.log(loss), "b": 2 * math.log(loss), "c": math.log(2 * loss), "late": math.log(loss)}[task]
            continue
        slope = {
            "a": 0.5 - 0.5 * math.exp(-s) * loss,
            "b": 0.5 - 0.5 * math.exp(-s / 2) * loss,
            "c": 0.5 - math.exp(-s) * loss,
            "late": 0.5 - 0.5 * math.exp(-s) * loss,
        }[task]
        count += 1
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        s -= lr * (mean / (1 - 0.9**count)) / (math.sqrt(square / (1 - 0.999**count)) + 1e-8)
    return s


@pytest.mark.parametrize("strategy", ranks.STRATEGIES)
def test_the_ranks_are_bit_identical_after_every_epoch(trained, strategy):
    """s, moments, logged values and the network; with other data, batch sizes and missing tasks on each rank."""
    one, other = (record[strategy] for record in trained)
    assert one["world"] == other["world"] == 2
    assert one["steps"] == other["steps"] == STEPS
    assert one["raw"] != other["raw"]
    assert_ranks_agree(one, other)


@pytest.mark.parametrize("strategy", ranks.STRATEGIES)
def test_s_is_learned_from_the_mean_over_all_ranks_that_have_the_task(trained, strategy):
    """Against a second computation by hand; with a task that first appears late and on one rank only."""
    raw = [record[strategy]["raw"] for record in trained]
    learned = trained[0][strategy]["epochs"][-1]["engine"]["log_var"].tolist()
    assert learned == pytest.approx([learned_by_hand(raw, task) for task in ranks.TASKS], abs=2e-5)


@pytest.mark.parametrize("strategy", ranks.STRATEGIES)
def test_the_logged_raw_loss_is_the_mean_over_the_batches_of_all_ranks(trained, strategy):
    raw = [record[strategy]["raw"] for record in trained]
    with open(f"{trained[0][strategy]['log_dir']}/metrics.csv") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file) if row["uncertainty/loss_sum"]}
    assert list(rows) == list(range(STEPS))
    seen = 0
    for task in ranks.TASKS:
        for step, row in rows.items():
            if not math.isnan(expected := global_mean(raw, task, step)):
                assert float(row[f"uncertainty/loss/{task}"]) == pytest.approx(expected, rel=1e-6)
                seen += 1
    assert seen > 3 * STEPS


@pytest.mark.parametrize("strategy", ranks.STRATEGIES)
def test_each_step_and_each_validation_adds_one_all_reduce_of_six_numbers_per_task_and_nothing_else(trained, strategy):
    size = 6 * len(ranks.TASKS)
    places = [f"step {step}" for step in range(STEPS)]
    for epoch in range(ranks.EPOCHS, 0, -1):
        places.insert(epoch * ranks.COUNT, "validation")
    for record in trained:
        first, *others = record[strategy]["calls"]
        assert first == ("step 0", "all_reduce", 2 * len(ranks.TASKS))  # the start from the data
        assert others == [(place, "all_reduce", size) for place in places]


def test_only_the_first_window_agrees_on_losses_in_each_call_and_only_to_start_from_the_data(tmp_path):
    size = 6 * len(ranks.TASKS)
    for record in run_ranks(ranks.first_steps, tmp_path, folder=tmp_path):
        step = [(f"step {step}", "all_reduce", size) for step in range(ranks.COUNT // 3)]
        step.append(("validation", "all_reduce", size))
        assert record["auto"] == 3 * [("step 0", "all_reduce", 2 * len(ranks.TASKS))] + step
        assert record["given"] == step


def test_a_warm_up_with_equal_weights_needs_no_agreement_until_it_ends(tmp_path):
    size = 6 * len(ranks.TASKS)
    one, other = run_ranks(ranks.warm_up_with_equal_weights, tmp_path, folder=tmp_path)
    assert torch.equal(one["log_var"], other["log_var"])
    steps = [(f"step {step}", "all_reduce", size) for step in range(ranks.COUNT)]
    steps.append(("validation", "all_reduce", size))
    assert one["calls"] == other["calls"] == [*steps[:4], ("step 4", "all_reduce", 2 * len(ranks.TASKS)), *steps[4:]]


@pytest.mark.parametrize(
    "options", [(1, "initial"), (3, "initial"), (1, "equal")], ids=["plain", "accumulation", "equal warm-up"]
)
def test_two_processes_with_half_a_batch_each_end_where_one_with_the_whole_batch_ends(tmp_path, options):
    two, twin = run_ranks(ranks.halves, tmp_path, *options, folder=tmp_path / "two")
    (one,) = run_ranks(ranks.halves, tmp_path, *options, folder=tmp_path / "one", world=1)
    assert two["log_vars"] == twin["log_vars"]
    assert two["log_vars"] == pytest.approx(one["log_vars"], abs=1e-5)
    for ours, theirs in zip(two["network"], one["network"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "callback"),
    [("ddp_find_unused_parameters_true", "given"), ("ddp_spawn", "given"), ("ddp_notebook", "default")],
)
def test_processes_that_the_trainer_starts_agree_and_the_end_reaches_the_main_process(tmp_path, strategy, callback):
    done = run_script(["-m", "tests.workers.started_by_trainer", strategy, tmp_path, callback])
    assert done.returncode == 0, done.stdout
    one, other, main = (torch.load(tmp_path / f"{name}.pt") for name in ("rank0", "rank1", "main"))
    assert_ranks_agree(one, other)
    last = one["epochs"][-1]
    assert last["engine"]["steps"] == STEPS
    for key, value in last["engine"].items():
        home = main["engine"][key]
        assert torch.equal(value, home) if isinstance(value, torch.Tensor) else value == home
    assert {key: main["metrics"][key] for key in last["metrics"]} == last["metrics"]
    assert not [key for key in main["keys"] if "uncertainty" in key]
    if strategy == "ddp_notebook":  # a second job goes on where the first ended
        assert torch.equal(torch.load(tmp_path / "again.pt")["engine"]["log_var"], last["engine"]["log_var"])


def test_a_resumed_run_gives_a_late_task_the_weight_that_the_uninterrupted_one_gives_it(tmp_path):
    for record in run_ranks(loop_ranks.late_task_after_a_resume, folder=tmp_path):
        assert record["resumed"] == record["whole"]
        assert record["same"]
