"""What loggers stored of a run, read back from their own files; of those that are not in dev, what they were given."""

import json
import re
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from matplotlib.image import imread

from tests.models import fit
from tests.paper import UncertaintyCallback
from tests.workers.processes import ROOT

pytestmark = pytest.mark.usefixtures("empty_pictures")

EVERY = 8


def logged(callback):
    """By key and step of the logger, the weights that the history has."""
    points = [index for index, step in enumerate(callback.history.steps) if step % EVERY == 0]
    steps = [callback.history.steps[index] - 1 for index in points]
    rows = {name: callback.history.series("precision", name) for name in callback.history.tasks}
    return {f"uncertainty/weight/{n}": dict(zip(steps, (r[i] for i in points), strict=True)) for n, r in rows.items()}


def is_overview(path):
    return imread(path).shape[:2] == (946, 1430)


def records(content):
    """Those of a ``.wandb`` file: LevelDB's log format after a header of 7 bytes, in blocks of 32 KiB."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # no room for another header: padding
            place += 32768 - place % 32768
            continue
        size, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_mlflow_stores_weights_and_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # it asks for a database, and a folder is enough here
    logger, callback = MLFlowLogger(tracking_uri=f"file:{tmp_path / 'mlruns'}"), UncertaintyCallback()
    fit(tmp_path, callback=callback, logger=logger, log_every_n_steps=EVERY)
    client, run = logger.experiment, logger.run_id
    for key, expected in logged(callback).items():
        stored = {metric.step: metric.value for metric in client.get_metric_history(run, key)}
        assert stored == pytest.approx(expected)
    assert "uncertainty/loss_sum" in client.get_run(run).data.metrics
    (artifact,) = client.list_artifacts(run, "uncertainty")
    assert artifact.path == "uncertainty/uncertainty.png"
    assert is_overview(client.download_artifacts(run, artifact.path, tmp_path))
    assert len(list(tmp_path.rglob("uncertainty.html"))) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_what_no_folder_of_mlflow_keeps_is_among_its_artifacts(tmp_path, monkeypatch, capsys):
    class WithDatabase(MLFlowLogger):
        save_dir = None  # as with a database or a server

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger, callback = WithDatabase(tracking_uri=f"file:{tmp_path / 'mlruns'}"), UncertaintyCallback(log_prefix="x/y")
    fit(tmp_path, callback=callback, logger=logger)
    artifacts = [Path(each.path) for each in logger.experiment.list_artifacts(logger.run_id, "x/y")]
    assert [path.name for path in artifacts] == ["x_y.html", "x_y.png", "x_y_history.json"]
    (page,) = tmp_path.rglob("x_y.html")
    assert page.parent.parts[-3:] == ("artifacts", "x", "y")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"x_y.html is among the artifacts of the MLflow run {logger.run_id}."


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
def test_wandb_stores_weights_and_picture(tmp_path, monkeypatch):
    import wandb
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger, callback = WandbLogger(save_dir=tmp_path, project="p", offline=True), UncertaintyCallback()
    fit(tmp_path, callback=callback, logger=logger, log_every_n_steps=EVERY)
    wandb.finish()
    wandb.teardown()  # the process beside ours writes the rest of its file when it ends
    (file,) = tmp_path.rglob("*.wandb")
    rows = []
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    for key, expected in logged(callback).items():
        stored = {row["trainer/global_step"]: row[key] for row in rows if key in row}
        assert stored == pytest.approx(expected)
    assert any(key.startswith("uncertainty/overview") for row in rows for key in row)
    (image,) = [path for path in tmp_path.rglob("*.png") if "media" in path.parts]
    assert is_overview(image)
    assert len(list(tmp_path.rglob("uncertainty.html"))) == 1


class Notes:
    """An experiment that notes what its methods were given; of a picture, whether it is ours."""

    def __init__(self, folder):
        self.given, self.dir = [], folder

    def note(self, *args, **options):
        self.given += [is_overview(each) if Path(str(each)).is_file() else each for each in (*args, *options.values())]

    log_image = track = note

    def __getitem__(self, key):
        return SimpleNamespace(upload=lambda path: self.note(key, path))


KEY = "uncertainty/overview"
LOGGERS = {  # by class: what it is given, and where our files go
    "CometLogger": ([True, KEY, 48], "logs/p/v1"),
    "DVCLiveLogger": ([f"{KEY}.png", True], "live"),
    "AimLogger": ([True, KEY, 48], "logs/p/v1"),
    "NeptuneLogger": ([KEY, True], "logs/p/v1"),
    "SwanLabLogger": ([KEY, True, 48], "logs/p/v1"),
    "OneOfYours": ([KEY, True, 48], "logs/p/v1"),
}


@pytest.mark.parametrize("name", LOGGERS)
def test_those_that_are_not_installed_here_get_the_picture_and_our_files_lie_beside_theirs(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "aim", SimpleNamespace(Image=str))
    notes, root = Notes(tmp_path / "live"), str(tmp_path / "logs")
    members = {"name": "p", "version": "v1", "save_dir": root, "experiment": notes}
    if name in ("SwanLabLogger", "OneOfYours"):
        members["log_image"] = lambda _, key, images, step: notes.note(key, *images, step)
    if name == "SwanLabLogger":
        members["log_dir"] = root  # which all its runs share
    if name == "DVCLiveLogger":
        members["save_dir"] = None
    fit(tmp_path, logger=type(name, (DummyLogger,), members)())
    given, folder = LOGGERS[name]
    assert notes.given == given
    assert [path.parent for path in tmp_path.rglob("uncertainty.html")] == [tmp_path / folder]


def test_swanlab_in_the_working_directory_gives_each_run_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    members = {"name": "p", "version": "v1", "save_dir": ".", "log_dir": "."}
    fit(tmp_path, logger=type("SwanLabLogger", (DummyLogger,), members)())
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")] == ["p/v1/uncertainty.html"]


def test_the_logger_for_trackio_on_the_page_logs_numbers_and_the_picture(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "loggers.md").read_text(), flags=re.DOTALL)
    rows, ended = [], []
    run = SimpleNamespace(
        name="calm-1", log=lambda row, step: rows.append((step, row)), finish=lambda: ended.append(True)
    )
    trackio = SimpleNamespace(init=lambda **_: run, Image=is_overview)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    names = {}
    exec(code, names)
    callback, folder = UncertaintyCallback(), tmp_path / "logs"
    fit(tmp_path, callback=callback, logger=names["TrackioLogger"]("p", folder), log_every_n_steps=EVERY)
    for key, expected in logged(callback).items():
        assert {step: row[key] for step, row in rows if key in row} == pytest.approx(expected)
    assert rows[-1] == (48, {KEY: True})
    assert ended == [True]
    assert (folder / "p" / "calm-1" / "uncertainty.html").is_file()
