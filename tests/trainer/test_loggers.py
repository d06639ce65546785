"""W&B without its server and MLflow with a folder: what they stored of a run, read back from their own files."""

import json
import struct

import pytest
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from matplotlib.image import imread

from tests.models import fit
from tests.paper import UncertaintyCallback

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
