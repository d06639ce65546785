"""W&B without its server and MLflow with a folder: what they stored of a run, read back from their own files."""

import json

import pytest
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from matplotlib.image import imread

from lightning_uncertainty import UncertaintyCallback
from tests.models import fit

EVERY = 8


def logged(callback):
    """By key and step of the logger, the weights that the history has."""
    points = [index for index, step in enumerate(callback.history.steps) if step % EVERY == 0]
    steps = [callback.history.steps[index] - 1 for index in points]
    rows = {name: callback.history.series("weight", name) for name in callback.history.tasks}
    return {f"uncertainty/weight/{n}": dict(zip(steps, (r[i] for i in points), strict=True)) for n, r in rows.items()}


def is_overview(path):
    return imread(path).shape[:2] == (946, 1430)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_mlflow_stores_weights_and_picture(tmp_path):
    logger, callback = MLFlowLogger(tracking_uri=f"file:{tmp_path / 'mlruns'}"), UncertaintyCallback()
    fit(tmp_path, callback=callback, logger=logger, log_every_n_steps=EVERY)
    client, run = logger.experiment, logger.run_id
    for key, expected in logged(callback).items():
        stored = {metric.step: metric.value for metric in client.get_metric_history(run, key)}
        assert stored == pytest.approx(expected)
    (artifact,) = client.list_artifacts(run, "uncertainty")
    assert artifact.path == "uncertainty/uncertainty.png"
    assert is_overview(client.download_artifacts(run, artifact.path, tmp_path))
    assert len(list(tmp_path.rglob("uncertainty.html"))) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
def test_wandb_stores_weights_and_picture(tmp_path, monkeypatch):
    import wandb
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger, callback = WandbLogger(save_dir=tmp_path, project="p", offline=True), UncertaintyCallback()
    fit(tmp_path, callback=callback, logger=logger, log_every_n_steps=EVERY)
    wandb.finish()
    (file,) = tmp_path.rglob("*.wandb")
    store, rows = DataStore(), []
    store.open_for_scan(str(file))
    while (data := store.scan_data()) is not None:
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
