"""LightningCLI with a YAML file, in both packages."""

import sys
from importlib import import_module

import pytest
import torch
import yaml

from lightning_uncertainty import UncertaintyMixin
from tests.models import Plain, batches
from tests.trainer.test_matrix import difference


@pytest.fixture(autouse=True)
def _no_word_of_jsonargparse_to_lightning(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


TASKS = """
depth: {likelihood: laplace, init: 0.0}
normals: gaussian
aux: 0.1
"""


def config(in_callback=True, **options):
    tasks = yaml.safe_load(TASKS)
    init_args = {**({"tasks": tasks} if in_callback else {}), **options}
    return {
        "seed_everything": False,
        "model": {} if in_callback else {"tasks": tasks},
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "lightning_uncertainty.UncertaintyCallback", "init_args": init_args}],
        },
    }


def run(*arguments):
    """The engine, after :func:`train`."""
    return train(*arguments).uncertainty


def train(tmp_path, package, content, *arguments):
    """Train as `python train.py fit --config config.yaml ...` would; returns the module."""
    cli = import_module(f"{package}.cli")
    package = import_module(package)

    class Net(UncertaintyMixin, package.LightningModule):
        losses, configure_optimizers = Plain.losses, Plain.configure_optimizers

        def __init__(self, tasks: dict | None = None):
            super().__init__()
            if tasks is not None:
                self.tasks = tasks
            self.net, self.lr = torch.nn.Linear(4, 2), 0.05

        def training_step(self, batch, batch_idx):
            losses = self.losses(batch)
            return self.weigh({"depth": losses["a"], "normals": losses["b"], "aux": losses["a"]})

    class Data(package.LightningDataModule):
        def train_dataloader(self):
            return batches(4)

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", "fit", "--config", str(path), *arguments])
        return cli.LightningCLI(Net, Data, save_config_callback=None).model


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("in_callback", [True, False], ids=["tasks of the callback", "tasks of the module"])
def test_a_yaml_file_says_it_all(tmp_path, package, in_callback):
    weighting = run(tmp_path, package, config(in_callback, lr=0.0, freeze_after=3))
    assert weighting.steps == 4
    assert [task.likelihood.name for task in weighting.tasks.values()] == ["laplace", "gaussian", "fixed"]
    assert weighting.log_vars["depth"] == 0.0
    assert weighting.log_vars["normals"] != 0.0  # from the data
    assert weighting.weights["aux"] == pytest.approx(0.1)


FIXED = {"class_path": "lightning_uncertainty.strategies.Fixed", "init_args": {"factors": {"depth": 3.0}}}


@pytest.mark.parametrize(
    ("strategy", "weights"),
    [("fixed", {"depth": 1.0, "normals": 1.0, "aux": 0.1}), (FIXED, {"depth": 3.0, "normals": 1.0, "aux": 0.1})],
    ids=["by name", "by class"],
)
def test_a_strategy_can_be_named_or_built(tmp_path, strategy, weights):
    weighting = run(tmp_path, PACKAGES[0], config(strategy=strategy))
    assert weighting.weights == pytest.approx(weights)
    assert weighting.steps == 4


@pytest.mark.parametrize("package", PACKAGES)
def test_print_config_shows_every_option_and_can_be_read_back(tmp_path, capsys, package):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, package, config(), "--print_config")
    assert stop.value.code in (0, None)
    printed = yaml.safe_load(capsys.readouterr().out)
    (callback,) = printed["trainer"]["callbacks"]
    assert callback["init_args"]["tasks"] == yaml.safe_load(TASKS)
    assert callback["init_args"]["min_variance_ratio"] == 1e-4
    assert callback["init_args"]["init"] == "auto"
    assert run(tmp_path, package, printed).steps == 4


@pytest.mark.parametrize(
    "options",
    [{"learning_rate": 0.1}, {"lr": "fast"}],
    ids=["unknown option", "not a number"],
)
def test_a_wrong_option_is_refused_by_its_name(tmp_path, capsys, options):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, PACKAGES[0], config(**options))
    assert stop.value.code == 2
    (name,) = options
    assert name in capsys.readouterr().err


def test_an_option_can_be_set_on_the_command_line(tmp_path):
    options = ("--trainer.callbacks.warmup_steps=4", "--trainer.callbacks.init=0.5")
    assert run(tmp_path, PACKAGES[0], config(), *options).log_vars["normals"] == 0.5


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("package", PACKAGES)
def test_fit_with_ckpt_path_resumes_bit_for_bit(tmp_path, package):
    """From the middle of the second of three epochs."""
    content = config()
    content["trainer"].update(max_epochs=3)
    saver = {
        "class_path": f"{package}.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": str(tmp_path), "filename": "{step}", "every_n_train_steps": 6, "save_top_k": -1},
    }
    saving = {**content, "trainer": {**content["trainer"], "enable_checkpointing": True}}
    saving["trainer"]["callbacks"] = [*content["trainer"]["callbacks"], saver]
    whole = train(tmp_path, package, saving)
    rest = train(tmp_path, package, content, f"--ckpt_path={tmp_path / 'step=6.ckpt'}")
    assert whole.trainer.global_step == rest.trainer.global_step == whole.uncertainty.steps == 12
    assert difference(dict(whole.state_dict()), dict(rest.state_dict())) is None
    assert difference(whole.uncertainty.state_dict(), rest.uncertainty.state_dict()) is None
    optimizers = (module.trainer.optimizers[0].state_dict() for module in (whole, rest))
    assert difference(*optimizers) is None
    saved = torch.load(tmp_path / "step=6.ckpt", weights_only=True)["lightning_uncertainty"]
    assert saved["steps"] == 6
    assert difference(saved, rest.uncertainty.state_dict()) is not None


@pytest.mark.parametrize(
    ("written", "name", "temperature"),
    [
        ("log_sum", "log_sum", None),
        ({"class_path": "lightning_uncertainty.strategies.DWA", "init_args": {"temperature": 0.5}}, "dwa", 0.5),
    ],
    ids=["by name", "with settings"],
)
def test_yaml_has_a_strategy_by_name_or_as_an_object(tmp_path, written, name, temperature):
    weighting = run(tmp_path, "lightning.pytorch", config(strategy=written))
    assert (weighting.strategy.name, getattr(weighting.strategy, "temperature", None)) == (name, temperature)
    assert weighting.steps == 4
