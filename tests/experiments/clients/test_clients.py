import json
from pathlib import Path

import lightning as L
import pytest
import torch

from experiments.clients import __main__ as runner
from experiments.clients.client import Client, quiet_trainer, reloaded
from experiments.clients.results import Run, results_table
from lightning_uncertainty import UncertaintyCallback

FOLDER = Path(runner.__file__).parent
REQUIRED = (FOLDER / "requirements.txt").read_text(encoding="utf-8")
MAKEFILE = (FOLDER.parents[1] / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", runner.CLIENTS)
def test_a_client_can_be_looked_at_without_its_library(name):
    client = runner.load(name)
    assert client.metrics
    for arm in client.learned.values():
        assert arm().tasks


@pytest.mark.parametrize("name", runner.CLIENTS)
def test_the_committed_page_has_every_arm_and_metric_of_a_client(name):
    client = runner.load(name)
    lines = [line.split(" | ") for line in runner.RESULTS.read_text(encoding="utf-8").splitlines()]
    rows = [(row[1], row[2][:-2], row[3]) for row in lines if row[0] == f"| {name}"]
    assert rows == [(client.package, metric, arm) for arm in client.learned for metric in client.metrics]


def test_the_environment_has_every_library_and_no_other_torch():
    packages = [line.partition("==")[0] for line in REQUIRED.splitlines() if not line.startswith("#")]
    assert {runner.load(name).package for name in runner.CLIENTS} <= {*packages, "matcha-tts"}
    assert "no-build-isolation matcha-tts==" in MAKEFILE
    assert not {"torch", "torchvision", "torchaudio"} & {*packages}


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def losses(self, batch):
        near, far = (self.layer(batch) - batch[:, :2]).square().mean(0)
        return {"near": near, "far": far}

    def training_step(self, batch):
        return sum(self.losses(batch).values())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)


def train_net(callbacks, folder):
    trainer = quiet_trainer(callbacks, max_epochs=2)
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.randn(32, 3), batch_size=8))
    net = reloaded(trainer, Net, folder)
    return {"error": float(sum(net.losses(torch.eye(3)).values())), "steps": float(trainer.global_step)}


@pytest.fixture
def toys(tmp_path, monkeypatch):
    client = Client(
        "Toys",
        "torch",
        {"error": "min", "steps": "max"},
        lambda _seed, callbacks: train_net(callbacks, tmp_path),
        {"learned": lambda: UncertaintyCallback({"near": "gaussian", "far": "gaussian"}, losses_from="losses")},
    )
    monkeypatch.setattr(runner, "CLIENTS", {"toys": "any:thing", "others": "any:thing"})
    monkeypatch.setattr(runner, "load", lambda _: client)
    monkeypatch.setattr(runner, "OUTPUT", tmp_path / "output")
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "RESULTS.md")
    return tmp_path


def test_all_arms_are_trained_with_the_same_seeds_and_compared_by_them(toys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert runner.main(["toys", "--seeds", "2"]) == 0
    runs = [Run(**run) for run in json.loads((toys / "output" / "toys.json").read_text())]
    assert [(run.arm, run.seed) for run in runs] == [("plain", 0), ("learned", 0), ("plain", 1), ("learned", 1)]
    assert len({run.metrics["error"] for run in runs}) == 4
    page = (toys / "RESULTS.md").read_text(encoding="utf-8")
    assert "over 2 seeds" in page
    assert "| toys | torch | steps ↑ | learned | 8 ± 0 | 8 ± 0 | +0.0 (+0.0 to +0.0) | cannot tell |" in page
    assert "others" not in page


def test_an_unknown_client_is_told_with_the_known_ones(toys, capsys):
    assert runner.main(["toy"]) == 2
    assert "['toys', 'others']" in capsys.readouterr().err
    assert not (toys / "output").exists()


@pytest.mark.parametrize(
    ("values", "verdict"), [((2.0, 2.1, 2.2), "better"), ((4.0, 4.1, 4.2), "worse"), ((2.0, 5.0, 3.0), "cannot tell")]
)
def test_a_verdict_needs_an_interval_without_zero(values, verdict):
    client = Client("Toys", "torch", {"error": "min"}, lambda *_: {}, {})
    runs = [Run("plain", seed, {"error": 3.0}, 1.0) for seed in range(3)]
    runs += [Run("learned", seed, {"error": value}, 1.0) for seed, value in enumerate(values)]
    assert results_table({"toys": (client, runs)}).rows[0][-2] == verdict
