"""The page about strategies: its code runs, its table has all of them, and the recipe with TorchJD trains."""

import re

import lightning as L
import pytest
import torch

from lightning_uncertainty import UncertaintyWeighting
from lightning_uncertainty.comparison.arms import parse_arms
from lightning_uncertainty.strategies import STRATEGIES
from tests.strategies.test_laws import learn, rows
from tests.workers.processes import ROOT

PAGE = (ROOT / "docs" / "strategies.md").read_text()
CHOSEN, ARMS, LIVE, MEMORY, RECIPE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_table_has_every_strategy_and_its_default_settings():
    named = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## How to choose")[0], flags=re.MULTILINE)
    assert named == list(STRATEGIES)
    for name, made in STRATEGIES.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*", PAGE, flags=re.MULTILINE)
        temperature = getattr(made(), "temperature", None)
        assert temperature is None or f"`T = {temperature:g}`" in row


def test_what_it_chooses_is_what_it_says():
    space = {}
    exec(CHOSEN + ARMS, space)
    assert space["callback"].options == {"strategy": "log_sum"}
    assert space["weighting"].strategy.temperature == 1.0
    assert {arm.name for arm in parse_arms(space["arms"], {}, "equal")} == {"equal", "learned", *space["arms"]}


def test_its_own_strategies_do_what_they_say_and_come_back_from_a_checkpoint():
    space = {}
    exec(CHOSEN + LIVE + MEMORY, space)
    losses = torch.tensor([3.0, 1.0], requires_grad=True)
    space["weighting"](losses).backward()
    torch.testing.assert_close(losses.grad, torch.tensor([3.0, 1.0]).softmax(0))
    tasks = dict.fromkeys("abc", "gaussian")
    one, other = (UncertaintyWeighting(tasks, strategy=space["Smoothed"]()) for _ in range(2))
    learn(one, rows(5))
    mean = rows(5)[0].double()
    for row in rows(5)[1:].double():
        mean = 0.9 * mean + 0.1 * row
    assert list(one.weights.values()) == pytest.approx((1.0 / mean).tolist(), rel=1e-5)
    other.load_state_dict(one.state_dict())
    assert learn(one, rows(3, seed=1)) == learn(other, rows(3, seed=1))


def test_the_recipe_with_torchjd_trains_both_tasks(tmp_path):
    pytest.importorskip("torchjd")
    space = {}
    exec(RECIPE, space)
    L.seed_everything(0, verbose=False)
    x = torch.randn(256, 8)
    data = torch.utils.data.TensorDataset(x, x[:, 0], x[:, 1:4].argmax(1))
    loader = torch.utils.data.DataLoader(data, batch_size=64)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    losses = {}
    for epochs in (1, 20):
        L.seed_everything(0, verbose=False)
        trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=tmp_path, **quiet)
        trainer.fit(space["TwoTasks"](), loader)
        losses[epochs] = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert losses[20]["depth"] < 0.4 * losses[1]["depth"]
    assert losses[20]["kind"] < 0.6 * losses[1]["kind"]
