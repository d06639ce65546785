"""The programs of docs/ways-in.md run, where their libraries are installed; they are not in the extra dev."""

import importlib
import math
import re
import subprocess
import sys

import pytest
import torch

from tests.workers.processes import ROOT

EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "ways-in.md").read_text()


@pytest.fixture
def example(monkeypatch):
    """Import a program of the folder, if the libraries that it needs are there."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def load(name, *needed):
        for library in needed:
            pytest.importorskip(library)
        return importlib.import_module(name)

    yield load
    for name in {path.stem for path in EXAMPLES.glob("*.py")} & sys.modules.keys():
        del sys.modules[name]


def plain(state):
    """The tensors of a nested state as lists, which are equal only bit for bit."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


def test_every_program_stands_on_the_page_and_every_one_there_exists():
    named = set(re.findall(r"\(examples/(\w+\.\w+)\)", PAGE))
    assert named == {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"readme_picture.py"}


def test_the_module_of_the_examples_learns(example, tmp_path):
    from lightning_uncertainty import UncertaintyCallback
    from tests.models import trainer

    house, callback = example("house"), UncertaintyCallback(summary=False)
    runner = trainer(tmp_path, callback, max_epochs=4)
    runner.fit(model := house.House(), house.loader(0), house.loader(1))
    assert runner.callback_metrics["val/score"] < 400
    assert model.uncertainty.steps == 32


def test_the_callback_for_transformers_is_short_and_resumes_bit_for_bit(example, tmp_path):
    text = (EXAMPLES / "transformers_trainer.py").read_text()
    assert len(text.splitlines()) <= 120
    module = example("transformers_trainer", "transformers", "accelerate")
    for options in ({}, {"gradient_accumulation_steps": 2}):
        folder = tmp_path / str(len(options))
        weighting, model, trainer = module.train(folder, **options)
        learned = plain(weighting.state_dict())
        trainer.evaluate()
        assert plain(weighting.state_dict()) == learned
        logged = [row for row in trainer.state.log_history if "loss" in row]
        assert logged[-1]["uncertainty/weight/size"] == weighting.weights["size"]
        again, resumed, _ = module.train(folder, resume=folder / "checkpoint-20", **options)
        assert plain(again.state_dict()) == learned
        assert torch.equal(resumed.layer.weight, model.layer.weight)
        assert model.state_dict().keys() == {"layer.weight", "layer.bias"}


def test_the_callback_for_transformers_resumes_the_folder_that_it_is_told(example, tmp_path):
    module = example("transformers_trainer", "transformers", "accelerate")
    weighting, _, _ = module.train(tmp_path / "old")
    for other in ("new", "other"):  # an empty folder, and one that has another checkpoint of that name
        if other == "other":
            module.train(tmp_path / other, learning_rate=0.5)
        again, _, _ = module.train(tmp_path / other, resume=str(tmp_path / "old" / "checkpoint-20"))
        assert plain(again.state_dict()) == plain(weighting.state_dict())


def test_accelerate_resumes_bit_for_bit(example, tmp_path):
    module = example("accelerate_loop", "accelerate")
    weighting, model = module.train(tmp_path / "whole")
    module.train(tmp_path / "part", until=20)
    again, resumed = module.train(tmp_path / "part", resume=True)
    assert plain(again.state_dict()) == plain(weighting.state_dict())
    assert torch.equal(resumed.weight, model.weight)
    assert weighting.steps == 40  # of 80 batches


def test_optuna_prunes_and_keeps_the_weights(example):
    module = example("optuna_search", "optuna", "optuna_integration")
    study = module.search()
    states = [trial.state.name for trial in study.trials]
    assert {*states} == {"COMPLETE", "PRUNED"}
    assert math.isfinite(study.best_value)
    assert study.best_trial.user_attrs.keys() == {"weight/price", "weight/sold"}


def test_hydra_makes_the_callback_from_a_file_and_a_word_on_the_command_line(tmp_path):
    pytest.importorskip("hydra")
    words = ["trainer.max_epochs=3", "trainer.callbacks.0.tasks.sold=0.5", f"hydra.run.dir={tmp_path}"]
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "hydra_app.py"), *words]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Epochs: 3." in " ".join(ran.stdout.split())
    assert re.search(r"\{'price': [\d.e-]+, 'sold': 0\.5\}", ran.stdout)


@pytest.mark.filterwarnings("ignore")
def test_ray_reports_the_weights_and_its_checkpoint_has_sigma(example, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{EXAMPLES}:{ROOT}")
    module = example("ray_train", "ray", "pyarrow")
    result = module.train(tmp_path)
    assert result.metrics["uncertainty/weight/price"] > 0
    with result.checkpoint.as_directory() as folder:
        house = module.House.load_from_checkpoint(f"{folder}/checkpoint.ckpt")
    sigma = result.metrics["uncertainty/sigma/price"]
    assert house.uncertainty.sigmas["price"] == pytest.approx(sigma, rel=1e-6)
