"""Imports packages in each of the given orders, "ours" among them, and trains with the callback in each Lightning.

Each argument is an order: names with spaces between. It gets a process of its own, forked from one that has imported
what takes long and knows no Lightning; a line of dashes follows what it prints.
"""

import os
import sys
import tempfile
import traceback
from importlib import import_module

import torch
from lightning_utilities.core import rank_zero

import lightning_uncertainty

for name in ("torch._dynamo", "torch.distributed.fsdp", "torchmetrics"):
    import_module(name)  # as Lightning does


def tell(order):
    for name in order:
        if name == "ours":
            from lightning_uncertainty import UncertaintyCallback
        else:
            import_module(name)
    print(*(name for name in ("lightning.pytorch", "pytorch_lightning") if name in sys.modules))
    print(rank_zero.log.name.removesuffix(".utilities.rank_zero").replace("lightning.fabric", "lightning.pytorch"))

    for name in order:
        if name != "ours":
            import_module(f"{name}.cli").LightningArgumentParser().add_lightning_class_args(
                UncertaintyCallback, "weights"
            )
            package = import_module(name)

            class Net(lightning_uncertainty.UncertaintyMixin, package.LightningModule):
                tasks = {"a": "gaussian"}

                def __init__(self):
                    super().__init__()
                    self.net = torch.nn.Linear(1, 1)

                def training_step(self, batch, batch_idx):
                    return self.weigh({"a": self.net(batch).square().mean()})

                def configure_optimizers(self):
                    return torch.optim.SGD(self.parameters(), lr=0.1)

            quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
            callback = UncertaintyCallback(summary=False)
            trainer = package.Trainer(
                accelerator="cpu",
                logger=False,
                callbacks=callback,
                max_epochs=1,
                default_root_dir=tempfile.mkdtemp(),
                **quiet,
            )
            trainer.fit(Net(), torch.utils.data.DataLoader(torch.ones(2, 1), batch_size=2))
            print(name, callback.weighting.steps)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        if (child := os.fork()) == 0:
            try:
                tell(each.split())
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
        print("---", flush=True)
