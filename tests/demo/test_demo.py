import json
import math
import re

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_uncertainty import __main__ as cli
from lightning_uncertainty import _arguments as extras
from lightning_uncertainty._arguments import MissingExtraError
from lightning_uncertainty.comparison import ComparisonResult
from lightning_uncertainty.demo import diamonds
from lightning_uncertainty.demo.data import TensorBatches
from lightning_uncertainty.demo.diamonds import GRADES, TASKS, make_data, make_net, packaged_file, read
from lightning_uncertainty.demo.model import MultiTaskNet
from lightning_uncertainty.demo.run import by_hand, compare_weights
from tests.workers.without_pictures import draw_nothing

ARMS = ["equal", "learned", "standardised"]
TEN_PER_SEED = ["--rows", "1500", "--epochs", "4"]


@pytest.fixture(scope="module")
def stones():
    return read()


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The folder of a small demo from the command line."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch.setattr)
        assert cli.main(["demo", *TEN_PER_SEED, "--output", str(folder)]) == 0
    return folder


# ---------------------------------------------------------------------------------------------------- data


def test_diamonds_lose_duplicates_and_zero_sizes(stones):
    raw = pd.read_csv(packaged_file("plotnine", "data/diamonds.csv"))
    kept = {row for row in raw.itertuples(index=False) if row.x > 0 and row.y > 0 and row.z > 0}
    assert len(raw) == 53_940
    assert len(stones) == len(kept) == 53_775


def test_grades_are_numbered_from_the_worst_cut_and_clarity_and_none_is_missing(stones):
    raw = pd.read_csv(packaged_file("plotnine", "data/diamonds.csv")).loc[stones.index]
    assert (raw["cut"][stones["cut"] == 0] == "Fair").all()
    assert (raw["color"][stones["color"] == 6] == "J").all()
    assert (raw["clarity"][stones["clarity"] == 7] == "IF").all()
    for name, grades in GRADES.items():
        assert sorted(stones[name].unique()) == list(range(len(grades)))
    assert not stones[list(TASKS)].isna().any(axis=None)


def test_a_fifth_is_held_out_and_labels_keep_their_natural_units(stones):
    data = make_data()
    assert (len(data.train[0]), len(data.test[0])) == (43_020, 10_755)
    prices = torch.cat([data.train[1]["price"], data.test[1]["price"]])
    assert prices.sort().values.tolist() == sorted(stones["price"])
    assert {name: label.dtype for name, label in data.train[1].items()} == {
        "price": torch.float32,
        "carat": torch.float32,
        **dict.fromkeys(GRADES, torch.long),
    }


