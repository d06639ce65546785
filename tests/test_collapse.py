"""Losses that are small because nothing was learned yet: two trainings that learned weights used to ruin."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_uncertainty import UncertaintyWeighting


def train(losses_of, parameters, steps, weighting, lr):
    """Train with the plain sum, or with an engine."""
    optimizer = torch.optim.Adam(parameters, lr=lr)
    if weighting is not None:
        weighting.suit([optimizer])
    for _ in range(steps):
        losses = torch.stack(losses_of())
        total = losses.sum() if weighting is None else weighting(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if weighting is not None:
            weighting.step()


def engine(way, tasks, steps):
    if way == "plain sum":
        return None
    weighting = UncertaintyWeighting(tasks, **({} if way == "default" else {"scale": None}))
    weighting.expect(steps)
    return weighting


class Wave(nn.Module):
    """A net of (x, t) with its derivatives, by hand: u_tt = u_xx, u(x, 0) = sin(pi x), and 0 at the edges."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 24), nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 1)])

    def forward(self, points):
        """Return u, its first and its second derivatives by x and by t."""
        count = len(points)
        u, first, second = points, torch.eye(2)[:, None].expand(2, count, 2), torch.zeros(2, count, 2)
        for index, layer in enumerate(self.layers):
            u, first, second = layer(u), first @ layer.weight.T, second @ layer.weight.T
            if index < len(self.layers) - 1:
                u = torch.tanh(u)
                slope = 1.0 - u * u
                first, second = slope * first, slope * second - 2.0 * u * slope * first**2
        return u[..., 0], first[..., 0], second[..., 0]

    def losses(self):
        x, start, side = torch.rand(128, 2), torch.rand(64), torch.rand(64)
        initial = torch.stack([start, torch.zeros(64)], 1)
        edges = torch.stack([(torch.arange(64) % 2).float(), side], 1)
        u, first, second = self(torch.cat([x, initial, edges]))
        residual = (second[1, :128] - second[0, :128]).square().mean()
        begin = (u[128:192] - torch.sin(math.pi * start)).square().mean() + first[1, 128:192].square().mean()
        return [residual, begin, u[192:].square().mean()]

    @torch.no_grad()
    def error(self):
        line = torch.linspace(0, 1, 41)
        grid = torch.cartesian_prod(line, line)
        exact = torch.sin(math.pi * grid[:, 0]) * torch.cos(math.pi * grid[:, 1])
        return ((self(grid)[0] - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_wave_equation_is_solved_and_not_zero(seed):
    errors = {}
    for way in ("plain sum", "default", "article"):
        torch.manual_seed(seed)
        net = Wave()
        weighting = engine(way, ["equation", "start", "edges"], 800)
        train(net.losses, net.parameters(), 800, weighting, 0.03)
        errors[way] = net.error()
    assert errors["article"] > 0.9  # u = 0
    assert errors["default"] < 0.2
    assert errors["plain sum"] < 0.2


class Pairs(nn.Module):
    """A self-supervised criterion of three parts [Bardes, Ponce, LeCun, VICReg, 2022] on made signals of ten kinds."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(40, 128), nn.ReLU(), nn.Linear(128, 64))
        self.projector = nn.Sequential(nn.ReLU(), nn.Linear(64, 64))
        generator = torch.Generator().manual_seed(0)
        kinds = torch.randn(10, 40, generator=generator).cumsum(1)
        self.kind = torch.arange(3000) % 10
        self.signals = F.normalize(kinds[self.kind] - kinds[self.kind].mean(1, keepdim=True)) * 6.0
        self.signals = self.changed(self.signals, generator)

    def changed(self, x, generator=None):
        """Return signals moved, stretched and with noise."""
        count = len(x)
        moved = (torch.arange(40) + torch.randint(-6, 7, (count, 1), generator=generator)) % 40
        x = x.gather(1, moved) * (1.0 + 0.3 * torch.randn(count, 1, generator=generator))
        return x + 0.6 * torch.randn(x.shape, generator=generator)

    def losses(self):
        x = self.signals[torch.randint(2000, (256,))]
        one, other = (self.projector(self.encoder(self.changed(x))) for _ in range(2))
        spread = mixed = torch.zeros(())
        for z in (one - one.mean(0), other - other.mean(0)):
            spread = spread + F.relu(1.0 - (z.var(0) + 1e-4).sqrt()).mean() / 2
            covariance = z.T @ z / (len(z) - 1)
            mixed = mixed + (covariance.square().sum() - covariance.diagonal().square().sum()) / 64
        return [25.0 * F.mse_loss(one, other), 25.0 * spread, mixed]

    @torch.no_grad()
    def accuracy(self):
        """Return the accuracy of a linear probe on signals that were not trained on."""
        h = self.encoder(self.signals).relu()
        h = torch.cat([(h - h.mean(0)) / (h.std(0) + 1e-6), torch.ones(3000, 1)], 1)
        labels = F.one_hot(self.kind, 10).float()
        seen, new = h[:2000], h[2000:]
        probe = torch.linalg.solve(seen.T @ seen + 10.0 * torch.eye(65), seen.T @ labels[:2000])
        return ((new @ probe).argmax(1) == self.kind[2000:]).float().mean().item()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_self_supervised_criterion_keeps_its_accuracy(seed):
    accuracy = {}
    for way in ("plain sum", "default", "article"):
        torch.manual_seed(seed)
        net = Pairs()
        weighting = engine(way, ["invariance", "variance", "covariance"], 400)
        train(net.losses, net.parameters(), 400, weighting, 1e-3)
        accuracy[way] = net.accuracy()
    assert accuracy["article"] < 0.8 * accuracy["plain sum"]
    assert accuracy["default"] > 0.93 * accuracy["plain sum"]
