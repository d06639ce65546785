"""What the processes of the sharded tests run."""

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tests.ranks import Tasks


class Sharded(Tasks):
    """Splits its parameters in ``configure_model``, as Lightning asks for."""

    def __init__(self, part, **options):
        super().__init__(**options)
        self.part = part
        self.trunk = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5))

    def configure_model(self):
        if any(hasattr(parameter, "placements") for parameter in self.parameters()):
            return  # Lightning calls it again for every stage
        if self.part == "tensor parallel":
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.trunk, self.device_mesh["tensor_parallel"], plan)
            return
        mesh = self.device_mesh["data_parallel"]
        fully_shard(self.trunk, mesh=mesh)
        if self.part == "all":
            for head in self.heads.values():
                fully_shard(head, mesh=mesh)
            fully_shard(self, mesh=mesh)

    def forward(self, batch, here):  # FSDP gathers the parameters of the root in its forward
        return self.losses(batch, here)
