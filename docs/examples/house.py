"""A module and its data for the examples beside this file."""

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_uncertainty import UncertaintyMixin


class House(UncertaintyMixin, L.LightningModule):
    """Predicts a price in dollars, and whether a house is sold."""

    tasks = {"price": "laplace", "sold": "bernoulli"}

    def __init__(self, width=16, lr=1e-2):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))

    def losses(self, batch):
        """Return the losses by task."""
        x, price, sold = batch
        output = self.net(x)
        return {
            "price": (1e5 * output[:, 0] - price).abs().mean(),
            "sold": torch.nn.functional.binary_cross_entropy_with_logits(output[:, 1], sold),
        }

    def training_step(self, batch, batch_idx):
        """Return the weighted total."""
        return self.weigh(self.losses(batch))

    def validation_step(self, batch, batch_idx):
        """Log a metric for each task, and their geometric mean, which no unit rules."""
        losses = self.losses(batch)
        self.log_dict({f"val/{name}": loss for name, loss in losses.items()})
        self.log("val/score", (losses["price"] * losses["sold"]).sqrt())

    def configure_optimizers(self):
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


def loader(seed=0, rows=512):
    """Return made data."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator)
    price = 2e5 + 1e5 * x[:, 0] + 2e4 * torch.randn(rows, generator=generator)
    return DataLoader(TensorDataset(x, price, (x[:, 1] > 0).float()), batch_size=64)
