"""The page of a run folder: whatever was left in it, by a run that ended, was killed, or never began."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lightning_uncertainty._arguments as extras
from lightning_uncertainty import cli, compare
from lightning_uncertainty.comparison import ComparisonResult, FinishedRun
from lightning_uncertainty.comparison.tables import rows
from lightning_uncertainty.reporting import page
from lightning_uncertainty.reporting.comparison_files import read_comparison
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.page import build_page
from lightning_uncertainty.reporting.run_folder import read_run_folder
from tests.browser import DESKTOP, FRAMES, look, look_through_frames, needs_chromium
from tests.comparison.test_study import Net, serve
from tests.pages import Page
from tests.reporting.test_figures import named
from tests.reporting.test_figures import snapshots as weights_of
from tests.reporting.test_history import same
from tests.trainer.test_gradient_view import snapshots as gradients_of
from tests.workers import report_runs
from tests.workers.processes import Ranks
from tests.workers.report_runs import STEPS, train

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


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def checkpoint(folder):
    return max((folder / "checkpoints").glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))


def events(folder):
    (path,) = folder.glob("*tfevents*")
    return path


# ---------------------------------------------------------------------------------------------------- a run


def test_a_finished_run_gives_one_page_with_all_of_it(whole, copied, capsys):
    folder, history = copied(whole[0]), whole[1]
    before = files(folder)
    assert report(folder) == 0
    text = (folder / "uncertainty.html").read_text()
    shown = Page(text)
    assert [title for title in shown.titles if title in SECTIONS] == SECTIONS
    assert shown.count("svg") == 8
    assert "Read from uncertainty_history.json." in shown.text
    assert all(name in shown.words for name in history.tasks)
    printed = capsys.readouterr().out
    assert f"3 tasks after {STEPS} steps" in printed
    assert printed.splitlines()[-2:] == ["Read from uncertainty_history.json.", f"Open {folder / 'uncertainty.html'}"]
    assert {path: content for path, content in files(folder).items() if path.name != "uncertainty.html"} == before
    assert str(folder) not in text  # it may go to another machine
    assert report(folder) == 0  # over its own page
    assert (folder / "uncertainty.html").read_text() == text


def without(folder, *kinds):
    """Leave out sources."""
    found = {
        "json": [folder / "uncertainty_history.json"],
        "checkpoints": [folder / "checkpoints"],
        "csv": [folder / "metrics.csv"],
        "tensorboard": [events(folder)],
    }
    for path in (path for kind in kinds for path in found[kind]):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


SOURCES = {
    "history": ([], "Read from uncertainty_history.json.", 0),
    "checkpoint": (["json"], f"Read from the checkpoint checkpoints/step={STEPS}.ckpt.", 0),
    "csv": (["json", "checkpoints"], "Read from what a CSVLogger wrote: metrics.csv.", 1),
    "tensorboard": (["json", "checkpoints", "csv"], "Read from what a TensorBoardLogger wrote: run.", 1),
}


@pytest.mark.parametrize(("gone", "said", "shift"), SOURCES.values(), ids=SOURCES)
def test_the_best_source_that_is_there_is_taken_and_named(whole, copied, gone, said, shift):
    folder, history = without(copied(whole[0]), *gone), whole[1]
    found = read_run_folder(folder)
    assert found.notes[0] == said
    assert found.title == "Uncertainty weighting: run"
    assert found.history.steps[-1] == STEPS - shift  # loggers count from 0
    missing = [note for note in found.notes if "There is n" in note or "A log has no" in note]
    assert len(missing) == {0: 0, 1: 1, 2: 2, 3: 2}[len(gone)]
    for name in history.tasks:
        assert found.history.series("precision", name)[-1] == pytest.approx(
            history.series("precision", name)[-1], rel=1e-5
        )
        assert (found.history.facts[name].absent is None) == bool(shift)
    ((name, snapshots),) = found.gradients.items()
    assert name == ("logged under gradients" if shift else "of encoder")
    assert [snapshot.step for snapshot in snapshots] == list(range(0, STEPS, 4))
    assert list(snapshots[-1].cosines) == [("a", "b"), ("a", "kind"), ("b", "kind")]


def test_what_gradients_a_log_has_are_those_of_the_checkpoint(whole, copied):
    folder = copied(whole[0])
    (ours,) = read_run_folder(folder).gradients.values()
    (theirs,) = read_run_folder(without(folder, "json", "checkpoints")).gradients.values()
    for one, other in zip(ours, theirs, strict=True):
        assert one.norms == pytest.approx(other.norms, rel=1e-5)
        assert one.weighted_norms == pytest.approx(other.weighted_norms, rel=1e-5)
        assert one.cosines == pytest.approx(other.cosines, rel=1e-5)


def test_a_log_without_any_of_ours_is_no_source(whole, copied):
    folder = without(copied(whole[0]), "csv")
    (folder / "metrics.csv").write_text("step,train_loss\n0,1.0\n")
    assert read_run_folder(folder).notes == ["Read from uncertainty_history.json."]


# ---------------------------------------------------------------------------------------------------- killed runs


def test_a_killed_run_shows_its_checkpoint_and_then_its_log(killed, copied, capsys, whole):
    folder, history = copied(killed), whole[1]
    assert report(folder) == 0
    notes = capsys.readouterr().out.splitlines()[-4:-1]
    assert notes == [
        f"Read from the checkpoint checkpoints/step={SAVED_AT}.ckpt up to step {SAVED_AT}, and from there on from "
        "metrics.csv.",
        "There is no uncertainty_history.json: the run was killed, has failed, still goes on, or had `report=False`.",
        f"Counts (missing, NaN) and bounds are those of step {SAVED_AT}: a log has none.",
    ]
    shown = Page((folder / "uncertainty.html").read_text())
    assert shown.count("svg") == 8
    assert all(note.replace("`", "") in shown.text for note in notes)
    found = read_run_folder(folder)
    last = found.history.steps[-1]
    assert last == KILLED_AT - 1  # an even step, the last that was logged
    index = history.steps.index(last)
    for name in history.tasks:  # what the run would have been, had it not been killed
        weights = history.series("precision", name)[: index + 1]
        assert found.history.series("precision", name) == pytest.approx(weights, rel=1e-5)
    (snapshots,) = found.gradients.values()
    assert snapshots[-1].step == SAVED_AT  # one more than the checkpoint has


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_a_killed_run_without_a_checkpoint_shows_its_log(killed, copied, kind):
    folder = copied(killed)
    shutil.rmtree(folder / "checkpoints")
    if kind == "tensorboard":
        (folder / "metrics.csv").unlink()
    found = read_run_folder(folder)
    assert f"{'TensorBoard' if kind == 'tensorboard' else 'CSV'}Logger" in found.notes[0]
    assert "neither uncertainty_history.json nor a checkpoint" in found.notes[1]
    assert found.history.steps[-1] > SAVED_AT / 2  # what was written to disk


def test_a_run_that_was_resumed_and_then_killed_has_an_older_end(whole, copied):
    """A fit came to its end, was resumed in the same folder, and left a checkpoint before it was killed."""
    folder = copied(whole[0])
    early = json.loads((folder / "uncertainty_history.json").read_text())
    kept = {key: early[key][:9] for key in ("steps", "totals", "values")}
    (folder / "uncertainty_history.json").write_text(json.dumps({**early, **kept, "kept": 8}))
    found = read_run_folder(folder)
    assert found.notes[:2] == [
        f"Read from the checkpoint checkpoints/step={STEPS}.ckpt.",
        "uncertainty_history.json is older: the run was resumed after it, and was killed, has failed, still goes "
        "on, or had `report=False`.",
    ]
    assert same(found.history, whole[1])


def test_a_run_that_was_killed_before_it_wrote_anything_says_so(tmp_path, capsys):
    (tmp_path / "hparams.yaml").write_text("lr: 1\n")
    assert report(tmp_path) == 2
    assert "has no run in it: no *_history.json, no checkpoint (*.ckpt), no metrics.csv" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- half-written


def cut(path, part=0.6):
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


DAMAGES = {
    "history": (lambda folder: cut(folder / "uncertainty_history.json"), "uncertainty_history.json", "checkpoint"),
    "empty history": (lambda folder: cut(folder / "uncertainty_history.json", 0.0), "_history.json", "checkpoint"),
    "checkpoint": (lambda folder: cut(checkpoint(folder)), f"step={STEPS}.ckpt", "uncertainty_history.json"),
    "empty checkpoint": (lambda folder: cut(checkpoint(folder), 0.0), f"step={STEPS}.ckpt", "uncertainty_history"),
}


@pytest.mark.parametrize(("damage", "path", "instead"), DAMAGES.values(), ids=DAMAGES)
def test_a_half_written_file_is_passed_over_and_named(whole, copied, damage, path, instead):
    folder = copied(whole[0])
    damage(folder)
    first, *_, last = read_run_folder(folder).notes
    assert instead in first
    assert f"{path} was passed over: it is not whole" in last


def test_a_half_written_checkpoint_leaves_the_one_before(killed, copied):
    folder = copied(killed)
    cut(checkpoint(folder))
    first, *_, passed = read_run_folder(folder).notes
    before = SAVED_AT - 8
    assert first.startswith(f"Read from the checkpoint checkpoints/step={before}.ckpt up to step {before}, and from")
    assert f"step={SAVED_AT}.ckpt was passed over" in passed


@pytest.mark.parametrize("part", [0.3, 0.55, 0.9, 0.999])
def test_logs_that_were_cut_off_give_whole_values_only(whole, copied, part):
    histories = []
    for gone in (["json", "checkpoints", "tensorboard"], ["json", "checkpoints", "csv"]):
        full, cropped = copied(whole[0], f"full{len(histories)}"), copied(whole[0], f"cut{len(histories)}")
        for folder in (full, cropped):
            without(folder, *gone)
        path = cropped / "metrics.csv" if "csv" not in gone else events(cropped)
        cut(path, part)
        all_of_it, some = (read_run_folder(folder).history for folder in (full, cropped))
        histories.append(some)
        assert 3 <= len(some) <= len(all_of_it)
        for name in some.tasks:
            assert some.series("precision", name) == all_of_it.series("precision", name)[: len(some)]


def test_when_everything_is_damaged_every_reason_is_given_in_one_line(whole, copied, capsys):
    folder = copied(whole[0])
    for path in folder.rglob("*"):
        if path.is_file():
            cut(path, 0.0)
    before = files(folder)
    assert report(folder) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "uncertainty_history.json: it is not whole (JSONDecodeError" in error
    assert f"step={STEPS}.ckpt: it is not whole" in error
    assert files(folder) == before


def test_a_checkpoint_with_objects_in_it_is_not_executed(whole, copied):
    folder = copied(whole[0])
    content = torch.load(checkpoint(folder), weights_only=True)

    torch.save({**content, "hyper_parameters": {"path": Harmful(folder / "harm")}}, folder / "checkpoints" / "z.ckpt")
    found = read_run_folder(without(folder, "json"))
    assert not (folder / "harm").exists()
    assert any("z.ckpt was passed over: it is not whole, or not plain enough" in note for note in found.notes)
    assert f"step={STEPS}.ckpt" in found.notes[0]


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_sharded_checkpoint_is_read_from_the_part_that_is_not(whole, copied):
    """Lightning's FSDP and ModelParallelStrategy write a folder, with all but weights and optimizers in meta.pt."""
    folder = without(copied(whole[0]), "json", "csv", "tensorboard")
    path = checkpoint(folder)
    content = torch.load(path, weights_only=True)
    path.unlink()
    path.mkdir()
    torch.save({key: value for key, value in content.items() if key != "state_dict"}, path / "meta.pt")
    found = read_run_folder(folder)
    assert same(found.history, whole[1])
    assert found.notes == [
        f"Read from the checkpoint checkpoints/step={STEPS}.ckpt.",
        "There is no uncertainty_history.json: the run was killed, has failed, still goes on, or had `report=False` or "
        f"no logger. Of what came after step {STEPS}, nothing is known.",
    ]


