"""Real training, small: what the package promises to learn."""

import lightning as L
import pytest
import torch

from lightning_uncertainty import UncertaintyMixin
from tests import oracle
from tests.models import Loader, Plain, batches, fit
from tests.paper import UncertaintyCallback

# ---------------------------------------------------------------------------------------------------- textbook


class Textbook(Plain):
    """The article in Lightning as people write it: s is a Parameter with its own group in the user's optimizer."""

    def __init__(self):
        super().__init__()
        self.s = torch.nn.Parameter(torch.zeros(2))

    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        return oracle.term("gaussian", "log_sigma", self.s[0], losses["a"]) + oracle.term(
            "laplace", "log_sigma", self.s[1], losses["b"]
        )

    def configure_optimizers(self):
        return torch.optim.Adam([{"params": self.net.parameters()}, {"params": [self.s], "lr": 1e-2}], lr=self.lr)


def test_through_a_trainer_s_follows_a_parameter_in_the_users_optimizer_over_500_steps(tmp_path):
    data = batches(125, noise=(0.7, 0.3))
    textbook, _ = fit(tmp_path, Textbook(), data=data, callback=L.Callback(), max_epochs=4)
    ours, runner = fit(tmp_path, data=data, callback=UncertaintyCallback(init=0.0, lr=1e-2), max_epochs=4)
    assert runner.global_step == 500
    torch.testing.assert_close(ours.uncertainty.log_var, textbook.s.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.net.weight, textbook.net.weight, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- known noise


class Noisy(UncertaintyMixin, L.LightningModule):
    """Three Gaussian targets with noise of 0.1, 1 and 10, and a Laplace one with a scale of 0.5."""

    tasks = {"small": "gaussian", "unit": "gaussian", "large": "gaussian", "heavy": "laplace"}
    truth = {"small": 0.1, "unit": 1.0, "large": 10.0, "heavy": 0.5}

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(3, 4)

    def training_step(self, batch, batch_idx):
        x, y = batch
        error = self.net(x) - y
        losses = {name: error[:, i].square().mean() for i, name in enumerate(self.tasks)}
        return self.weigh({**losses, "heavy": error[:, 3].abs().mean()})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

    @classmethod
    def data(cls):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(200 * 64, 3, generator=generator)
        gaussian = torch.randn(len(x), 3, generator=generator)
        uniform = torch.rand(len(x), 1, generator=generator) - 0.5
        laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs())
        noise = torch.cat([gaussian, laplace], 1) * torch.tensor(list(cls.truth.values()))
        y = x @ torch.randn(3, 4, generator=generator) + noise
        return Loader(x, y, size=64)


def test_known_noise_is_learned_to_3_percent_by_default_settings(tmp_path):
    module, _ = fit(tmp_path, Noisy(), data=Noisy.data(), max_epochs=8)
    for name, sigma in module.uncertainty.sigmas.items():
        assert sigma == pytest.approx(Noisy.truth[name], rel=0.03), name


# ---------------------------------------------------------------------------------------------------- raw scales


class Shared(L.LightningModule):
    """Two targets that share one narrow trunk: one of losses near 1e6, one of losses near 1e-3."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = torch.nn.Linear(6, 2)
        self.heads = torch.nn.Linear(2, 2)

    def losses(self, batch):
        x, y = batch
        losses = (self.heads(self.trunk(x)) * torch.tensor([1e3, 3e-2]) - y).square().mean(0)
        return {"large": losses[0], "small": losses[1]}

    def training_step(self, batch, batch_idx):
        return sum(self.losses(batch).values())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)

    @staticmethod
    def data():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(64 * 40, 6, generator=generator)
        # Three directions, of which two fit through the trunk: the tasks compete for them.
        y = torch.stack([x[:, 0] + x[:, 1] * x[:, 2], x[:, 3]], 1) * torch.tensor([1e3, 3e-2])
        return Loader(x, y, size=64)


class SharedWeighed(UncertaintyMixin, Shared):
    tasks = {"large": "gaussian", "small": "gaussian"}

    def training_step(self, batch, batch_idx):
        return self.weigh(self.losses(batch))


def explained(module):
    """The part of each task's variance that the module explains."""
    x, y = (torch.cat(tensors) for tensors in zip(*Shared.data().batches, strict=True))
    with torch.no_grad():
        losses = module.losses((x, y))
    return {name: 1 - (loss / y[:, i].var()).item() for i, (name, loss) in enumerate(losses.items())}


def test_losses_of_1e6_and_1e_3_are_both_learned_where_the_plain_sum_leaves_the_small_one(tmp_path):
    plain, _ = fit(tmp_path, Shared(), data=Shared.data(), callback=L.Callback(), max_epochs=6)
    ours, _ = fit(tmp_path, SharedWeighed(), data=Shared.data(), max_epochs=6)
    assert explained(plain)["small"] < 0.5
    assert explained(ours)["small"] > 0.95
    assert explained(ours)["large"] > explained(plain)["large"] - 0.02
    sigmas = ours.uncertainty.sigmas
    assert sigmas["large"] > 100.0
    assert sigmas["small"] < 0.1
