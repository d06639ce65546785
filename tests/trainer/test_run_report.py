"""What the callback says and writes at the end of a run, and that nothing of it can stop a training."""

import contextlib
import dataclasses
import pickle
import re
import statistics
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_uncertainty._arguments as extras
from lightning_uncertainty import GradientView, Snapshot, UncertaintyWarning
from lightning_uncertainty.engine import named_values
from lightning_uncertainty.findings import Finding
from lightning_uncertainty.reporting import page, summary
from lightning_uncertainty.reporting.diagnosis import diagnose
from lightning_uncertainty.reporting.files import ReportContent, RunFile
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.page import build_page
from lightning_uncertainty.reporting.summary import COLUMNS, MOST_ROWS, as_text, print_summary, summarize
from lightning_uncertainty.trainer import run_report
from tests.models import TASKS, Returned, Weighed, batches, fit, trainer
from tests.pages import Page
from tests.paper import UncertaintyCallback
from tests.reporting.test_figures import named, snapshots
from tests.reporting.test_history import same
from tests.trainer.test_logging import BAREBONES

FILES = ["uncertainty.html", "uncertainty.png", "uncertainty_history.json"]


def ours(folder):
    return sorted(path.name for path in folder.rglob("uncertainty*"))


class Units(Weighed):
    tasks = {"a": {"likelihood": "gaussian", "unit": "m"}, "b": {"likelihood": "laplace", "unit": "$"}}


# ---------------------------------------------------------------------------------------------------- summary


