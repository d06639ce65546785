"""A user's script: the Trainer itself starts the second process. Arguments: strategy, folder, with which callback."""

import os
import sys

import torch
from lightning.pytorch.callbacks import Callback

from tests.models import trainer
from tests.paper import UncertaintyCallback
from tests.workers.ranks import Recorder, Tasks, data


class Data:
    """Each rank makes its own batches."""

    def __init__(self, seed=0):
        self.seed = seed

    def __iter__(self):
        return iter(data(rank_of(), seed=self.seed))

    def __len__(self):
        return len(data(0))


def rank_of():
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


class Keep(Callback):
    """Saves what each rank has seen; nothing comes back from a spawned process but what Lightning sends."""

    def __init__(self, folder):
        self.folder, self.recorder = folder, Recorder()

    def on_train_epoch_end(self, trainer, module):
        self.recorder.on_train_epoch_end(trainer, module)
        torch.save({"epochs": self.recorder.epochs}, f"{self.folder}/rank{trainer.global_rank}.pt")


class Placed(Tasks):
    """Knows its rank from the Trainer, not from the environment."""

    def on_train_start(self):
        os.environ["RANK"] = str(self.global_rank)


def main(strategy, folder, callback):
    torch.set_num_threads(1)
    module = Placed(touch_all=False, missing="NaN")
    callbacks = [Keep(folder)] if callback == "default" else [UncertaintyCallback(), Keep(folder)]
    options = {"strategy": strategy, "devices": 2, "max_epochs": 3}
    runner = trainer(folder, *callbacks, **options)
    runner.fit(module, Data())
    if runner.global_rank == 0:
        torch.save(
            {
                "engine": module.uncertainty.state_dict(),
                "keys": list(module.state_dict()),
                "metrics": {key: value.item() for key, value in runner.callback_metrics.items()},
                "network": [parameter.detach().clone() for parameter in module.parameters()],
            },
            f"{folder}/main.pt",
        )
    if strategy == "ddp_notebook":  # a second job of the same process goes on with that sigma
        again = trainer(folder, UncertaintyCallback(freeze_after=0), **{**options, "max_epochs": 1})
        again.fit(module, Data())
        torch.save({"engine": module.uncertainty.state_dict()}, f"{folder}/again.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
