"""The command, for configurations of LightningCLI in both packages."""

import json
import sys

import pytest
import yaml

import lightning_uncertainty._arguments as extras
from lightning_uncertainty import __main__ as cli

MODULE = """
import {package} as L
import torch
from lightning_uncertainty import UncertaintyMixin
from tests.models import Plain
from tests.comparison.test_study import serve


class Net({mixin}L.LightningModule):
    losses, configure_optimizers = Plain.losses, Plain.configure_optimizers

    def __init__(self, tasks: dict, lr: float = 0.05):
        super().__init__()
        self.tasks, self.lr, self.net = tasks, lr, torch.nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        return self.weigh(losses) if hasattr(self, "weigh") else sum(losses.values())

    def validation_step(self, batch, batch_idx):
        for name, loss in self.losses(batch).items():
            self.log(f"val/{{name}}", loss)


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return serve()["train"]

    def val_dataloader(self):
        return serve()["val"]
"""
TRAINER = {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 4}


@pytest.fixture(autouse=True)
def _as_in_a_shell(monkeypatch, tmp_path):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def project(monkeypatch, tmp_path):
    """Writes a project as a user has it: a file with the classes, and a configuration."""

    def write(package="lightning.pytorch", mixin="UncertaintyMixin, ", named=True, **changes):
        name = f"project_{package.split('.')[0]}_{bool(mixin)}"
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(MODULE.format(package=package, mixin=mixin))
        model, data = {"tasks": {"a": "gaussian", "b": "laplace"}}, {}
        if named:
            model = {"class_path": f"{name}.Net", "init_args": model}
            data = {"class_path": f"{name}.Data"}
        content = {"seed_everything": 7, "ckpt_path": None, "model": model, "data": data, "trainer": TRAINER, **changes}
        content = {key: value for key, value in content.items() if value != "left out"}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        return name

    return write


def compare(*arguments, seeds=("--seeds", "0", "1")):
    return cli.main(["compare", "--config", "config.yaml", *seeds, *arguments])


BOTH = ("--metric", "val/a:min", "--metric", "val/b:min")


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_a_configuration_is_trained_with_equal_and_learned_and_given_weights(project, package, capsys, tmp_path):
    project(package)
    assert compare(*BOTH, "--fixed", "mine:a=0.1,b=2", "--set", "trainer.max_epochs=2") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "learned against equal, 2 seeds" in shown
    assert "mine against equal, 2 seeds" in shown
    runs = sorted(path.parts[-2].rsplit("-", 1)[0] for path in tmp_path.glob("comparison/*/run.json"))
    assert runs == [f"{arm}-seed{seed}" for arm in ("equal", "learned", "mine") for seed in (0, 1)]
    assert len(list(tmp_path.glob("comparison/*/logs/metrics.csv"))) == 6
    assert not list(tmp_path.glob("lightning_logs"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("comparison/*/run.json")}
    assert compare(*BOTH, "--set", "trainer.max_epochs=2", seeds=("--seeds", "1,0")) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("comparison/*/run.json")} == before


@pytest.mark.usefixtures("forked_workers")
def test_arms_and_workers_of_the_command_line(project, capsys, tmp_path):
    project()
    arms = ("--arm", "fast:lr=0.5,warmup=equal,freeze_after=null", "--arm", "learned:init=1")
    assert compare(*BOTH, *arms, "--workers", "2", seeds=("--seeds", "0")) == 0
    assert "fast against equal, 1 seed" in " ".join(capsys.readouterr().out.split())
    options = {}
    for path in tmp_path.glob("comparison/*/run.json"):
        content = json.loads(path.read_text())
        options[content["arm"]] = content["definition"]["options"]
    fast = {"lr": 0.5, "warmup": "equal", "freeze_after": None}
    assert options == {"equal": {}, "fast": fast, "learned": {"init": 1}}


