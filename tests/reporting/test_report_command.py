"""The page of a run folder: whatever was left in it, by a run that ended, was killed, or never began."""

import functools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_uncertainty import __main__ as cli
from lightning_uncertainty import compare
from lightning_uncertainty.reporting import page
from lightning_uncertainty.reporting.files import ComparisonFile, ReportContent, read_report
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.page import build_page
from lightning_uncertainty.reporting.run_history import RunHistory
from tests.browser import DESKTOP, FRAMES, look, look_through_frames, needs_chromium
from tests.comparison.test_study import Net, serve
from tests.pages import Page
from tests.reporting.test_figures import named
from tests.reporting.test_figures import snapshots as weights_of
from tests.trainer.test_gradient_view import snapshots as gradients_of
from tests.workers.processes import Ranks
from tests.workers.report_runs import STEPS, train
from tests.workers.without_pictures import draw_nothing

SECTIONS = ["What stands out", "Tasks", "Over the steps", "Gradients of encoder"]
KILLED_AT = STEPS - 13  # in the middle of an epoch
SAVED_AT = STEPS - 16  # at the end of the epoch before

pytestmark = pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`", "ignore:Experiment logs directory"
)


def report(*arguments):
    return cli.main(["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that came to its end, and its history."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    torch.manual_seed(0)
    history = train(folder)
    (folder / "uncertainty.html").rename(folder / "at_the_end.html")  # of the callback
    return folder, history


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run that was killed in the middle of an epoch."""
    folder = tmp_path_factory.mktemp("runs") / "killed"
    kill(folder)
    return folder


def kill(folder, **options):
    job = Ranks(functools.partial(train, folder, dies_at=KILLED_AT, **options), folder=folder.parent / "job", world=1)
    assert job.wait() == [-9]


@pytest.fixture
def copied(tmp_path):
    """A copy that may be damaged."""

    def copy(folder, name="run"):
        return Path(shutil.copytree(folder, tmp_path / name))

    return copy


@pytest.fixture
def undrawn(monkeypatch):
    """As without matplotlib: where a test is about words, plots take time only."""
    found = page.find_spec
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "matplotlib" else found(name))


def build_page_of(history, **options):
    return build_page(ReportContent(history, **options))


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------- a run


def test_a_finished_run_gives_one_page_with_all_of_it(whole, copied, capsys):
    folder, history = copied(whole[0]), whole[1]
    before = files(folder)
    assert report(folder) == 0
    text = (folder / "uncertainty.html").read_text()
    shown = Page(text)
    assert [title for title in shown.titles if title in SECTIONS] == SECTIONS
    assert shown.count("svg") == 7
    assert "Read from uncertainty_history.json." in shown.text
    assert all(name in shown.words for name in history.tasks)
    printed = capsys.readouterr().out
    assert f"3 tasks after {STEPS} steps" in printed
    assert printed.splitlines()[-2:] == ["Read from uncertainty_history.json.", f"Open {folder / 'uncertainty.html'}"]
    assert {path: content for path, content in files(folder).items() if path.name != "uncertainty.html"} == before
    assert str(folder) not in text  # it may go to another machine
    assert report(folder) == 0  # over its own page
    assert (folder / "uncertainty.html").read_text() == text


# ---------------------------------------------------------------------------------------------------- killed runs


@pytest.mark.usefixtures("undrawn")
def test_a_killed_run_shows_its_last_epoch_and_says_what_it_may_lack(killed, copied, capsys, whole):
    folder, history = copied(killed), whole[1]
    assert report(folder) == 0
    read, lacks = capsys.readouterr().out.splitlines()[-3:-1]
    assert read == "Read from uncertainty_history.json."
    assert re.fullmatch(
        r"The run has not come to its end: it was killed, has failed or still goes on. What came after step "
        rf"{SAVED_AT} is missing: its file was last written at \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC. A run writes it "
        r"at the end of an epoch, at a validation, and when it fails.",
        lacks,
    )
    assert lacks in Page((folder / "uncertainty.html").read_text()).text
    content = read_report(folder)
    until = history.steps.index(SAVED_AT) + 1
    assert content.history.steps == history.steps[:until]
    for name in history.tasks:  # what the run would have been, had it not been killed
        assert content.history.series("precision", name) == history.series("precision", name)[:until]
    (snapshots,) = content.gradients.values()
    assert [snapshot.step for snapshot in snapshots] == list(range(0, SAVED_AT, 4))


def test_a_run_that_was_killed_before_it_wrote_anything_says_so(tmp_path, capsys):
    (tmp_path / "hparams.yaml").write_text("lr: 1\n")
    assert report(tmp_path) == 2
    assert "has no run in it: no uncertainty_history.json and no comparison.json" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- half-written


def cut(path, part=0.6):
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


@pytest.mark.parametrize("part", [0.0, 0.6])
def test_a_half_written_file_is_refused_with_the_reason_in_one_line(whole, copied, capsys, part):
    folder = copied(whole[0])
    cut(folder / "uncertainty_history.json", part)
    before = files(folder)
    for path in (folder, folder / "uncertainty_history.json"):
        assert report(path) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "uncertainty_history.json" in error
        assert "cannot be read (JSONDecodeError" in error
        assert "Pass the folder of another run" in error
    assert files(folder) == before


# ---------------------------------------------------------------------------------------------------- nothing there


def other_tool(folder):
    (folder / "metrics.csv").write_text("epoch,accuracy\n1,0.5\n")
    (folder / "train_history.json").write_text('{"loss": [1.0]}')
    (folder / "uncertainty_history.json").write_text("[1, 2]")


def of_another_prefix(folder):
    (folder / "train_history.json").write_text('{"loss": [1.0]}')


FOLDERS = {
    "empty": (files, "has no run in it"),
    "of another tool": (other_tool, "it is not written by this package"),
    "of another tool, under another name": (of_another_prefix, "To read that, pass --prefix train."),
    "with other files": (lambda folder: (folder / "notes.txt").write_text("mine"), "has no run in it"),
}


@pytest.mark.parametrize(("fill", "said"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_with_nothing_to_show_gets_one_line_and_nothing_is_written(tmp_path, capsys, fill, said):
    fill(tmp_path)
    before = files(tmp_path)
    assert report(tmp_path) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert files(tmp_path) == before


def test_a_missing_folder_and_a_file_in_its_place_get_one_line(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    for name, said in (
        ("nowhere", "There is no folder or file"),
        ("notes.txt", "notes.txt cannot be read (JSONDecodeError"),
    ):
        assert report(tmp_path / name) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert files(tmp_path) == {Path("notes.txt"): b"mine"}


# ---------------------------------------------------------------------------------------------------- the page's file


@pytest.mark.usefixtures("undrawn")
def test_another_file_can_be_named_and_nothing_foreign_is_overwritten(whole, copied, tmp_path, capsys):
    folder = copied(whole[0])
    assert report(folder, "--output", tmp_path / "mine.html") == 0
    Page((tmp_path / "mine.html").read_text())
    assert not (folder / "uncertainty.html").exists()
    (folder / "uncertainty.html").write_text("<p>mine</p>")
    before = files(tmp_path)
    for output, said in (
        ([], "is there already, and no page of this command. Give another --output."),
        (["--output", tmp_path / "run"], "is a folder"),
        (["--output", tmp_path / "nowhere" / "page.html"], "There is no folder"),
        (["--prefix", ""], "--prefix must not be empty"),
    ):
        assert report(folder, *output) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert files(tmp_path) == before


@pytest.mark.usefixtures("undrawn")
def test_the_page_of_the_end_of_a_fit_is_one_of_ours_and_makes_room(whole, copied):
    folder = copied(whole[0])
    written = shutil.move(folder / "at_the_end.html", folder / "uncertainty.html").read_text()
    assert report(folder) == 0
    again = (folder / "uncertainty.html").read_text()
    assert f": {folder.name}</h1>" in again
    assert f": {folder.name}</h1>" not in written
    assert "Gradients of" in written
    assert "Gradients of" in again


@pytest.mark.usefixtures("undrawn")
def test_without_matplotlib_the_page_has_its_words_and_the_command(whole, copied):
    folder = copied(whole[0])
    assert report(folder) == 0
    shown = Page((folder / "uncertainty.html").read_text())
    assert shown.count("svg") == 0
    assert 'pip install "lightning-uncertainty[report]"' in shown.text


def test_reading_imports_no_lightning(whole, copied):
    code = (
        "import sys; from lightning_uncertainty.__main__ import main; assert main(['report', sys.argv[1]]) == 0; "
        "print([name for name in ('lightning', 'pytorch_lightning', 'torchmetrics') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code, copied(whole[0])], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
    assert ran.stderr == ""


# ---------------------------------------------------------------------------------------------------- prefixes


@pytest.mark.usefixtures("undrawn")
def test_a_prefix_that_is_not_there_is_answered_with_those_that_are(tmp_path, capsys):
    train(tmp_path / "run", prefix="train/mtl")
    (tmp_path / "run" / "train_mtl.html").unlink()
    assert report(tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert (
        "has no uncertainty_history.json, but train_mtl_history.json. To read that, pass --prefix train_mtl." in error
    )
    for arguments in (["--prefix", "train/mtl"], ["--prefix", "train_mtl"], []):
        file = [] if arguments else ["train_mtl_history.json"]  # which has its own prefix
        assert report(tmp_path.joinpath("run", *file), *arguments) == 0
        Page((tmp_path / "run" / "train_mtl.html").read_text())
        (tmp_path / "run" / "train_mtl.html").unlink()


# ---------------------------------------------------------------------------------------------------- several runs


def made_at(folder, hour):
    for path in folder.rglob("*"):
        os.utime(path, (3600 * hour, 3600 * hour))


@pytest.mark.usefixtures("undrawn")
def test_of_several_runs_the_newest_is_taken_and_a_note_says_which(whole, killed, copied, tmp_path, capsys):
    for hour, (name, source) in enumerate(
        {"version_9": whole[0], "version_10": killed, "version_11": whole[0]}.items()
    ):
        made_at(copied(source, f"lightning_logs/{name}"), hour)
    assert report(tmp_path) == 0
    note = "Read from {}/uncertainty_history.json, the newest of 3 runs. For another one, pass its own folder."
    assert note.format("lightning_logs/version_11") in capsys.readouterr().out
    assert note.format("lightning_logs/version_11") in Page((tmp_path / "uncertainty.html").read_text()).text
    made_at(tmp_path / "lightning_logs" / "version_10", 10)
    content = read_report(tmp_path)
    assert content.title == "Uncertainty weighting: version_10"
    assert content.notes[0] == note.format("lightning_logs/version_10")


def test_a_run_in_the_folder_itself_comes_before_those_below(whole, killed, copied):
    folder = copied(killed, "own")
    made_at(folder, 1)
    copied(whole[0], "own/version_0")
    content = read_report(folder)
    assert content.notes[0] == "Read from uncertainty_history.json."
    assert content.history.steps[-1] == SAVED_AT


# ---------------------------------------------------------------------------------------------------- comparisons


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison, and its result."""
    folder = tmp_path_factory.mktemp("compared") / "comparison"
    options = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 2}
    metrics = {"val/a": "min", "val/b": "min"}
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch.setattr)  # each run has a page of its own, at which nobody looks
        return folder, compare(Net, serve, metrics=metrics, seeds=(0, 1), trainer=options, folder=folder)


@pytest.mark.parametrize("file", [[], ["comparison.json"]], ids=["folder", "file"])
def test_a_comparison_shows_its_table_its_sentence_and_a_learned_run(compared, copied, capsys, file):
    folder, result = copied(compared[0], "comparison"), compared[1]
    assert report(folder.joinpath(*file)) == 0
    shown = Page((folder / "uncertainty.html").read_text())
    printed = capsys.readouterr().out
    assert shown.titles[0] == "Does it help?"
    for sentence in result.sentences:
        assert sentence in shown.text
        assert sentence in printed
    table = ComparisonFile.read(folder / "comparison.json").table
    assert [row[0] for row in table][1:3] == ["\u2193 val/a", "\u2193 val/b"]
    for row in table:
        assert all(cell in shown.words for cell in row if cell)
    assert "uncertainty_history.json, the newest run of the arm 'learned'. For another one, pass its own" in shown.text
    assert "comparison, learned, seed" in shown.text
    assert shown.text.count("learned-seed") == 1
    assert "equal-seed" not in shown.text
    assert shown.count("svg") == 4


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_that_was_killed_shows_what_has_finished(compared, copied, capsys):
    folder, result = copied(compared[0], "comparison"), compared[1]
    finished = [run for run in result.runs if (run.arm, run.seed) != ("learned", 1)]
    replace(result, runs=finished).write(folder)
    assert report(folder) == 0
    note = "The comparison has not come to its end: 3 of 4 runs have finished."
    assert note in capsys.readouterr().out
    shown = Page((folder / "uncertainty.html").read_text())
    assert note in shown.text
    for run in result.runs:
        assert (f"{run.metrics['val/a']:.4g}" in shown.words) == (run in finished)


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_without_a_history_shows_its_table(compared, copied, capsys):
    folder = copied(compared[0], "comparison")
    for path in folder.rglob("*_history.json"):
        path.unlink()
    assert report(folder) == 0
    assert "No run has left a history yet, uncertainty_history.json." in capsys.readouterr().out
    assert Page((folder / "uncertainty.html").read_text()).titles == ["Does it help?"]


def test_a_comparison_that_is_damaged_is_refused_with_the_reason(compared, copied, capsys):
    folder = copied(compared[0], "comparison")
    cut(folder / "comparison.json")
    assert report(folder) == 2
    assert "comparison.json cannot be read (JSONDecodeError" in capsys.readouterr().err


def test_one_run_of_a_comparison_is_a_run_like_any_other(compared, copied):
    folder = copied(next(compared[0].glob("learned-seed0-*")), "learned-seed0-0123456789abcdef")
    content = read_report(folder)
    assert content.comparison is None
    assert "Read from logs/uncertainty_history.json." in content.notes


# ---------------------------------------------------------------------------------------------------- in a browser


@needs_chromium
def test_chromium_opens_the_page_of_a_run(whole, copied):
    folder = copied(whole[0])
    assert report(folder) == 0
    seen = look(folder / "uncertainty.html", height=3000)
    assert seen.complaints == []
    assert seen.picture.shape == (3000, DESKTOP, 3)
    assert seen.dom.count("<svg") == 7
    assert all(f"<h2>{title}</h2>" in seen.dom for title in SECTIONS)


@needs_chromium
@pytest.mark.parametrize("count", [3, 30, 300])
def test_on_a_phone_and_on_a_desktop_in_light_and_in_dark_everything_has_its_place(tmp_path, compared, count):
    text = build_page_of(
        History.of(weights_of(120, named(count))),
        title="A run",
        notes=["A note with `code`, and a_name_that_is_rather_long/and_has/no_space_to_break_it/in_it.json."],
        gradients={"encoder": gradients_of(count)},
        comparison=ComparisonFile.read(compared[0] / "comparison.json"),
    )
    seen, left = look_through_frames(text, tmp_path), 0
    assert seen.complaints == []
    for measured, (width, scheme) in zip(seen.measured, FRAMES, strict=True):
        paper = {"light": (255, 255, 255), "dark": (0x16, 0x18, 0x1D)}[scheme]
        assert measured["background"] == f"rgb{paper}"
        assert measured["room"] == measured["needed"] == width  # nothing to scroll to the side
        assert measured["loaded"] == []
        assert len(measured["figures"]) == 7
        assert all(0 <= start < end <= width and height > 200 for start, end, height in measured["figures"])
        assert all(start >= 0 for start, _, _ in measured["texts"])
        assert all(room == needed for room, needed in measured["tables"])
        shown = seen.picture[:, left : left + width]
        assert np.allclose(shown[5, 5], np.array(paper) / 255, atol=0.01)
        written = abs(shown - shown[5, 5]).max(axis=-1) > 0.5
        assert 0.01 < written.mean() < 0.3
        left += width


@needs_chromium
def test_long_names_of_tasks_stay_on_the_page(tmp_path):
    names = (
        "segmentation_of_the_" + "very_" * 8 + "far_side",
        "depth",
        "surface normals of the near side, in the frame of it",
    )
    seen = look_through_frames(build_page_of(History.of(weights_of(120, names)), title="A run"), tmp_path)
    for measured, (width, _) in zip(seen.measured, FRAMES, strict=True):
        assert measured["room"] == measured["needed"] == width
        assert all(0 <= start < end <= width for start, end, _ in measured["texts"])
        assert all(room == needed for room, needed in measured["tables"])


@needs_chromium
def test_the_table_of_a_notebook_scrolls_on_a_phone_and_breaks_no_number(tmp_path):
    history = RunHistory.of(weights_of(120, ("a rather long name of a task", "b")))
    seen = look_through_frames(f"<!DOCTYPE html>{history._repr_html_()}", tmp_path)
    for measured, (width, _) in zip(seen.measured, FRAMES, strict=True):
        assert measured["room"] == measured["needed"] == width
        ((room, needed),) = measured["tables"]
        assert (needed > room) == (width < 700)


@needs_chromium
def test_what_a_browser_complains_about_and_what_is_too_wide_is_seen(tmp_path):
    text = (
        '<!DOCTYPE html><p style="width: 2000px">wide</p><svg><path d="nonsense"/></svg><img src="http://a.invalid/b">'
    )
    seen = look_through_frames(text, tmp_path)
    assert any("attribute d: Expected moveto path command" in line for line in seen.complaints)
    assert [measured["needed"] > measured["room"] for measured in seen.measured] == [True] * 4
    assert seen.measured[0]["loaded"] == ["http://a.invalid/b"]
