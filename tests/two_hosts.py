"""What each process of two_hosts.sh runs: train on diamonds [ggplot2, shipped in plotnine]; argument: a folder.

To train another module, replace :func:`module_and_batches`.
"""

import csv
import sys
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import torch

from lightning_uncertainty import UncertaintyMixin
from tests.models import Loader
from tests.ranks import Collectives, rank, resumable

ROWS, BATCH, EPOCHS = 4 * 32 * 25, 32, 8  # 25 batches for each of 4 ranks
CUTS = ["Fair", "Good", "Very Good", "Premium", "Ideal"]


class Diamonds(UncertaintyMixin, L.LightningModule):
    """Price in dollars and weight in carat, and the grade of the cut."""

    tasks = {"price": "laplace", "carat": "gaussian", "cut": "softmax"}

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.trunk = torch.nn.Sequential(torch.nn.Linear(5, 32), torch.nn.ReLU())
        self.heads = torch.nn.ModuleDict(
            {"price": torch.nn.Linear(32, 1), "carat": torch.nn.Linear(32, 1), "cut": torch.nn.Linear(32, len(CUTS))}
        )

    def training_step(self, batch, batch_idx):
        x, price, carat, cut = batch
        features = self.trunk(x)
        output = {name: head(features) for name, head in self.heads.items()}
        return self.weigh(
            {
                "price": (4000.0 * output["price"][:, 0] - price).abs().mean(),
                "carat": (output["carat"][:, 0] - carat).square().mean(),
                "cut": torch.nn.functional.cross_entropy(output["cut"], cut),
            }
        )

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def module_and_batches():
    """The module, and the part of the data that belongs to this rank: every fourth row."""
    path = Path(find_spec("plotnine").submodule_search_locations[0], "data", "diamonds.csv")
    with open(path) as file:
        rows = [row for row in csv.DictReader(file) if min(float(row[size]) for size in "xyz") > 0.0]
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:ROWS][rank() :: 4]
    mine = [rows[index] for index in chosen]
    x = torch.tensor([[float(row[key]) for key in ("x", "y", "z", "depth", "table")] for row in mine])
    x = (x - torch.tensor([5.7, 5.7, 3.5, 61.7, 57.5])) / torch.tensor([1.1, 1.1, 0.7, 1.4, 2.2])
    price, carat = (torch.tensor([float(row[key]) for row in mine]) for key in ("price", "carat"))
    cut = torch.tensor([CUTS.index(row["cut"]) for row in mine])
    return Diamonds(), Loader(x, price, carat, cut, size=BATCH)


if __name__ == "__main__":
    torch.set_num_threads(1)
    collectives = Collectives()
    module, batches = module_and_batches()
    result = resumable(sys.argv[1], EPOCHS, module=module, loader=batches, every=10)
    torch.save({**result, "calls": [call[1:] for call in collectives.calls]}, f"{sys.argv[1]}/rank{rank()}.pt")