def test_a_fit_ends_with_a_table_of_its_tasks(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(summary, "WIDTH", 100)
    callback = UncertaintyCallback()
    module, _ = fit(tmp_path, Units(), callback=callback)
    printed = capsys.readouterr().out
    title, header, _, first, second, *rest = printed.strip().splitlines()
    assert title == "Uncertainty weighting: 2 tasks after 48 steps"
    assert header.split() == ["task", "likelihood", "raw", "loss", "sigma", *COLUMNS[5:]]  # no validation
    now, losses = module.uncertainty.snapshot(), callback.history.series("raw_loss", "a")
    for line, name, sigma_unit, weight_unit, loss_unit in (
        (first, "a", "m", "m^-2", "m^2"),
        (second, "b", "$", "$^-1", "$"),
    ):
        task = now.tasks[name]
        losses = callback.history.series("raw_loss", name)
        assert line.split() == [
            name,
            task.likelihood,
            f"{losses[0]:.3g}",
            "->",
            f"{losses[-1]:.3g}",
            loss_unit,
            f"{task.sigma:.4g}",
            sigma_unit,
            f"{task.precision:.4g}",
            weight_unit,
            f"{statistics.fmean(callback.history.shares()[name][-1:]):.1%}",  # the last tenth of these 48 steps
            "0%",
            "0",
            "too",
            "short",
        ]
    assert any("too few to tell" in line for line in rest)
    assert tmp_path.joinpath("lightning_logs").exists() is False


class Measured(Weighed):
    tasks = {"a": {"likelihood": "gaussian", "unit": "microns"}, "b": {"likelihood": "laplace", "unit": "microns"}}

    def training_step(self, batch, batch_idx):
        self.log("train_loss", loss := super().training_step(batch, batch_idx), on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        losses = self.losses(batch)
        self.weigh(losses)
        self.log_dict({"val/a": losses["a"], "val/epoch": -float(self.current_epoch)})


@pytest.mark.usefixtures("empty_pictures")
def test_metrics_of_validations_and_facts_are_told_in_80_columns_without_breaking_a_number(tmp_path, capsys):
    callback, logger = UncertaintyCallback(), CSVLogger(tmp_path)
    run = trainer(tmp_path, callback, logger=logger, max_epochs=3)
    run.fit(Measured(), batches(), batches(8))
    printed = capsys.readouterr().out
    lines = printed.strip().splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the last one is a path
    task = callback.weighting.snapshot().tasks["a"]
    (_, *sigmas), (_, *weights) = (line.split() for line in lines if line.startswith("a "))  # in two parts
    told = [f"{task.sigma:.4g}", "microns", f"{task.sigma_val:.4g}", "microns", f"{task.precision:.4g}", "microns^-2"]
    assert " ".join(told) in " ".join([*sigmas, *weights])
    assert callback.history.metrics.keys() == {"val/a", "val/epoch"}
    assert callback.history.metrics["val/epoch"] == [0.0, -2.0, 0.0, -2.0]
    assert ["val/epoch", "0", "-2", "0", "-2"] in [line.split() for line in lines]
    text = (tmp_path / "lightning_logs" / "version_0" / "uncertainty.html").read_text()
    for said in (" ".join(printed.split()), Page(text).text):
        assert "Epochs: 3. Steps: 72. Device: 1 x cpu. Precision: 32-true. Versions: lightning_uncertainty" in said
        assert re.search(r"Started: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\. Took: 0:\d\d:\d\d\.", said)
        assert f"{callback.history.metrics['val/a'][3]:.4g}" in said
    read = history_of(tmp_path).history
    assert (read.metrics, read.about) == (callback.history.metrics, callback.history.about)
    assert same(History.from_state_dict(callback.history.state_dict()), callback.history)


def test_the_last_loss_is_a_mean_over_the_last_steps(tmp_path):
    callback = UncertaintyCallback(summary=False)
    fit(tmp_path, callback=callback, max_epochs=4, log_every_n_steps=1)  # 96 steps
    losses = callback.history.series("raw_loss", "a")
    (_, (name, _, raw_loss, *_)), _ = summarize(callback.history).rows
    assert (name, raw_loss) == ("a", f"{losses[0]:.3g} -> {statistics.fmean(losses[-10:]):.3g}")
    few = History.of(snapshots(9))  # of which the last tenth is one
    (_, (name, _, raw_loss, *_)), *_ = summarize(few).rows
    assert raw_loss.split()[2] == f"{statistics.fmean(few.series('raw_loss', name)[5:]):.3g}"


def test_the_summary_can_be_turned_off(tmp_path, capsys):
    fit(tmp_path, callback=UncertaintyCallback(summary=False))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("options", [BAREBONES, {"fast_dev_run": True}], ids=["barebones", "fast_dev_run"])
def test_it_is_silent_where_lightning_is(tmp_path, capsys, options):
    trainer(tmp_path, UncertaintyCallback(), **options).fit(Weighed(), batches())
    assert capsys.readouterr().out == ""
    assert ours(tmp_path) == []


def test_validation_and_test_alone_say_nothing(tmp_path, capsys):
    class Validates(Weighed):
        def validation_step(self, batch, batch_idx):
            self.weigh(self.losses(batch))

    logger = CSVLogger(tmp_path)
    trainer(tmp_path, UncertaintyCallback(), logger=logger).validate(Validates(), batches(), verbose=False)
    assert capsys.readouterr().out == ""
    assert ours(tmp_path) == []


def test_it_comes_without_the_mixin_too(tmp_path, capsys):
    fit(tmp_path, Returned(), callback=UncertaintyCallback(TASKS))
    assert "2 tasks after 48 steps" in capsys.readouterr().out


class Terminal:
    """A stream that claims to be one."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def history(count=3, steps=300):
    return History.of(snapshots(steps, named(count)))


def test_in_a_terminal_it_is_drawn_by_rich_and_without_rich_it_is_plain(monkeypatch):
    drawn, plain = Terminal(), Terminal()
    with contextlib.redirect_stdout(drawn):
        print_summary(history(), closing="Open it")
    monkeypatch.setattr(summary, "find_spec", lambda _: None)
    with contextlib.redirect_stdout(plain):
        print_summary(history(), closing="Open it")
    assert "─" in drawn.text
    assert "─" not in plain.text
    for text in (drawn.text, plain.text):
        assert all(word in text for word in ("task_000", "raw loss", "Open it", "fine" if "fine" in text else "look"))


def test_a_stream_that_knows_no_greek_gets_powers_in_ascii_and_question_marks_for_the_rest(tmp_path):
    told = snapshots(300, ("price", "größe"))
    with open(tmp_path / "out.txt", "w", encoding="ascii") as stream, contextlib.redirect_stdout(stream):
        stream.isatty = lambda: True  # rich would stop at its first line
        print_summary(History.of(told))
    text = (tmp_path / "out.txt").read_text()
    assert "$^-2" in text
    assert "gr??e" in text


@pytest.mark.usefixtures("empty_pictures")
def test_of_many_tasks_those_with_findings_are_listed_first_and_the_rest_is_counted():
    text = as_text(summarize(history(300)))
    assert f"... and {300 - MOST_ROWS} more tasks; the page has all of them." in text
    few = as_text(summarize(history(30)))
    assert [len(re.findall("^task_", each, flags=re.MULTILINE)) for each in (text, few)] == [MOST_ROWS, 30]
    assert max(len(line) for line in text.splitlines()) <= summary.WIDTH


def test_of_many_tasks_the_extremes_are_named_and_the_quantiles_are_shown():
    given = history(300)
    lines = re.sub(r"\n +", " ", as_text(summarize(given))).splitlines()  # a verdict may have several
    weights = {name: given.series("precision", name)[-1] for name in given.tasks}
    for word, which in (("highest", max), ("lowest", min)):
        (line,) = [line for line in lines if f"{word} weight" in line]
        assert line.startswith(which(weights, key=weights.get))
    ordered = sorted(weights.values())
    for key, place in (("max", 299), ("p90", 269), ("median", 150), ("p10", 30), ("min", 0)):
        (line,) = [line for line in lines if line.startswith(f"{key} ")]
        assert f"{ordered[place]:.4g}" in line.split()
    assert not any(line.startswith("max ") for line in as_text(summarize(history(30))).splitlines())


def test_a_finding_of_many_tasks_is_told_once():
    (snapshot,) = snapshots(1, named(300))
    tasks = {name: dataclasses.replace(task, nonfinite=7) for name, task in snapshot.tasks.items()}
    given = History.of([Snapshot(1, tasks)])
    assert len(diagnose(given)) == 301  # it is too short, too
    first, others, short = (text for _, text in summarize(given).findings)
    assert first.startswith("The loss of task 'task_000' was NaN")
    assert others.startswith("The same (not finite) of 'task_001', 'task_002'")
    assert others.endswith(" and 287 more.")
    assert "too few to tell" in short


# ---------------------------------------------------------------------------------------------------- files


class InMemory(DummyLogger):
    """Keeps all in memory, and names the working directory as others do that write there."""

    name, version, save_dir = "runs", 1, "."


class Online(DummyLogger):
    """Names a run and no folder, as some services do."""

    name, version, save_dir = "project", "run", None


@pytest.mark.usefixtures("empty_pictures")
def test_without_a_folder_of_a_logger_files_lie_beside_the_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path, logger=Online(), enable_checkpointing=True)
    folder = tmp_path / "project" / "run"
    assert [path.parent for path in tmp_path.rglob("checkpoints/*.ckpt")] == [folder / "checkpoints"]
    assert sorted(path.name for path in folder.glob("uncertainty*")) == FILES
    assert capsys.readouterr().out.splitlines()[-1] == f"Open {folder / FILES[0]}"


@pytest.mark.parametrize(("report", "said"), [(True, True), (False, False)])
def test_without_any_logger_a_line_says_that_there_is_no_page(tmp_path, capsys, report, said):
    fit(tmp_path, callback=UncertaintyCallback(report=report), logger=False)
    assert ("there is no page: add a CSVLogger" in capsys.readouterr().out) is said
    assert ours(tmp_path) == []


@pytest.mark.usefixtures("empty_pictures")
def test_a_logger_that_keeps_all_in_memory_gets_no_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path, logger=[DummyLogger(), InMemory()])
    assert "No logger keeps files on this disk, so there is no page" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "runs" / "version_1"
    folder.mkdir(parents=True)  # as ModelCheckpoint does
    fit(tmp_path, logger=[DummyLogger(), InMemory()])
    assert ours(folder) == ours(tmp_path) != []


def test_history_picture_and_page_lie_beside_the_loggers_files(tmp_path, capsys):
    callback, logger = UncertaintyCallback(), CSVLogger(tmp_path)
    fit(tmp_path, Units(), callback=callback, logger=logger, log_every_n_steps=5)
    folder = tmp_path / "lightning_logs" / "version_0"
    assert ours(tmp_path) == FILES
    written = RunFile.read(folder / FILES[2])
    assert same(written.history, callback.history)
    assert written.finished
    assert imread(folder / FILES[1]).shape == (946, 1430, 4)
    assert capsys.readouterr().out.splitlines()[-1] == f"Open {folder / FILES[0]}"


@pytest.mark.usefixtures("empty_pictures")
def test_another_prefix_gives_other_files(tmp_path):
    fit(tmp_path, callback=UncertaintyCallback(log_prefix="train/mtl"), logger=CSVLogger(tmp_path))
    assert sorted(path.suffix for path in tmp_path.rglob("train_mtl*")) == [".html", ".json", ".png"]


@pytest.mark.parametrize("report", [True, False])
def test_nothing_is_written_without_a_logger_or_when_turned_off(tmp_path, report):
    fit(tmp_path, callback=UncertaintyCallback(report=report), logger=False if report else CSVLogger(tmp_path))
    assert ours(tmp_path) == []


def test_tensorboard_gets_the_picture(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    (image,) = events.Images("uncertainty/overview")
    assert (image.step, image.width, image.height) == (48, 1430, 946)


def test_without_matplotlib_the_rest_is_written_and_the_command_is_named(tmp_path, capsys, monkeypatch):
    for module in (run_report, page, extras):
        found = module.find_spec
        monkeypatch.setattr(
            module, "find_spec", lambda name, found=found: found(name) if name != "matplotlib" else None
        )
    fit(tmp_path, logger=[CSVLogger(tmp_path), TensorBoardLogger(tmp_path)])
    assert ours(tmp_path) == ["uncertainty.html", "uncertainty_history.json"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith('The plots need matplotlib: pip install "lightning-uncertainty[report]". Open ')
    assert "pip install" in next(tmp_path.rglob("*.html")).read_text()


# ---------------------------------------------------------------------------------------------------- while it trains


def history_of(folder):
    (path,) = folder.rglob("uncertainty_history.json")
    return RunFile.read(path)


class Watches(Callback):
    """Reads the file after each batch and each epoch: what a killed run would leave."""

    def __init__(self, folder, callback):
        self.folder, self.callback, self.seen, self.kept = folder, callback, [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        found = [RunFile.read(path) for path in self.folder.rglob("uncertainty_history.json")]
        self.seen.append(found[0].history.steps[-1] if found else None)
        assert not any(file.finished for file in found)

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch:
            assert same(history_of(self.folder).history, self.callback.history)


class Validated(Weighed):
    def validation_step(self, batch, batch_idx):
        self.weigh(self.losses(batch))


@pytest.fixture
def unbounded(monkeypatch):
    """An epoch of these takes milliseconds, and would come too soon after the last write."""
    monkeypatch.setattr(run_report, "WRITING", 1.0)


@pytest.mark.usefixtures("unbounded", "empty_pictures")
def test_the_history_is_written_at_the_end_of_each_epoch_and_at_each_validation(tmp_path):
    callback = UncertaintyCallback(summary=False)
    watches = Watches(tmp_path, callback)
    runner = trainer(
        tmp_path,
        callback,
        watches,
        logger=CSVLogger(tmp_path),
        max_epochs=3,
        val_check_interval=9,
        log_every_n_steps=0,
        num_sanity_val_steps=2,
    )
    runner.fit(Validated(), batches(), batches(2))
    expected = [None] * 9 + [9] * 9 + [18] * 6
    assert watches.seen[:24] == expected
    assert watches.seen[24:] == [24 if at is None else at + 24 for at in expected] + [
        48 if at is None else at + 48 for at in expected
    ]
    written = history_of(tmp_path)
    assert written.finished
    assert written.history.steps == callback.history.steps == [1, 24, 48, 72]  # a validation adds no point


@pytest.mark.usefixtures("unbounded", "empty_pictures")
def test_file_and_page_have_what_gradient_views_saw(tmp_path):
    view = GradientView("net", every_n_steps=6)
    fit(tmp_path, callback=UncertaintyCallback(summary=False), callbacks=[view], logger=CSVLogger(tmp_path))
    (seen,) = history_of(tmp_path).gradients.values()
    assert [snapshot.step for snapshot in seen] == [snapshot.step for snapshot in view.snapshots]
    for one, other in zip(seen, view.snapshots, strict=True):
        assert one.norms == pytest.approx(other.norms, rel=1e-6)
    (page,) = tmp_path.rglob("uncertainty.html")
    assert "Angle of each pair" in Page(page.read_text()).text


@pytest.mark.usefixtures("empty_pictures")
def test_writing_takes_at_most_one_part_in_fifty_of_the_time(tmp_path, monkeypatch):
    """With a clock of its own: each write takes 1 s, each epoch 20 s."""
    now, written = [0.0], []

    def slow(path, text):
        if path.suffix == ".json":
            now[0] += 1.0
            written.append(now[0])
        path.write_text(text, encoding="utf-8")

    class Clock(Callback):
        def on_train_epoch_start(self, trainer, module):
            now[0] += 20.0

    monkeypatch.setattr(run_report, "write_whole", slow)
    monkeypatch.setattr(run_report, "time", SimpleNamespace(monotonic=lambda: now[0]))
    callback = UncertaintyCallback(summary=False)
    fit(tmp_path, callback=callback, callbacks=[Clock()], logger=CSVLogger(tmp_path), max_epochs=10, data=batches(4))
    *during, last = written
    assert during == [21.0, 82.0, 143.0, 204.0]  # after each third epoch
    assert last == 205.0  # the end is always written


@pytest.mark.usefixtures("unbounded", "empty_pictures")
def test_the_file_costs_no_transfer_from_the_device(tmp_path, monkeypatch):
    """Beside those of the points: as many with the file as without."""
    counts = []
    for report in (True, False):
        fetched, rows_later = [], named_values.rows_later

        def counting(*arguments, fetched=fetched, rows_later=rows_later):
            rows = rows_later(*arguments)
            return lambda: (fetched.append(1), rows())[1]

        with monkeypatch.context() as patch:
            patch.setattr(named_values, "rows_later", counting)
            callback = UncertaintyCallback(summary=False, report=report)
            fit(tmp_path, callback=callback, logger=CSVLogger(tmp_path), max_epochs=3, log_every_n_steps=5)
        counts.append(len(fetched))
    assert counts[0] == counts[1] > 3


@pytest.mark.usefixtures("unbounded")
def test_only_the_main_rank_writes_and_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda _: False))
    logger = CSVLogger(tmp_path)
    fit(tmp_path, logger=logger)
    assert capsys.readouterr().out == ""
    assert ours(tmp_path) == []


def test_reading_the_history_changes_nothing(tmp_path):
    """Also while its first point is still on the device."""

    class Reads(Callback):
        def __init__(self, callback):
            self.callback, self.seen = callback, []

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            before = pickle.dumps({key: value for key, value in vars(self.callback._report).items() if key != "_first"})
            first = self.callback._report._first
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.seen.append([self.callback.history.steps for _ in range(2)])
            assert self.callback._report._first is first
            after = {key: value for key, value in vars(self.callback._report).items() if key != "_first"}
            assert pickle.dumps(after) == before

    callback, other = UncertaintyCallback(), UncertaintyCallback()
    reads = Reads(callback)
    trainer(tmp_path, callback, reads, max_epochs=1, log_every_n_steps=10).fit(Weighed(), batches())
    assert reads.seen[:10] == [[[1], [1]]] * 9 + [[[1, 10], [1, 10]]]
    fit(tmp_path, callback=other, max_epochs=1, log_every_n_steps=10)
    assert same(callback.history, other.history)


@pytest.mark.usefixtures("unbounded")
def test_a_file_that_cannot_be_written_is_told_once_and_training_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(run_report, "write_whole", full)
    with pytest.warns(UncertaintyWarning) as said:
        _, runner = fit(tmp_path, callback=UncertaintyCallback(summary=False), logger=CSVLogger(tmp_path), max_epochs=4)
    assert runner.global_step == 96
    texts = [str(warning.message).split(" failed")[0] for warning in said if warning.category is UncertaintyWarning]
    assert texts == ["The history file of UncertaintyCallback", "The report of UncertaintyCallback"]


# ---------------------------------------------------------------------------------------------------- accidents


def test_whatever_fails_is_told_and_training_is_not_affected(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(run_report, "build_page", broken)
    monkeypatch.setattr(run_report, "print_summary", broken)
    with pytest.warns(UncertaintyWarning) as said:
        _, runner = fit(tmp_path, logger=CSVLogger(tmp_path))
    assert runner.global_step == 48
    texts = [str(warning.message) for warning in said if "failed" in str(warning.message)]
    assert ["report" in texts[0], "summary" in texts[1], len(texts)] == [True, True, 2]
    assert all("OSError: disk full" in text for text in texts)


@pytest.mark.usefixtures("empty_pictures")
def test_a_logger_that_fails_does_not_keep_the_picture_from_the_others(tmp_path, monkeypatch):
    class Fails(TensorBoardLogger):
        pass

    fails, works = Fails(tmp_path, "one"), TensorBoardLogger(tmp_path, "two")
    monkeypatch.setattr(fails.experiment, "add_image", lambda *_, **__: 1 / 0)
    with pytest.warns(UncertaintyWarning, match=r"image for Fails .*ZeroDivisionError"):
        fit(tmp_path, logger=[fails, works])
    assert EventAccumulator(works.log_dir).Reload().Tags()["images"] == ["uncertainty/overview"]


class Interrupts(Callback):
    def __init__(self, error):
        self.error = error

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 30:
            raise self.error


@pytest.mark.usefixtures("empty_pictures")
def test_an_interrupted_run_is_reported_as_far_as_it_came(tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit(tmp_path, callbacks=[Interrupts(KeyboardInterrupt())], logger=CSVLogger(tmp_path))
    assert "2 tasks after 30 steps" in capsys.readouterr().out
    assert ours(tmp_path) == FILES
    written = history_of(tmp_path)
    assert (written.finished, written.history.steps[-1]) == (False, 30)


def test_a_run_that_fails_shows_its_error_and_leaves_its_history_only(tmp_path, capsys):
    with pytest.raises(OSError, match="mine"):
        fit(tmp_path, callbacks=[Interrupts(OSError("mine"))], logger=CSVLogger(tmp_path), log_every_n_steps=7)
    assert capsys.readouterr().out == ""
    assert ours(tmp_path) == ["uncertainty_history.json"]
    written = history_of(tmp_path)
    assert (written.finished, written.history.steps) == (False, [1, 7, 14, 21, 24, 28])


def test_a_run_that_fails_before_its_first_step_leaves_nothing(tmp_path):
    class Fails(Weighed):
        def training_step(self, batch, batch_idx):
            raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        fit(tmp_path, Fails(), logger=CSVLogger(tmp_path))
    assert ours(tmp_path) == []


def test_a_module_that_never_trained_is_not_reported(tmp_path, capsys):
    fit(tmp_path, max_steps=0, max_epochs=-1, logger=CSVLogger(tmp_path))
    assert capsys.readouterr().out == ""
    assert ours(tmp_path) == []


# ---------------------------------------------------------------------------------------------------- page


@pytest.mark.parametrize("count", [3, 30, 300])
def test_the_page_is_one_whole_file_that_loads_nothing(count):
    text = build_page(ReportContent(history(count), "a < b"))
    page = Page(text)
    assert page.count("td") == (count + (5 if count > MOST_ROWS else 0)) * (len(COLUMNS) - 1)  # no validation
    assert page.count("svg") == 4
    assert "<title>a &lt; b</title>" in text
    assert "prefers-color-scheme: dark" in text
    assert "#010203" not in text
    assert text.count("currentColor") > 50
    assert len(text) < 1_500_000


def test_the_page_of_very_many_tasks_has_those_that_matter_most():
    assert len(text := build_page(ReportContent(history(1500, 30)))) < 1_500_000
    assert Page(text).count("td") == (1000 + 5) * (len(COLUMNS) - 1)  # no validation
    assert "... and 500 more tasks; the history has all of them." in text


@pytest.mark.usefixtures("empty_pictures")
def test_the_page_begins_with_what_was_found():
    given = history()
    text = build_page(ReportContent(given))
    places = [text.index(re.sub("'", "&#x27;", each.sentence)) for each in diagnose(given)]
    assert all(place < text.index("<table") < text.index("<svg") for place in places)


def test_who_points_at_a_step_reads_its_values():
    given = history(3, 300)
    read = Page(build_page(ReportContent(given))).text
    for place, step in ((0, "1"), (295, "296"), (-1, "300")):  # of up to 60 steps
        sigma, loss = (given.series(quantity, "task_001")[place] for quantity in ("sigma", "raw_loss"))
        assert read.count(f"step {step}task_000") == 4
        assert read.count(f"task_001 {sigma:.4g}") >= 1
        assert read.count(f"task_001 {loss:.4g}") >= 1
    assert read.count("task_000") < 300


@pytest.mark.usefixtures("empty_pictures")
def test_a_table_of_few_tasks_is_not_cut_anywhere():
    assert 'class="scroll long"' not in build_page(ReportContent(history(MOST_ROWS)))
    assert 'class="scroll long"' in build_page(ReportContent(history(MOST_ROWS + 1)))


def test_the_page_is_the_same_every_time():
    assert build_page(ReportContent(history())) == build_page(ReportContent(history()))


@pytest.mark.parametrize("finding", Finding)
def test_the_page_of_docs_has_every_finding_with_its_rule(finding):
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{finding.name}` |")]
    assert finding.rule in row
    assert finding.severity in row
