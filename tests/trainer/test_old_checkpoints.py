"""A checkpoint that the code of before the strategies wrote: `tests/data/before_strategies.ckpt`, never written again.

Made by 24 steps of the module below with ``UncertaintyCallback(regularizer="log1p_var", freeze_after=100)`` and
``log_every_n_steps=4``. The loss of "height" was NaN in the second step, and with it the network's outputs for it ever
after; "late" never came.
"""

import math
from pathlib import Path

import lightning as L
import pytest
import torch

from lightning_uncertainty import CrossEntropy, Task, UncertaintyMixin
from tests.models import trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting

pytestmark = pytest.mark.filterwarnings("ignore:The loss of task 'height' was NaN")

PATH = Path(__file__).parents[1] / "data" / "before_strategies.ckpt"
TASKS = {
    "depth": "laplace",
    "class": "softmax_exact",
    "height": Task("height", "gaussian", unit="m"),
    "aux": 0.1,
    "late": "bernoulli",
}
LEARNED = ["depth", "class", "height", "late"]


class Net(UncertaintyMixin, L.LightningModule):
    tasks = TASKS

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 6)

    def training_step(self, batch, batch_idx):
        (x,) = batch
        y = self.net(x)
        losses = {
            "depth": (y[:, 0] - x[:, 0]).abs().mean(),
            "class": CrossEntropy(y[:, 1:4], (x[:, 0] > 0).long()),
            "height": (y[:, 4] - 3 * x[:, 1]).square().mean(),
            "aux": y[:, 5].square().mean(),
        }
        return self.weigh(losses)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


@pytest.fixture
def content():
    return torch.load(PATH, weights_only=True)


@pytest.fixture
def entry(content):
    return content["callbacks"]["UncertaintyCallback(uncertainty)"]


def resume(folder, *, steps):
    module, callback = Net(), UncertaintyCallback(regularizer="log1p_var", freeze_after=100)
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=8)
    trainer(folder, callback, max_steps=steps, max_epochs=-1, log_every_n_steps=4).fit(module, data, ckpt_path=PATH)
    return module, callback


def assert_engine_of(entry, weighting):
    """Every tensor of the file, bit for bit, and what people read of it."""
    now = weighting.state_dict()
    for key, value in entry.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(now[key], value, rtol=0.0, atol=0.0, equal_nan=True)
        elif key in ("tasks", "likelihoods", "regularizer", "steps", "frozen"):
            assert now[key] == value
    log_vars = dict(zip(entry["tasks"], entry["log_var"].tolist(), strict=True))
    assert weighting.log_vars == {name: log_vars[name] for name in LEARNED}
    assert weighting.sigmas == pytest.approx({name: math.exp(log_vars[name] / 2) for name in LEARNED})


def assert_history_of(entry, history, points):
    saved = entry["history"]
    assert history.steps[:points] == saved["steps"].tolist()
    assert history.totals[:points] == pytest.approx(saved["totals"].tolist(), rel=1e-12)
    assert [(fact.likelihood, fact.unit) for fact in history.facts.values()] == list(
        zip(saved["facts"]["likelihood"], saved["facts"]["unit"], strict=True)
    )
    for index, name in enumerate(saved["tasks"]):
        for column, quantity in ((0, "log_var"), (1, "precision"), (3, "raw_loss")):
            values = saved["values"][:, column, index].tolist()
            assert history.series(quantity, name)[:points] == pytest.approx(values, rel=0.0, abs=0.0, nan_ok=True)


def test_it_holds_nothing_but_plain_tensors_and_numbers(content, entry):
    assert content["global_step"] == entry["steps"] == 24
    assert content["lightning_uncertainty"].keys() == entry.keys() - {"history"}


def test_a_run_that_resumes_at_its_end_has_its_values_and_its_history(tmp_path, entry):
    module, callback = resume(tmp_path, steps=24)
    assert module.uncertainty is callback.weighting
    assert_engine_of(entry, callback.weighting)
    assert_history_of(entry, callback.history, 7)
    assert len(callback.history.steps) == 7


def test_a_run_that_resumes_goes_on_from_it(tmp_path, entry):
    module, callback = resume(tmp_path, steps=32)
    now = module.uncertainty.state_dict()
    assert now["steps"] == 32
    assert now["count"].tolist() == [31.0, 32.0, 0.0, 0.0, 0.0]
    assert now["nonfinite"].tolist() == [0, 0, 31, 0, 0]
    assert now["absent"].tolist() == [0, 0, 31, 0, 32]
    assert torch.equal(now["start"], entry["start"])
    assert_history_of(entry, callback.history, 7)
    assert callback.history.steps[-2:] == [28, 32]


def test_a_module_loaded_without_a_trainer_has_its_values(entry):
    module = Net.load_from_checkpoint(PATH, weights_only=True)
    assert_engine_of(entry, module.uncertainty)


def test_an_engine_made_of_it_alone_has_its_values(content, entry):
    assert_engine_of(entry, UncertaintyWeighting.from_state_dict(content["lightning_uncertainty"]))
