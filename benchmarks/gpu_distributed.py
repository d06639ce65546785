"""Strategies on one GPU: what runs, whether the ranks agree, and what cannot run here, with the reason.

Usage: ``python benchmarks/gpu_distributed.py``. Each case is a process of its own; two processes share the GPU over
gloo, the sharded strategies run with one. Without a GPU it says so and ends with status 1.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import lightning as L
import torch
from torch.distributed.fsdp import fully_shard

from lightning_uncertainty import UncertaintyCallback, UncertaintyMixin

STEPS = 50


class Net(UncertaintyMixin, L.LightningModule):
    """Two regressions of very different scales."""

    tasks = {"price": "laplace", "size": "gaussian"}  # noqa: RUF012  # as a user would write it

    def __init__(self, shard: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shard, self.net = shard, torch.nn.Linear(4, 2)

    def configure_model(self) -> None:
        """Split the parameters for FSDP2."""
        if self.shard:
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """The weighted total."""
        price, size = self.net(batch).unbind(dim=1)
        return self.weigh(
            {"price": (price - 100.0 * batch[:, 0]).abs().mean(), "size": (size - batch[:, 1]).square().mean()}
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.05)


def strategy(case: str, device: torch.device) -> tuple[L.pytorch.strategies.Strategy, int]:
    """The strategy of a case and how many processes it takes; all of them use ``device``."""
    from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

    if case == "ddp, 2 processes on one GPU, gloo":
        both = DDPStrategy(
            parallel_devices=[device, device], process_group_backend="gloo", timeout=timedelta(seconds=60)
        )
        return both, 2
    if case == "fsdp1":
        return FSDPStrategy(), 1
    if case == "fsdp2":
        return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1), 1
    return DeepSpeedStrategy(stage=int(case[-1])), 1


CASES = ["ddp, 2 processes on one GPU, gloo", "fsdp1", "fsdp2", "deepspeed 2", "deepspeed 3"]


def train(case: str, folder: str, accelerator: str) -> None:
    """One rank of one case; leaves its log-variances in ``folder``."""
    rank = int(os.environ["LOCAL_RANK"])
    on_gpu = accelerator == "gpu"
    chosen, world = strategy(case, torch.device("cuda", 0) if on_gpu else torch.device("cpu"))
    batches = torch.randn(STEPS, 16, 4, generator=torch.Generator().manual_seed(rank))
    module = Net(shard=case == "fsdp2")
    trainer = L.Trainer(
        strategy=chosen,
        accelerator=accelerator,
        devices=([0] if world == 1 else "auto") if on_gpu else world,
        max_epochs=1,
        use_distributed_sampler=False,  # each rank has made its own batches
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[UncertaintyCallback(summary=False, report=False)],
    )
    # A list of tensors would be a list of loaders, and DeepSpeed asks for the size of the batches.
    trainer.fit(module, torch.utils.data.DataLoader(batches.flatten(0, 1), batch_size=16))
    engine = module.uncertainty
    if trainer.world_size != world or engine.steps != STEPS:
        raise SystemExit(f"{trainer.world_size} of {world} processes, {engine.steps} of {STEPS} steps")
    torch.save(engine.log_var.cpu(), Path(folder, f"rank{rank}.pt"))


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run(case: str, accelerator: str = "gpu") -> str:
    """What came of a case, in one line. On ``"cpu"`` the tests run those that need no GPU."""
    with tempfile.TemporaryDirectory() as folder:
        world = 2 if "2 processes" in case else 1
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(world)}
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, case, folder, accelerator],
                env={**environment, "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
        except subprocess.TimeoutExpired:
            return "did not end within 300 s"
        finally:
            for rank in ranks:
                rank.kill()
        if any(rank.returncode for rank in ranks):
            return "failed: " + " | ".join((output.strip().splitlines() or [""])[-1] for output in outputs)
        values = [torch.load(Path(folder, f"rank{rank}.pt")) for rank in range(world)]
        agree = all(torch.equal(value, values[0]) for value in values)
        return f"ran, {STEPS} steps; ranks {'agree bit for bit' if agree else 'DIFFER'}; s = {values[0].tolist()}"


def main() -> int:
    """Run all cases; 1 without a GPU, or if one did not run or its ranks differ."""
    if not torch.cuda.is_available():
        print(f"No GPU: nothing was run. Cases that wait for one: {'; '.join(CASES)}.")
        return 1
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, lightning {L.__version__}")
    results = {case: run(case) for case in CASES}
    for case, result in results.items():
        print(f"{case}: {result}")
    return int(any(not result.startswith("ran") or "DIFFER" in result for result in results.values()))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        train(*sys.argv[1:])
    else:
        raise SystemExit(main())
