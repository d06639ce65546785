"""What the callback says and writes at the end of a run, and that nothing of it can stop a training."""

import dataclasses
import json
import re
import statistics
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_uncertainty._arguments as extras
from lightning_uncertainty import Snapshot, UncertaintyCallback, UncertaintyWarning
from lightning_uncertainty.findings import Finding
from lightning_uncertainty.reporting import page, summary
from lightning_uncertainty.reporting.diagnosis import diagnose
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.page import build_page, write_page
from lightning_uncertainty.reporting.summary import COLUMNS, MOST_ROWS, as_text, print_summary, summarize
from lightning_uncertainty.trainer import run_report
from tests.models import TASKS, Returned, Weighed, batches, fit, trainer
from tests.pages import Page
from tests.reporting.test_figures import named, snapshots
from tests.reporting.test_history import same
from tests.trainer.test_logging import BAREBONES

FILES = ["uncertainty.html", "uncertainty.png", "uncertainty_history.json"]


def ours(folder):
    return sorted(path.name for path in folder.rglob("uncertainty*"))


class Units(Weighed):
    tasks = {"a": {"likelihood": "gaussian", "unit": "m"}, "b": {"likelihood": "laplace", "unit": "$"}}


# ---------------------------------------------------------------------------------------------------- summary


def test_a_fit_ends_with_a_table_of_its_tasks(tmp_path, capsys):
    callback = UncertaintyCallback()
    module, _ = fit(tmp_path, Units(), callback=callback)
    printed = capsys.readouterr().out
    title, header, _, first, second, *rest = printed.strip().splitlines()
    assert title == "Uncertainty weighting: 2 tasks after 48 steps"
    assert header.split() == ["task", "likelihood", "raw", *COLUMNS[2].split()[1:], *COLUMNS[3:]]
    now, losses = module.uncertainty.snapshot(), callback.history.series("raw_loss", "a")
    for line, name, sigma_unit, weight_unit, loss_unit in (
        (first, "a", "m", "m⁻²", "m²"),
        (second, "b", "$", "$⁻¹", "$"),
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
    print_summary(history(), stream=drawn, closing="Open it")
    monkeypatch.setattr(summary, "find_spec", lambda _: None)
    print_summary(history(), stream=plain, closing="Open it")
    assert "─" in drawn.text
    assert "─" not in plain.text
    for text in (drawn.text, plain.text):
        assert all(word in text for word in ("task_000", "gaussian", "Open it", "fine" if "fine" in text else "look"))


def test_a_stream_that_knows_no_greek_gets_question_marks(tmp_path):
    with open(tmp_path / "out.txt", "w", encoding="ascii") as stream:
        print_summary(History.of(snapshots(300)), stream=stream)
    assert "$?" in (tmp_path / "out.txt").read_text()


def test_of_many_tasks_those_with_findings_are_listed_first_and_the_rest_is_counted():
    text = as_text(summarize(history(300)))
    assert f"... and {300 - MOST_ROWS} more tasks; the page has all of them." in text
    assert text.count("gaussian") == MOST_ROWS
    few = as_text(summarize(history(30)))
    assert few.count("gaussian") == 30
    assert max(len(line) for line in text.splitlines()) < 140


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


def test_history_picture_and_page_lie_beside_the_loggers_files(tmp_path, capsys):
    callback, logger = UncertaintyCallback(), CSVLogger(tmp_path)
    fit(tmp_path, Units(), callback=callback, logger=logger, log_every_n_steps=5)
    folder = tmp_path / "lightning_logs" / "version_0"
    assert ours(tmp_path) == FILES
    assert same(History.from_json(json.loads((folder / FILES[2]).read_text())), callback.history)
    assert imread(folder / FILES[1]).shape == (946, 1430, 4)
    assert capsys.readouterr().out.splitlines()[-1] == f"Open {folder / FILES[0]}"


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


# ---------------------------------------------------------------------------------------------------- accidents


def test_whatever_fails_is_told_and_training_is_not_affected(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(run_report, "write_page", broken)
    monkeypatch.setattr(run_report, "print_summary", broken)
    with pytest.warns(UncertaintyWarning) as said:
        _, runner = fit(tmp_path, logger=CSVLogger(tmp_path))
    assert runner.global_step == 48
    texts = [str(warning.message) for warning in said if "failed" in str(warning.message)]
    assert ["report" in texts[0], "summary" in texts[1], len(texts)] == [True, True, 2]
    assert all("OSError: disk full" in text for text in texts)


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


def test_an_interrupted_run_is_reported_as_far_as_it_came(tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit(tmp_path, callbacks=[Interrupts(KeyboardInterrupt())], logger=CSVLogger(tmp_path))
    assert "2 tasks after 30 steps" in capsys.readouterr().out
    assert ours(tmp_path) == FILES


def test_a_run_that_fails_shows_its_error_and_no_report(tmp_path, capsys):
    with pytest.raises(OSError, match="mine"):
        fit(tmp_path, callbacks=[Interrupts(OSError("mine"))], logger=CSVLogger(tmp_path))
    assert capsys.readouterr().out == ""
    assert ours(tmp_path) == []


def test_a_module_that_never_trained_is_not_reported(tmp_path, capsys):
    fit(tmp_path, max_steps=0, max_epochs=-1, logger=CSVLogger(tmp_path))
    assert capsys.readouterr().out == ""
    assert ours(tmp_path) == []


# ---------------------------------------------------------------------------------------------------- page


@pytest.mark.parametrize("count", [3, 30, 300])
def test_the_page_is_one_whole_file_that_loads_nothing(tmp_path, count):
    text = write_page(tmp_path / "page.html", history(count), title="a < b").read_text()
    page = Page(text)
    assert page.count("td") == count * len(COLUMNS)
    assert page.count("svg") == 4
    assert "<title>a &lt; b</title>" in text
    assert "prefers-color-scheme: dark" in text
    assert "#010203" not in text
    assert text.count("currentColor") > 50
    assert len(text) < 1_500_000


def test_the_page_begins_with_what_was_found():
    given = history()
    text = build_page(given)
    places = [text.index(re.sub("'", "&#x27;", each.sentence)) for each in diagnose(given)]
    assert all(place < text.index("<table") < text.index("<svg") for place in places)


def test_the_page_is_the_same_every_time():
    assert build_page(history()) == build_page(history())


@pytest.mark.parametrize("finding", Finding)
def test_the_page_of_docs_has_every_finding_with_its_rule(finding):
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{finding.name}` |")]
    assert finding.rule in row
    assert finding.severity in row
