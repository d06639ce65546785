"""Plain torch on several processes: ``torchrun --nproc-per-node 2 docs/examples/plain_torch.py`` starts them."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lightning_uncertainty import UncertaintyWeighting


def main(steps=30):
    """Train; returns the weighting."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    weighting = UncertaintyWeighting({"price": "laplace", "size": "gaussian"})
    weighting.expect(steps)  # the first tenth trains the plain sum
    weighting.follow(optimizer)  # where it steps, the ranks exchange a few numbers per task
    data = torch.Generator().manual_seed(dist.get_rank())  # other data on each rank
    for _ in range(steps):
        x = torch.randn(8, 4, generator=data)
        price, size = model(x).unbind(dim=1)
        total = weighting({"price": (price - 100.0 * x[:, 0]).abs().mean(), "size": (size - x[:, 1]).square().mean()})
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return weighting


if __name__ == "__main__":
    print(main().sigmas)
    dist.destroy_process_group()
