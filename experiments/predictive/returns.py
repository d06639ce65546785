"""Daily returns of the S&P 500 and the Nasdaq [shipped in arch]: a variance head, a constant sigma, and GARCH(1,1)."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from experiments.predictive.coverage import QUIET, SOURCES
from lightning_uncertainty import UncertaintyCallback, UncertaintyMixin
from lightning_uncertainty._arguments import require
from lightning_uncertainty.demo.data import Batch, TensorBatches
from lightning_uncertainty.predictive import gaussian_nll

__all__ = ["INDICES", "baselines", "head"]

INDICES = ("sp500", "nasdaq")
TRAIN, FITTED = (
    0.6,
    0.7,
)  # parts of the days: the head trains on the first, validates to the second; the last is the test
DECAY = 0.94  # of the variance of RiskMetrics
PAST = 10  # days


@cache
def returns() -> np.ndarray:
    """Return the daily returns in percent, of shape (days, 2)."""
    require("predictive", "arch")
    prices = [import_module(f"arch.data.{name}").load()["Adj Close"].to_numpy() for name in INDICES]
    found: np.ndarray = np.stack([100.0 * (price[1:] / price[:-1] - 1.0) for price in prices], axis=1)
    return found


def baselines() -> dict[str, dict[str, float]]:
    """Return the test NLL of variances that no network predicts, fitted to the first 70 % of the days."""
    from arch import arch_model

    names = "constant sigma", "variance of RiskMetrics", "GARCH(1,1) of arch"
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    risk = known_before()[:, -2:].exp().numpy().T
    for name, days, running in zip(INDICES, returns().T, risk, strict=True):
        first = int(FITTED * len(days))
        mean, std = days[:first].mean(), days[:first].std()
        found["constant sigma"][name] = nll(days[first:], mean, std**2)
        found["variance of RiskMetrics"][name] = nll(days[first:], mean, running[first:])
        params = arch_model(days, vol="GARCH", p=1, q=1).fit(last_obs=first, disp="off").params
        volatility = arch_model(days, vol="GARCH", p=1, q=1).fix(params).conditional_volatility
        found["GARCH(1,1) of arch"][name] = nll(days[first:], params["mu"], volatility[first:] ** 2)
    return found


def nll(days: Any, mean: Any, variance: Any) -> float:
    """Return the mean negative log-likelihood of a Gaussian, in nats."""
    return float(np.mean(0.5 * np.log(2.0 * np.pi * variance) + (days - mean) ** 2 / (2.0 * variance)))


def known_before() -> torch.Tensor:
    """Return what is known before each day, of shape (days, inputs); the last two are log-variances of RiskMetrics."""
    days = returns()
    variance, running = np.empty_like(days), days[:20].var(0)
    for index, day in enumerate(days):
        variance[index] = running
        running = DECAY * running + (1.0 - DECAY) * day**2
    padded = np.concatenate([np.zeros((PAST, 2)), days])
    past = [padded[PAST - lag : len(padded) - lag] for lag in range(1, PAST + 1)]
    known = np.concatenate([*past, *(np.abs(each) for each in past), np.log(variance)], axis=1)
    return torch.tensor(known, dtype=torch.float32)


class Head(UncertaintyMixin, L.LightningModule):
    """A small network that predicts how far the variance of each index is from that of RiskMetrics."""

    def __init__(self, num_inputs: int, lr: float) -> None:
        super().__init__()
        self.tasks = dict.fromkeys(INDICES, "nll")
        self.net, self.lr = nn.Sequential(nn.Linear(num_inputs, 16), nn.Tanh(), nn.Linear(16, 2)), lr
        self.mean = nn.Parameter(torch.zeros(2))

    def forward(self, known: Tensor) -> tuple[Tensor, Tensor]:
        log_var: Tensor = known[:, -2:] + 0.1 * self.net(known)
        return self.mean.expand_as(log_var), log_var

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the negative log-likelihoods, less their constant."""
        mean, log_var = self(batch[0])
        return {n: gaussian_nll(mean[:, k], log_var[:, k], batch[1][n], beta=0.0) for k, n in enumerate(INDICES)}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.weigh(self.losses(batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.weigh(self.losses(batch))
        mean, log_var = self(batch[0])
        for k, name in enumerate(INDICES):
            self.uncertainty.score(name, mean[:, k], batch[1][name], log_var[:, k])

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.1)


def parts() -> list[Batch]:
    """Return the days to train on, to validate on, and to test on."""
    known, days = known_before(), torch.tensor(returns(), dtype=torch.float32)
    ends = [int(part * len(days)) for part in (0.0, TRAIN, FITTED, 1.0)]
    return [
        (known[begin:end], {name: days[begin:end, k] for k, name in enumerate(INDICES)})
        for begin, end in pairwise(ends)
    ]


def head(seed: int, *, epochs: int, lr: float = 2e-3) -> dict[str, dict[str, float]]:
    """Return the test NLL of a variance head with the scale of its training, and with that of its validation."""
    L.seed_everything(seed, verbose=False)
    train, val, test = parts()
    net = Head(train[0].shape[1], lr)
    callback = UncertaintyCallback(report=False, summary=False)
    trainer = L.Trainer(max_epochs=epochs, callbacks=[callback], num_sanity_val_steps=0, **QUIET)
    trainer.fit(net, TensorBatches(*train, batch_size=64, seed=seed), TensorBatches(*val, batch_size=1000))
    found: dict[str, dict[str, float]] = {}
    for source in SOURCES:
        net.uncertainty.sigma_from = source
        trainer.test(net, TensorBatches(*test, batch_size=1000), verbose=False)
        scores = net.uncertainty.scores
        found[source] = {name: scores[name].nll for name in INDICES}
    return {**found, "shift": {name: net.uncertainty.sigmas_val[name] ** 2 for name in INDICES}}
