"""What each process of two_hosts.sh runs: the demo's network on its diamonds; argument: a folder."""

import sys

import torch

from lightning_uncertainty.demo.diamonds import CLASSES, INPUTS, TASKS, make_data
from lightning_uncertainty.demo.model import MultiTaskNet
from tests.models import Loader
from tests.workers.fault_ranks import resumable
from tests.workers.ranks import Collectives, ddp, rank

RANKS, BATCHES, BATCH, EPOCHS = 4, 25, 32, 8


def module_and_batches():
    """The network, the same on all ranks, and the part of the training rows that belongs to this one."""
    data = make_data(rows=5_000)
    torch.manual_seed(1)
    module = MultiTaskNet(TASKS, num_inputs=len(INPUTS), classes=CLASSES, scales=data.label_scales(), width=32)
    rows = data.train_dataloader()
    mine = slice(rank(), RANKS * BATCHES * BATCH, RANKS)
    loader = Loader(rows.inputs[mine], *(label[mine] for label in rows.labels.values()), size=BATCH)
    loader.batches = [(inputs, dict(zip(rows.labels, labels, strict=True))) for inputs, *labels in loader.batches]
    return module, loader


def train(folder):
    """What one rank ends with, and what it told the others."""
    collectives = Collectives()
    module, batches = module_and_batches()
    # With the default, no resumed run of four processes equals the whole one in the last bit, with or without this
    # package: probably because DDP puts gradients into other buckets after its first step, and sums in another order.
    strategy = ddp(find_unused_parameters=True)
    result = resumable(folder, EPOCHS, module=module, loader=batches, every=10, strategy=strategy)
    return {**result, "calls": [call[1:] for call in collectives.calls]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save(train(sys.argv[1]), f"{sys.argv[1]}/rank{rank()}.pt")
