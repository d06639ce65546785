"""DeepSpeed's stages 2 and 3 without a GPU, by hand: two processes, which must end with the same s.

Needs ``pip install deepspeed``, which is no dependency. Usage: ``python benchmarks/deepspeed_cpu.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from lightning_uncertainty import UncertaintyCallback, UncertaintyMixin

STEPS = 40


class Net(UncertaintyMixin, L.LightningModule):
    """Two regressions of very different scales."""

    tasks = {"price": "laplace", "size": "gaussian"}  # noqa: RUF012  # as a user would write it

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(4, 2)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """The weighted total; rank 1 lacks a task on every third batch."""
        price, size = self.net(batch).float().unbind(dim=1)
        losses = {"price": (price - 100.0 * batch[:, 0]).abs().mean(), "size": (size - batch[:, 1]).square().mean()}
        if self.global_rank == 1 and batch_idx % 3 == 0:
            losses["size"] = losses["size"] * torch.nan
        return self.weigh(losses)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.05)


class OnCpu(DeepSpeedStrategy):
    """Past Lightning's three checks that ask for a GPU."""

    @property
    def root_device(self) -> torch.device:
        """DeepSpeed wants an index."""
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        """Without the check of the accelerator."""
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Without the check of the GPUs' indices."""
        self.set_world_ranks()
        self._init_deepspeed_distributed()


def train(stage: int, precision: str) -> None:
    """One rank."""
    import deepspeed

    # It would be compiled at the first use; a compilation that was killed leaves a lock on which every later run waits.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.set_num_threads(1)
    module = Net()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=OnCpu(stage=stage, process_group_backend="gloo", timeout=timedelta(seconds=30)),
        precision=precision,  # type: ignore[arg-type]
        max_epochs=1,
        use_distributed_sampler=False,  # each rank has made its own batches
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[UncertaintyCallback(summary=False, report=False)],
    )
    batches = torch.randn(STEPS, 16, 4, generator=torch.Generator().manual_seed(int(os.environ["RANK"])))
    # A list of tensors would be a list of loaders, and DeepSpeed asks for the size of the batches.
    trainer.fit(module, torch.utils.data.DataLoader(batches.flatten(0, 1), batch_size=16))
    engine = module.uncertainty
    mine = torch.cat([engine.log_var, torch.tensor([float(engine.steps)])])
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    if not torch.equal(*both) or engine.steps != STEPS:
        raise SystemExit(f"ranks differ, or have not done {STEPS} steps: {both}")
    if trainer.global_rank == 0:
        end = f"{STEPS} steps, s {engine.log_var.dtype}, bit-identical on both ranks: {engine.log_vars}"
        print(f"RESULT stage {stage}, {precision}: {end}", flush=True)


def main() -> int:
    """Every stage and precision in a job of its own."""
    import deepspeed

    print(f"deepspeed {deepspeed.__version__}, torch {torch.__version__}, lightning {L.__version__}, gloo, CPU")
    failed = 0
    for stage in (2, 3):
        for precision in ("32-true", "bf16-mixed"):
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            done = subprocess.run(
                [*command, __file__, str(stage), precision],
                env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            failed += not results or done.returncode != 0
            print(results[0][7:] if results else f"stage {stage}, {precision} failed:\n{done.stderr[-3000:]}")
    return int(failed > 0)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        train(int(sys.argv[1]), sys.argv[2])
    else:
        raise SystemExit(main())