CHANGES = {
    "data": ('return serve()["train"]', 'return serve(size=6)["train"]'),
    "callback": ("CALLS = 1", "CALLS = 2"),
    "helper": ("return losses.items()", "return reversed(losses.items())"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_code_of_whatever_the_configuration_names_is_run_anew(project, capsys, tmp_path, monkeypatch, change):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two edits within a second have the same date
    name = project(trainer={**TRAINER, "callbacks": [{"class_path": "project_lightning_True.Watch"}]})
    more = """

CALLS = 1

class Watch(L.Callback):
    def on_fit_end(self, trainer, pl_module):
        pl_module.calls = CALLS


def pairs(losses):
    return losses.items()
"""
    file = tmp_path / f"{name}.py"
    text = file.read_text().replace("in self.losses(batch).items()", "in pairs(self.losses(batch))") + more
    old, new = CHANGES[change]
    for content, said in ((text, "All 2 runs are new"), (text, "2 of 2 runs"), (text.replace(old, new), "All 2 runs")):
        file.write_text(content)
        monkeypatch.delitem(sys.modules, name, raising=False)
        assert compare("--metric", "val/a:min", seeds=("--seeds", "0")) == 0
        assert said in " ".join(capsys.readouterr().out.split())


def test_the_weights_that_a_callback_of_the_configuration_learns_are_compared(project, capsys, tmp_path):
    callback = {"class_path": "lightning_uncertainty.UncertaintyCallback", "init_args": {"lr": 0.5, "log_prefix": "u"}}
    bar = {"class_path": "lightning.pytorch.callbacks.TQDMProgressBar"}
    project(trainer={**TRAINER, "callbacks": [bar, callback]})
    assert compare(*BOTH, seeds=("--seeds", "0")) == 0
    assert "One seed shows no noise" in " ".join(capsys.readouterr().out.split())
    for log in tmp_path.glob("comparison/*/logs/metrics.csv"):
        assert "u/weight/a" in log.read_text()


def test_a_configuration_for_a_command_line_with_classes_of_its_own_is_used_by_their_names(project, capsys):
    name = project(named=False)
    assert compare(*BOTH, seeds=("--seeds", "0")) == 2
    assert "--model my_package.Net --data my_package.Data" in capsys.readouterr().err
    assert compare(*BOTH, "--model", f"{name}.Net", "--data", f"{name}.Data", seeds=("--seeds", "0")) == 0


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({}, ["--metric", "val/c:min"], "? Known: 'val/a', 'val/b'."),
        ({}, ["config.yaml", *BOTH], "the configuration is `--config`"),
        ({}, ["--metric", "val/a"], "--metric must be a name and a direction"),
        ({}, [*BOTH, "--seeds", "one"], "--seeds must be whole numbers"),
        ({}, [*BOTH, "--fixed", "mine:a"], "--fixed must be a name and a number for each task"),
        ({}, [*BOTH, "--fixed", "mine:a=1"], "say nothing of 'b'"),
        ({}, [*BOTH, "--fixed", "mine:a=much,b=1"], "--fixed must be a name and a number for each task"),
        ({}, [*BOTH, "--arm", "fast:lr"], "--arm must be a name and options of the callback"),
        ({}, [*BOTH, "--arm", "fast:lr=-1"], "The options of the arm 'fast' cannot be used"),
        ({}, [*BOTH, "--workers", "0"], "workers must be a whole number of at least 1; got 0"),
        ({}, [*BOTH, "--set", "trainer.epochs=3"], "config.yaml cannot be used"),
        ({}, [*BOTH, "--evaluate", "fit"], "evaluate must be one of 'validate', 'test'; got 'fit'"),
        ({"mixin": ""}, BOTH, "needs the losses by name"),
        ({"data": "left out"}, BOTH, "no data for 'train'"),
        ({"model": "left out"}, BOTH, "does not say which module to train"),
        ({"model": {"class_path": "nowhere.Net"}}, BOTH, "'nowhere.Net', cannot be imported"),
        ({"fit": {}}, BOTH, "settings under `fit:`"),
        ({"ckpt_path": "last.ckpt"}, BOTH, "each run is to start anew"),
        ({"trainer": {"epochs": 1}}, BOTH, "config.yaml cannot be used"),
    ],
    ids=[
        "unknown metric", "no option", "no direction", "no seed", "no weight", "a weight missing", "no number",
        "no value", "wrong option", "no worker", "unknown override",
        "no evaluation", "no mixin", "no data", "no model", "no such class", "under fit", "checkpoint",
        "unknown option",
    ],
)  # fmt: skip
def test_what_cannot_be_compared_gets_one_line_and_exit_code_2(project, capsys, tmp_path, changes, arguments, said):
    project(**changes)
    assert compare(*arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "comparison").exists()


def test_a_module_without_tasks_is_told_what_to_write(project, capsys):
    name = project()
    path = f"{name}.py"
    with open(path) as file:
        text = file.read().replace("self.tasks, self.lr", "_, self.lr")
    with open(path, "w") as file:
        file.write(text)
    assert compare(*BOTH) == 2
    assert "Net has no tasks" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "a: [", "just words"], ids=["empty", "no YAML", "no mapping"])
def test_a_file_that_is_no_configuration_gets_one_line(content, capsys, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    assert compare(*BOTH) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_file_gets_one_line(capsys):
    assert compare(*BOTH) == 2
    assert "config.yaml" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


def test_an_error_inside_the_module_keeps_its_traceback(project, tmp_path):
    name = project()
    path = tmp_path / f"{name}.py"
    path.write_text(path.read_text().replace("losses = self.losses(batch)", 'raise ValueError("mine")'))
    with pytest.raises(ValueError, match="mine"):
        compare(*BOTH)


@pytest.mark.parametrize("package", ["jsonargparse", "rich", "scipy"])
def test_a_missing_package_gets_one_line_with_the_command_that_installs_it(project, package, capsys, monkeypatch):
    project()
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == package else found(name))
    assert compare(*BOTH) == 2
    error = capsys.readouterr().err
    assert 'pip install "lightning-uncertainty[compare]"' in error
    assert repr(package) in error
    assert error.count("\n") == 1
