"""What the processes of the tests of the gradient view run."""

import os

import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from lightning_uncertainty import GradientView
from tests.models import Loader
from tests.workers.ranks import ddp, fit, rank

FLAVOURS = {
    "ddp": dict,
    "find_unused_parameters": lambda: {"find_unused_parameters": True},
    "static_graph": lambda: {"static_graph": True},
    "gradient_as_bucket_view": lambda: {"gradient_as_bucket_view": True},
}


def halves(folder):
    """Both ranks with half of each batch, or one process with the whole; with the view, and without it."""
    from tests.trainer.test_gradient_view import SIZE, Shared, data

    world = int(os.environ["WORLD_SIZE"])
    size = SIZE // world
    mine = [[tensor[rank() * size : (rank() + 1) * size] for tensor in batch] for batch in data().batches]

    def train(options, *callbacks):
        loader = Loader(*map(torch.cat, zip(*mine, strict=True)), size=size)
        module = Shared()
        fit(folder, module, *callbacks, loader=loader, strategy=ddp(**options), devices=world, max_epochs=2)
        return [parameter.detach().clone() for parameter in module.parameters()]

    seen = {}
    for name, options in FLAVOURS.items():
        view = GradientView("encoder", every_n_steps=2)
        network = train(options(), view)
        seen[name] = {"network": network, "snapshots": view.snapshots, "network without": train(options())}
    return seen


REFUSED = {"sharded": "ModelParallelStrategy may not hold whole parameters", "SyncBatchNorm": "SyncBatchNorm talks"}


def refused(folder, case):
    """What the user is told."""
    from tests.trainer.test_gradient_view import Shared, data

    module = Shared()
    if case == "SyncBatchNorm":
        module.encoder = torch.nn.Sequential(module.encoder, torch.nn.SyncBatchNorm(3))
        strategy = ddp()
    else:
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
        module.configure_model = lambda: None
    try:
        fit(folder, module, GradientView("encoder"), loader=data(), strategy=strategy)
    except ValueError as error:
        return str(error)
    return "nothing was refused"
