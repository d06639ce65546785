"""Lightning Fabric on several processes: ``python docs/examples/fabric.py`` starts them."""

import sys

import torch
from lightning.fabric import Fabric

from lightning_uncertainty import UncertaintyWeighting


def main(path, steps=30, devices=2):
    """Train, save and load; returns the loaded and the trained weighting."""
    fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp")
    fabric.launch()
    fabric.seed_everything(0, verbose=False)
    model = torch.nn.Linear(4, 2)
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=0.05))
    weighting = UncertaintyWeighting({"price": "laplace", "size": "gaussian"}).to(fabric.device)
    weighting.expect(steps)  # the first tenth trains the plain sum
    weighting.follow(optimizer)  # where it steps, the ranks exchange a few numbers per task
    data = torch.Generator().manual_seed(fabric.global_rank)  # other data on each rank
    for _ in range(steps):
        x = torch.randn(8, 4, generator=data)
        price, size = model(x).unbind(dim=1)
        total = weighting({"price": (price - 100.0 * x[:, 0]).abs().mean(), "size": (size - x[:, 1]).square().mean()})
        optimizer.zero_grad()
        fabric.backward(total)
        optimizer.step()
    fabric.save(path, {"model": model, "optimizer": optimizer, "weighting": weighting})
    again = UncertaintyWeighting({"price": "laplace", "size": "gaussian"}).to(fabric.device)
    fabric.load(path, {"model": model, "optimizer": optimizer, "weighting": again})
    return again, weighting


if __name__ == "__main__":
    weighting, _ = main(sys.argv[1] if len(sys.argv) > 1 else "fabric.ckpt")
    print(weighting.sigmas)