def test_no_diamond_is_on_both_sides(monkeypatch, stones):
    monkeypatch.setattr(diamonds, "read", lambda: stones.assign(price=range(len(stones))))
    data = make_data()
    sides = [set(part[1]["price"].tolist()) for part in (data.train, data.test)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == len(stones)


def test_inputs_are_the_five_measurements_standardised_over_the_training_rows():
    inputs = make_data().train[0]
    assert inputs.shape[1] == len(diamonds.INPUTS) == 5
    torch.testing.assert_close(inputs.mean(0), torch.zeros(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(inputs.std(0), torch.ones(5), atol=1e-3, rtol=0)


def test_standardising_does_not_look_at_the_test_rows(monkeypatch, stones):
    before = make_data(rows=1_000)
    rows = stones.sample(1_000, random_state=0)
    held_out = rows.index.to_series().sample(frac=0.2, random_state=0).index
    far = stones.copy()
    far.loc[held_out, "x"] = 1e6
    monkeypatch.setattr(diamonds, "read", lambda: far)
    after = make_data(rows=1_000)
    assert torch.equal(before.train[0], after.train[0])
    assert not torch.equal(before.test[0], after.test[0])


def test_rows_are_sampled_all_over_the_file_and_by_the_seed(stones):
    once, again, other = (make_data(rows=1_000, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(once.train[0], again.train[0])
    assert not torch.equal(once.train[0], other.train[0])
    assert once.train[1]["price"].max() > 0.9 * stones["price"].max()  # the file is sorted by price
    assert len(make_data(rows=10**9).train[0]) == 43_020


def test_batches_hold_every_row_once_and_are_shuffled_anew_by_the_seed():
    rows = torch.arange(10.0)
    batches, same = (TensorBatches(rows[:, None], {"a": rows}, batch_size=4, seed=3) for _ in range(2))
    epochs = [torch.cat([labels["a"] for _, labels in batches]) for _ in range(2)]
    assert len(batches) == 3
    assert all(inputs[:, 0].equal(labels["a"]) for inputs, labels in batches)
    assert all(epoch.sort().values.equal(rows) for epoch in epochs)
    assert not epochs[0].equal(epochs[1])
    assert torch.cat([labels["a"] for _, labels in same]).equal(epochs[0])


def test_label_scales_come_from_the_training_rows():
    data = make_data(rows=2_000)
    prices = data.train[1]["price"].double()
    assert list(data.label_scales()) == ["price", "carat"]
    assert data.label_scales()["price"] == pytest.approx([float(prices.mean()), float(prices.std())], rel=1e-5)


def test_a_package_without_the_file_says_how_to_get_one_that_has_it():
    with pytest.raises(MissingExtraError, match=r"'pandas' has no file 'diamonds.csv'.*pip install"):
        packaged_file("pandas", "diamonds.csv")


@pytest.mark.parametrize("package", ["pandas", "plotnine", "rich", "scipy", "tensorboard"])
def test_from_python_too_a_missing_package_gets_the_command_that_installs_it(package, monkeypatch, tmp_path):
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == package else found(name))
    message = rf"'{package}' is not installed.*pip install \"lightning-uncertainty\[demo\]\""
    with pytest.raises(MissingExtraError, match=message):
        compare_weights("diamonds", make_net, make_data, tmp_path, epochs=1, seeds=[0])


# ---------------------------------------------------------------------------------------------------- network

SCALES = {"price": [4000.0, 2000.0], "carat": [0.8, 0.5]}


def batch():
    labels = {"price": torch.tensor([300.0, 9000.0]), "carat": torch.tensor([0.2, 2.0])}
    grades = {name: torch.tensor([0, 3]) for name in GRADES}
    return torch.tensor([[0.5, -1, 0, 2, 1], [1.0, 1, -1, 0, 0]]), labels | grades


def test_weights_by_hand_give_the_gradients_of_labels_standardised_by_hand():
    net, (inputs, labels) = make_net(SCALES), batch()
    weights = by_hand(net.likelihoods, SCALES)
    weighed = sum(weights[task] * loss for task, loss in net.losses((inputs, labels)).items())
    raw = {name: head(net.trunk(inputs)).squeeze(-1) for name, head in net.heads.items()}
    standardised = {name: (labels[name] - mean) / std for name, (mean, std) in SCALES.items()}
    by_labels = sum((raw[name] - label).square().mean() for name, label in standardised.items())
    by_labels = by_labels + sum(torch.nn.functional.cross_entropy(raw[name], labels[name]) for name in GRADES)
    ours, theirs = (torch.autograd.grad(loss, net.trunk.parameters()) for loss in (weighed, by_labels))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


# ---------------------------------------------------------------------------------------------------- end to end


def run_folder(output, arm):
    (found,) = output.glob(f"{arm}-seed0-*")
    return found


def test_the_csv_holds_weights_and_raw_losses_of_every_task(output):
    for arm in ARMS:
        log = pd.read_csv(run_folder(output, arm) / "metrics.csv")
        for task in TASKS:
            weights = log[f"uncertainty/weight/{task}"].dropna()
            assert (weights.iloc[-1] != weights.iloc[0]) == (arm == "learned")
            assert log[f"uncertainty/loss/{task}"].notna().any()
            assert log[f"test/{task}"].notna().sum() == 1


def test_tensorboard_reads_the_same_weights_back(output):
    for arm in ARMS:
        events = EventAccumulator(str(run_folder(output, arm) / "tensorboard")).Reload()
        logged = [event.value for event in events.Scalars("uncertainty/weight/price")]
        log = pd.read_csv(run_folder(output, arm) / "metrics.csv")
        assert logged == pytest.approx(log["uncertainty/weight/price"].dropna().tolist(), rel=1e-5)


def test_the_checkpoint_gives_the_network_and_sigma_back(output):
    path = run_folder(output, "learned") / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)["lightning_uncertainty"]
    model = MultiTaskNet.load_from_checkpoint(path, weights_only=True)
    assert list(model.uncertainty.sigmas) == saved["tasks"] == list(TASKS)
    log = pd.read_csv(run_folder(output, "learned") / "metrics.csv")
    for task, sigma in model.uncertainty.sigmas.items():  # at most a few steps of 1 % after the last that was logged
        assert sigma == pytest.approx(log[f"uncertainty/sigma/{task}"].dropna().iloc[-1], rel=0.1)


def test_fixed_weights_are_one_or_those_that_standardise(output):
    std = {task: scale[1] for task, scale in make_data(rows=1500).label_scales().items()}
    for arm, power in (("equal", 0), ("standardised", -2)):
        log = pd.read_csv(run_folder(output, arm) / "metrics.csv")
        for task in TASKS:
            expected = std.get(task, 1.0) ** power
            assert log[f"uncertainty/weight/{task}"].dropna().tolist() == pytest.approx([expected] * 4, rel=1e-5)


def test_all_runs_start_from_the_same_network_and_take_as_many_steps(output):
    runs = [json.loads((run_folder(output, arm) / "run.json").read_text()) for arm in ARMS]
    assert runs[0]["start"]["initial weights"]
    assert all(run["start"] == runs[0]["start"] for run in runs)
    steps = [
        torch.load(run_folder(output, arm) / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
        for arm in ARMS
    ]
    assert steps == [12, 12, 12]


def test_the_table_holds_the_metrics_that_were_logged_and_their_gains(output):
    result = ComparisonResult.load(output)
    gains = []
    for task in TASKS:
        logged = {arm: pd.read_csv(run_folder(output, arm) / "metrics.csv")[f"test/{task}"].max() for arm in ARMS}
        for arm in ARMS:
            assert result.values(arm, f"test/{task}") == pytest.approx([logged[arm]])
        change = 100.0 * (logged["learned"] / logged["equal"] - 1.0)
        gains.append(-change if task in SCALES else change)
        assert result.gains("learned", f"test/{task}") == pytest.approx(gains[-1:])
    assert result.mean_gain("learned") == pytest.approx(math.fsum(gains) / len(gains))


@pytest.mark.usefixtures("empty_pictures")
def test_it_says_what_it_compares_and_where_to_look_next_and_does_not_train_twice(tmp_path, capfd):
    arguments = ["demo", "--rows", "600", "--epochs", "1", "--seed", "5", "--output", str(tmp_path)]
    assert cli.main(arguments) == 0
    printed = capfd.readouterr()
    assert printed.err == ""  # no banner, no warning
    shown = re.sub(r"\s+", " ", printed.out)
    for expected in (
        "480 rows to train on, 120 held out, 5 tasks",
        "Heads are scaled to the training labels",
        "mean relative gain",
        "cannot tell",
        f"tensorboard --logdir {tmp_path}",
        "temperature",
        *TASKS,
    ):
        assert expected in shown
    page = tmp_path / "uncertainty.html"
    assert printed.out.splitlines()[-1] == f"Open {page}"
    assert "carat" in page.read_text()
    assert "standardised" in page.read_text()
    table = json.loads((tmp_path / "comparison.json").read_text())
    assert cli.main(arguments) == 0
    assert "3 of 3 runs are from earlier" in re.sub(r"\s+", " ", capfd.readouterr().out)
    assert json.loads((tmp_path / "comparison.json").read_text()) == table
