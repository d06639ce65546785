"""What the processes of the sharded tests run."""

import os
from datetime import timedelta
from pathlib import Path

import torch
from lightning.pytorch.strategies import ModelParallelStrategy

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:  # before torch 2.6
    from torch.distributed._composable.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tests.models import trainer
from tests.paper import UncertaintyCallback
from tests.workers.ranks import COUNT, TIMEOUT, Collectives, Phases, Recorder, Tasks, data, present, rank

HALF = COUNT // 2


class Sharded(Tasks):
    """Splits its parameters in ``configure_model``, as Lightning asks for."""

    def __init__(self, part, **options):
        super().__init__(**options)
        self.part = part
        self.trunk = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5))

    def configure_model(self):
        if self.part == "whole" or any(hasattr(parameter, "placements") for parameter in self.parameters()):
            return  # Lightning calls it again for every stage
        if self.part in ("tensor parallel", "both"):
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.trunk, self.device_mesh["tensor_parallel"], plan)
        if self.part == "tensor parallel":
            return
        mesh = self.device_mesh["data_parallel"]
        fully_shard(self.trunk, mesh=mesh)
        if self.part in ("root", "both"):
            fully_shard(self, mesh=mesh)
        else:  # what is not sharded, nobody averages over the ranks
            for head in self.heads.values():
                fully_shard(head, mesh=mesh)

    def forward(self, batch, here):  # FSDP gathers the parameters of the root when it is called
        losses, features = self.losses(batch, here)
        return losses, sum(0.0 * head(features).sum() for head in self.heads.values()) if self.touch_all else 0.0

    def training_step(self, batch, batch_idx):
        losses, nothing = self(batch, present(self.pattern, self.data_rank, self.trainer.global_step))
        self.raw.append({name: loss.item() for name, loss in losses.items()})
        return self.weigh(losses) + nothing

    @property
    def data_rank(self):
        return 0 if self.part == "whole" else self.device_mesh["data_parallel"].get_local_rank()


def full(module):
    """The network as it is, wherever its parts are."""
    whole = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in module.parameters())
    return [parameter.detach().clone() for parameter in whole]


class FullRecorder(Recorder):
    def on_train_epoch_end(self, trainer, module):
        super().on_train_epoch_end(trainer, module)
        self.epochs[-1]["network"] = full(module)


CASES = {
    # Parts that are gathered by themselves have to be called in the same order on all ranks.
    "part": {"part": "trunk and heads", "missing": "NaN", "touch_all": False},
    "root": {"part": "root"},
    "clipping": {"part": "root", "gradient_clip_val": 0.1},
    "bf16-true": {"part": "root", "precision": "bf16-true"},
    "bf16-mixed": {"part": "root", "precision": "bf16-mixed"},
    "tensor parallel": {"part": "tensor parallel"},
}


def strategy(part, *, distributed=True, world=2):
    if part == "whole":
        return "auto"
    tensor = 2 if part in ("tensor parallel", "both") else 1
    return ModelParallelStrategy(
        data_parallel_size=world // tensor,
        tensor_parallel_size=tensor,
        save_distributed_checkpoint=distributed,
        process_group_backend="gloo",
        timeout=timedelta(seconds=TIMEOUT),
    )


def fit(
    folder,
    collectives,
    *,
    part,
    distributed=True,
    ckpt_path=None,
    max_epochs=2,
    save=None,
    world=2,
    optimizer=None,
    missing="left out",
    touch_all=True,
    **options,
):
    collectives.phase, collectives.calls = "outside", []
    module = Sharded(part, optimizer=optimizer, missing=missing, touch_all=touch_all)
    recorder = FullRecorder()
    callbacks = [Phases(collectives), UncertaintyCallback(), recorder]
    chosen = strategy(part, distributed=distributed, world=world)
    runner = trainer(folder, *callbacks, strategy=chosen, devices=world, max_epochs=max_epochs, **options)
    data_rank = {"tensor parallel": 0, "both": rank() // 2}.get(part, rank())
    runner.fit(module, data(data_rank), ckpt_path=ckpt_path)
    if save:
        runner.save_checkpoint(save)
    return {"epochs": recorder.epochs, "raw": module.raw, "calls": collectives.calls, "steps": runner.global_step}


def train_all_cases(folder):
    collectives = Collectives()
    results = {name: fit(folder, collectives, **case) for name, case in CASES.items()}
    for kind in ("full", "distributed"):
        options = {"part": "root", "distributed": kind == "distributed"}
        path = Path(folder, kind)
        fit(folder, collectives, max_epochs=1, save=path, **options)
        results[kind] = fit(folder, collectives, ckpt_path=path, **options)
        results[kind]["is_folder"] = path.is_dir()
    return results


def train_whole(folder):
    """One process alone, with the data that tensor-parallel ranks share."""
    return fit(folder, Collectives(), part="whole", world=1)


def train_on_a_mesh(folder):
    """Two replicas, whose parameters are sharded, of two tensor-parallel ranks each; or the two replicas alone."""
    collectives = Collectives()
    world = int(os.environ["WORLD_SIZE"])
    # SGD: Adam would make full steps of the rounding errors of gradients that are zero.
    options = {"part": "both" if world == 4 else "root", "world": world, "optimizer": torch.optim.SGD}
    whole, path = fit(folder, collectives, **options), Path(folder, "half")
    fit(folder, collectives, max_epochs=1, save=path, **options)
    return {**whole, "resumed": fit(folder, collectives, ckpt_path=path, **options)}
