"""A new run starts with the sigmas of another."""

import copy
from types import SimpleNamespace

import pytest
import torch

from lightning_uncertainty import UncertaintyWarning
from tests.models import TASKS, Returned, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting


@pytest.fixture(scope="module")
def former(tmp_path_factory):
    """A run that has ended: its callback, its log-variances, and the folder of its files."""
    folder, callback = tmp_path_factory.mktemp("former"), UncertaintyCallback(TASKS)
    _, runner = fit(folder, Returned(), callback=callback)
    runner.save_checkpoint(folder / "run.ckpt")
    module, runner = fit(folder, Weighed(), callback=UncertaintyCallback(name="other"))
    runner.save_checkpoint(folder / "weights.ckpt", weights_only=True)
    assert module.uncertainty.log_vars == callback.weighting.log_vars
    torch.save(callback.weighting.state_dict(), folder / "state.pt")
    return SimpleNamespace(callback=callback, log_vars=callback.weighting.log_vars, folder=folder)


SOURCES = {
    "a checkpoint": lambda run: run.folder / "run.ckpt",
    "a path": lambda run: str(run.folder / "run.ckpt"),
    "a checkpoint of weights alone": lambda run: run.folder / "weights.ckpt",
    "the content of a checkpoint": lambda run: torch.load(run.folder / "run.ckpt", weights_only=True),
    "the file of an engine's state": lambda run: run.folder / "state.pt",
    "the state of an engine": lambda run: run.callback.weighting.state_dict(),
    "the state of a callback": lambda run: run.callback.state_dict(),
    "a callback": lambda run: run.callback,
    "an engine": lambda run: run.callback.weighting,
}


def started(folder, callback, module=None, **options):
    """The log-variances after a step that moves none, on data of other scales, from which it would start elsewhere."""
    runner = trainer(folder, callback, **{"max_epochs": 1, "limit_train_batches": 1, **options})
    runner.fit(Returned() if module is None else module, batches(scale=(100.0, 0.01)))
    return callback.weighting.log_vars


def starting(source, tasks=TASKS, **options):
    return UncertaintyCallback(tasks, start_from=source, lr=0.0, **options)


@pytest.mark.parametrize("source", SOURCES)
def test_a_new_run_starts_with_the_sigmas_of_another(tmp_path, former, source):
    callback = starting(SOURCES[source](former), name="mine")
    assert started(tmp_path, callback) == former.log_vars
    assert callback.weighting.steps == 1  # nothing else is taken over
    assert started(tmp_path, starting(None)) != former.log_vars


def test_of_several_states_the_one_of_its_own_name_counts(tmp_path, former):
    content = torch.load(former.folder / "run.ckpt", weights_only=True)
    other = UncertaintyWeighting(TASKS, init=1.0).state_dict()
    content["callbacks"] = {"UncertaintyCallback(other)": other, **content["callbacks"]}
    assert started(tmp_path, starting(content)) == former.log_vars
    assert started(tmp_path, starting(content, name="other")) == {"a": 1.0, "b": 1.0}


def test_tasks_are_matched_by_name_and_others_start_from_the_data(tmp_path, former):
    class Third(Returned):
        def losses(self, batch):
            a, b = super().losses(batch).values()
            return {"b": b, "new": a}

    callback = starting(former.callback, {"b": "laplace", "new": "gaussian"})
    with pytest.warns(UncertaintyWarning) as told:
        found = started(tmp_path, callback, Third())
    text = " ".join(str(each.message) for each in told)
    assert "'a' is in the checkpoint but not among the tasks" in text
    assert "'new' is not in the checkpoint" in text
    assert found["b"] == former.log_vars["b"]
    assert found["new"] == started(tmp_path, UncertaintyCallback(TASKS, lr=0.0))["a"]


def test_each_new_module_starts_there_and_one_that_has_learned_goes_on(tmp_path, former):
    callback = UncertaintyCallback(TASKS, start_from=former.callback)
    module = Returned()
    first = started(tmp_path, callback, module)
    started(tmp_path, callback, module)
    assert callback.weighting.steps == 2
    assert started(tmp_path, callback, Returned()) == first
    assert callback.weighting.steps == 1


def test_a_network_that_is_put_back_starts_there_again(tmp_path, former):
    callback, module = UncertaintyCallback(TASKS, start_from=former.callback), Returned()
    untrained = copy.deepcopy(module.state_dict())
    first = started(tmp_path, callback, module)
    module.load_state_dict(untrained)
    with pytest.warns(UncertaintyWarning, match="starts anew"):
        assert started(tmp_path, callback, module) == first


@pytest.mark.parametrize("by", ["ckpt_path", "load_state_dict", "load_from_checkpoint"])
def test_a_state_to_go_on_from_wins(tmp_path, former, by):
    engine = UncertaintyWeighting(TASKS, init=1.0)
    callback = UncertaintyCallback(None if by == "load_from_checkpoint" else TASKS, start_from=engine, lr=0.0)
    if by == "load_state_dict":
        callback.load_state_dict(former.callback.state_dict())
        started(tmp_path, callback)
    elif by == "load_from_checkpoint":
        started(tmp_path, callback, Weighed.load_from_checkpoint(former.folder / "weights.ckpt"))
    else:
        fit(tmp_path, Returned(), callback=callback, ckpt_path=former.folder / "run.ckpt", max_epochs=3)
    assert callback.weighting.log_vars == former.log_vars
    assert callback.weighting.steps > 48


class Mine:
    """An object that a checkpoint may hold."""


REFUSED = {
    "no state": ({"state_dict": {}}, "no usable state of UncertaintyWeighting"),
    "no such tasks": (UncertaintyWeighting({"c": 1.0, "d": "laplace"}), "no sigma for any task"),
    "nothing learned": (UncertaintyWeighting(TASKS), "no sigma for any task. Expected some of 'a', 'b'"),
    "another strategy": (UncertaintyWeighting(TASKS, strategy="fixed"), "saved by strategy='fixed'"),
    "objects": (
        "objects.ckpt",
        r"If you trust .* `start_from=torch.load\('objects.ckpt', weights_only=False\)`",
    ),
}


@pytest.mark.filterwarnings("ignore::lightning_uncertainty.UncertaintyWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_holds_no_sigma_is_refused(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    torch.save({"hyper_parameters": Mine()}, "objects.ckpt")
    source, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        started(tmp_path, starting(source))
