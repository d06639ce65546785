"""What the processes of the tests of comparisons run."""

import torch
import torch.distributed as dist

from lightning_uncertainty import MeanRelativeGain, compare
from tests.workers.ranks import rank

EVALUATIONS = [
    {"mae": 700.0, "accuracy": 0.6, "r2": 0.2},
    {"mae": 900.0, "accuracy": 0.4, "r2": 0.3},
    {"mae": 500.0, "r2": -0.4},
]


def mean_relative_gain():
    """The metric, synchronised over both ranks by torchmetrics."""
    dist.init_process_group("gloo")
    baseline = {"mae": 800.0, "accuracy": 0.5, "r2": -0.25}
    gain = MeanRelativeGain(baseline, {"mae": "min", "accuracy": "max", "r2": "max"})
    for values in EVALUATIONS[2:] if rank() else EVALUATIONS[:2]:
        gain.update({name: torch.tensor(value) for name, value in values.items()})
    return gain.compute().item()


def compare_in_two_processes(folder):
    """A comparison under DDP, and the same again from what it has stored."""
    from tests.comparison.test_study import QUICK, Net, serve

    class Synchronised(Net):
        def validation_step(self, batch, batch_idx):
            for name, loss in self.losses(batch).items():
                self.log(f"val/{name}", loss, sync_dist=True)

    options = {
        "metrics": {"val/a": "min", "val/b": "min"},
        "seeds": (0, 1),
        "trainer": {**QUICK, "strategy": "ddp", "devices": 2},
        "folder": folder,
    }
    first, again = (compare(Synchronised, serve, **options) for _ in range(2))
    return {"text": str(first), "again": [run.reused for run in again.runs]}