# ---------------------------------------------------------------------------------------------------- nothing there


def other_tool(folder):
    (folder / "metrics.csv").write_text("epoch,accuracy\n1,0.5\n")
    (folder / "train_history.json").write_text('{"loss": [1.0]}')
    torch.save({"model": torch.zeros(2)}, folder / "model.ckpt")


FOLDERS = {
    "empty": (files, "has no run in it"),
    "of another tool": (other_tool, "has nothing of lightning-uncertainty in what it has: "),
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
    for name, said in (("nowhere", "There is no folder"), ("notes.txt", "is a file. Pass the folder of a run")):
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
    shutil.move(folder / "at_the_end.html", folder / "uncertainty.html")
    assert "Gradients of" not in (folder / "uncertainty.html").read_text()
    assert report(folder) == 0
    assert "Gradients of" in (folder / "uncertainty.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_without_matplotlib_the_page_has_its_words_and_the_command(whole, copied):
    folder = copied(whole[0])
    assert report(folder) == 0
    shown = Page((folder / "uncertainty.html").read_text())
    assert shown.count("svg") == 0
    assert 'pip install "lightning-uncertainty[report]"' in shown.text


def test_without_tensorboard_event_files_are_passed_over_with_the_command(whole, copied, capsys, monkeypatch):
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "tensorboard" else found(name))
    assert report(without(copied(whole[0]), "json", "checkpoints", "csv")) == 2
    assert 'pip install "lightning-uncertainty[demo]"' in capsys.readouterr().err


def test_reading_imports_no_lightning(whole, copied):
    code = (
        "import sys; from lightning_uncertainty.cli import main; assert main(['report', sys.argv[1]]) == 0; "
        "print([name for name in ('lightning', 'pytorch_lightning', 'torchmetrics') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code, copied(whole[0])], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
    assert ran.stderr == ""


# ---------------------------------------------------------------------------------------------------- prefixes


@pytest.mark.usefixtures("undrawn")
def test_a_prefix_that_is_not_there_is_answered_with_those_that_are(tmp_path, capsys):
    train(tmp_path / "run", prefix="train/mtl")
    for gone in ([], ["json"], ["csv", "tensorboard"]):
        folder = Path(shutil.copytree(tmp_path / "run", tmp_path / f"without {len(gone)} {gone[:1]}"))
        (folder / "train_mtl.html").unlink()
        for path in folder.iterdir():
            kind = {".json": "json", ".csv": "csv"}.get(path.suffix, "tensorboard" if "tfevents" in path.name else "")
            if kind in gone:
                path.unlink()
        known = "train_mtl" if "csv" in gone else "train/mtl"
        assert report(folder) == 2
        error = capsys.readouterr().err
        assert f"nothing under the prefix 'uncertainty'. Found: '{known}'. Pass --prefix {known}." in error
        assert "Read from" in read_run_folder(folder, known).notes[0]
    assert report(folder, "--prefix", known) == 0
    Page((folder / "train_mtl.html").read_text())


# ---------------------------------------------------------------------------------------------------- several runs


def made_at(folder, hour):
    for path in folder.rglob("*"):
        os.utime(path, (3600 * hour, 3600 * hour))


@pytest.mark.usefixtures("undrawn")
def test_of_several_runs_the_newest_is_taken_and_the_others_are_named(whole, killed, copied, tmp_path, capsys):
    names = {"version_9": whole[0], "version_10": killed, "version_11": whole[0]}
    for hour, (name, source) in enumerate(names.items()):
        made_at(copied(source, f"lightning_logs/{name}"), hour)
    plain = tmp_path / "lightning_logs" / "version_12"
    plain.mkdir()
    (plain / "metrics.csv").write_text("step,train_loss\n0,1.0\n")
    assert report(tmp_path) == 0
    printed = capsys.readouterr().out
    assert (
        "Shown is the newest run with something to show, lightning_logs/version_11. For another one, pass its own "
        "folder: lightning_logs/version_10, lightning_logs/version_9."
    ) in printed
    assert "Tried before it, without anything to be read under 'uncertainty': lightning_logs/version_12." in printed
    assert (tmp_path / "uncertainty.html").exists()
    made_at(tmp_path / "lightning_logs" / "version_10", 10)
    assert read_run_folder(tmp_path).title == "Uncertainty weighting: version_10"
    for name in names:  # as after a copy: then the last by name
        made_at(tmp_path / "lightning_logs" / name, 1)
    assert read_run_folder(tmp_path).title == "Uncertainty weighting: version_11"


def test_a_newer_run_that_is_damaged_is_passed_over_with_its_reason(whole, copied, tmp_path):
    made_at(copied(whole[0], "version_0"), 1)
    damaged = without(copied(whole[0], "version_1"), "csv", "tensorboard", "checkpoints")
    cut(damaged / "uncertainty_history.json")
    notes = read_run_folder(tmp_path).notes
    assert notes[0] == "Shown is the newest run with something to show, version_0."
    assert notes[1] == "Tried before it, without anything to be read under 'uncertainty': version_1."
    assert notes[2] == "Read from version_0/uncertainty_history.json."
    assert "version_1/uncertainty_history.json was passed over: it is not whole (JSONDecodeError" in notes[3]


def test_a_checkpoint_that_lies_elsewhere_is_found_by_its_weights(killed, copied, tmp_path):
    """As with ModelCheckpoint(dirpath=...): the newer checkpoint of another run is not taken for its own."""
    log = copied(killed, "logs/version_0")
    shutil.rmtree(log / "checkpoints")
    own = copied(killed / "checkpoints", "models/mine")
    other = tmp_path / "models" / "others"
    train(tmp_path / "another", module=Otherwise())
    shutil.move(tmp_path / "another" / "checkpoints", other)
    shutil.rmtree(tmp_path / "another")
    shutil.copy(checkpoint(killed), other / "damaged.ckpt")
    cut(other / "damaged.ckpt")
    for hour, folder in enumerate((own, other, log)):
        made_at(folder, hour)
    found = read_run_folder(tmp_path)
    assert f"models/mine/step={SAVED_AT}.ckpt up to step {SAVED_AT}" in next(
        note for note in found.notes if "Read from" in note
    )
    assert not any("passed over" in note for note in found.notes)  # what is damaged is of another run
    assert found.history.facts["a"].absent == 0


class Otherwise(report_runs.Shared):
    def losses(self, batch):
        return {name: 2.0 * loss for name, loss in super().losses(batch).items()}


# ---------------------------------------------------------------------------------------------------- comparisons


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison, and its result."""
    folder = tmp_path_factory.mktemp("compared") / "comparison"
    options = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 2}
    return folder, compare(
        Net, serve, metrics={"val/a": "min", "val/b": "min"}, seeds=(0, 1), trainer=options, folder=folder
    )


def test_a_comparison_shows_its_table_its_sentence_and_a_learned_run(compared, copied, capsys):
    folder, result = copied(compared[0], "comparison"), compared[1]
    assert report(folder) == 0
    shown = Page((folder / "uncertainty.html").read_text())
    assert shown.titles[0] == "Does it help?"
    for sentence in result.sentences:
        assert sentence in shown.text
        assert sentence in capsys.readouterr().out
    for row in rows(result):
        assert all(cell in shown.words for cell in row if cell)
    assert "Shown is the newest run of the arm 'learned' with something to show, learned-seed" in shown.text
    assert "comparison, learned, seed" in shown.text
    assert shown.text.count("learned-seed") == 3  # the folder of the one, and of the other, and the file
    assert "equal-seed" not in shown.text
    assert shown.count("svg") == 4


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_that_was_killed_shows_what_has_finished(compared, copied, capsys):
    folder = copied(compared[0], "comparison")
    for path in (folder / "comparison.md", folder / "comparison.csv", *folder.glob("learned-seed1-*/run.json")):
        path.unlink()
    assert report(folder) == 0
    notes = "The comparison has not come to its end: these are the runs that have finished (3), without gains"
    assert notes in (printed := capsys.readouterr().out)
    assert "Not finished: learned, seed 1." in printed
    shown = Page((folder / "uncertainty.html").read_text())
    assert notes in shown.text
    runs = [f"{arm}, seed {seed}" for seed, arm in ((0, "equal"), (0, "learned"), (1, "equal"))]
    assert [word for word in shown.words if word in runs] == runs
    for run in compared[1].runs:
        assert (f"{run.metrics['val/a']:.4g}" in shown.words) == ((run.arm, run.seed) != ("learned", 1))


def test_the_table_of_a_comparison_comes_back_from_its_file(tmp_path):
    """With bars in names, an interval that is not there, and an arm that is the baseline."""
    metrics = {"val/a|b": "min", "|": "max"}
    runs = [
        FinishedRun(arm, 0, {"val/a|b": 2.0 + k, "|": 1.0}, 1.0, {}, {}) for k, arm in enumerate(("equal", "learned"))
    ]
    result = ComparisonResult(metrics, ["equal", "learned"], [0], runs)
    (tmp_path / "comparison.md").write_text(result.to_markdown(), encoding="utf-8")
    table = read_comparison(tmp_path)
    assert table.rows == rows(result)
    assert table.sentences == result.sentences
    assert table.notes == []
    cut(tmp_path / "comparison.md", 0.99)
    assert read_comparison(tmp_path).notes == [
        "comparison.md is not whole: these are the runs that have finished (0), without gains and intervals."
    ]


def test_runs_that_finished_after_the_table_was_written_are_counted(compared, copied):
    folder = copied(compared[0], "comparison")
    os.utime(folder / "comparison.md", (0, 0))
    (begun := folder / "learned-seed7-0123456789abcdef").mkdir()
    assert read_comparison(folder).notes == [
        "Not finished: learned, seed 7.",
        "The table is that of an earlier comparison; runs that have finished since: 4.",
    ]
    (begun / "run.json").write_text('{"arm": "lear')
    assert read_comparison(folder).notes[0] == "Not finished: learned, seed 7."


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_without_a_history_yet_shows_its_runs(compared, copied, capsys):
    folder = copied(compared[0], "comparison")
    for run in list(folder.glob("*-seed*")):
        if not run.name.startswith("equal-seed0"):
            shutil.rmtree(run)
    shutil.rmtree(next(folder.glob("equal-seed0*/logs")))
    (folder / "comparison.md").write_bytes((folder / "comparison.md").read_bytes()[:100])
    assert report(folder) == 0
    printed = capsys.readouterr().out
    assert "comparison.md is not whole: these are the runs that have finished (1)" in printed
    assert "No run has left a history yet." in printed
    shown = Page((folder / "uncertainty.html").read_text())
    assert shown.titles == ["Does it help?"]


def test_one_run_of_a_comparison_is_a_run_like_any_other(compared, copied):
    folder = copied(next(compared[0].glob("learned-seed0-*")), "learned-seed0-0123456789abcdef")
    found = read_run_folder(folder)
    assert found.comparison is None
    assert "Read from logs/uncertainty_history.json." in found.notes


# ---------------------------------------------------------------------------------------------------- in a browser


@needs_chromium
def test_chromium_opens_the_page_of_a_run(whole, copied):
    folder = copied(whole[0])
    assert report(folder) == 0
    seen = look(folder / "uncertainty.html", height=3000)
    assert seen.complaints == []
    assert seen.picture.shape == (3000, DESKTOP, 3)
    assert seen.dom.count("<svg") == 8
    assert all(f"<h2>{title}</h2>" in seen.dom for title in SECTIONS)


@needs_chromium
@pytest.mark.parametrize("count", [3, 30, 300])
def test_on_a_phone_and_on_a_desktop_in_light_and_in_dark_everything_has_its_place(tmp_path, compared, count):
    text = build_page(
        History.of(weights_of(120, named(count))),
        title="A run",
        notes=["A note with `code`, and a_name_that_is_rather_long/and_has/no_space_to_break_it/in_it.json."],
        gradients={"of encoder": gradients_of(count)},
        comparison=read_comparison(compared[0]),
    )
    seen, left = look_through_frames(text, tmp_path), 0
    assert seen.complaints == []
    for measured, (width, scheme) in zip(seen.measured, FRAMES, strict=True):
        paper = {"light": (255, 255, 255), "dark": (0x16, 0x18, 0x1D)}[scheme]
        assert measured["background"] == f"rgb{paper}"
        assert measured["room"] == measured["needed"] == width  # nothing to scroll to the side
        assert measured["loaded"] == []
        assert len(measured["figures"]) == 8
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
    seen = look_through_frames(build_page(History.of(weights_of(120, names)), title="A run"), tmp_path)
    for measured, (width, _) in zip(seen.measured, FRAMES, strict=True):
        assert measured["room"] == measured["needed"] == width
        assert all(0 <= start < end <= width for start, end, _ in measured["texts"])
        assert all(room == needed for room, needed in measured["tables"])


@needs_chromium
def test_what_a_browser_complains_about_and_what_is_too_wide_is_seen(tmp_path):
    text = (
        '<!DOCTYPE html><p style="width: 2000px">wide</p><svg><path d="nonsense"/></svg><img src="http://a.invalid/b">'
    )
    seen = look_through_frames(text, tmp_path)
    assert any("attribute d: Expected moveto path command" in line for line in seen.complaints)
    assert [measured["needed"] > measured["room"] for measured in seen.measured] == [True] * 4
    assert seen.measured[0]["loaded"] == ["http://a.invalid/b"]
