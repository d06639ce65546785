"""Every strategy on two ranks, each with losses of its own."""

import torch
import torch.distributed as dist

from lightning_uncertainty import UncertaintyWeighting
from lightning_uncertainty.strategies import STRATEGIES

TASKS = {"a": "gaussian", "b": "laplace", "c": "softmax", "aux": 0.25}


def _losses(step, rank):
    generator = torch.Generator().manual_seed(100 * step + rank)
    losses = (torch.rand(4, generator=generator) + 0.5) * torch.tensor([30.0, 2.0, 0.5, 1.0])
    losses[step % 4] *= torch.nan if step % 3 == 1 else 1.0  # missing on both ranks
    return losses


def _train(strategy, losses_of):
    weighting, factors = UncertaintyWeighting(TASKS, strategy=strategy, scale=None, guard=False), []
    for step in range(12):
        losses = losses_of(step).requires_grad_()
        weighting(losses).backward()
        weighting.step()
        factors.append(losses.grad.tolist())
        if step % 3 == 2:
            weighting.end_epoch()
    return weighting, factors


def train_alone(strategy):
    """The weights of one process that has the mean losses."""
    return _train(strategy, lambda step: (_losses(step, 0) + _losses(step, 1)) / 2)[0].weights


def every_strategy():
    """What each rank has of each strategy."""
    dist.init_process_group("gloo")
    found = {}
    for name in STRATEGIES:
        weighting, factors = _train(name, lambda step: _losses(step, dist.get_rank()))
        found[name] = {"state": str(weighting.state_dict()), "weights": weighting.weights, "factors": factors}
    return found
