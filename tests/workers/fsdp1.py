"""What the processes of the FSDP1 tests run: FSDPStrategy on the CPU, past what asks for a GPU there."""

import contextlib
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp._flat_param import FlatParamHandle
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from tests.models import trainer
from tests.paper import UncertaintyCallback
from tests.workers.ranks import TIMEOUT, Collectives, Phases, Recorder, Tasks, data, ddp, rank


class OnCpu(FSDPStrategy):
    """Lightning refuses this strategy on a CPU, but not a class derived from it; torch wants the CPU to be named."""

    def _setup_model(self, model):
        return FullyShardedDataParallel(
            model,
            device_id=torch.device("cpu"),
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            **self.kwargs,
        )


def strategy(policy=None, state="full"):
    options = {"auto_wrap_policy": policy, "state_dict_type": state}
    return OnCpu(process_group_backend="gloo", timeout=timedelta(seconds=TIMEOUT), **options)


class Deep(Tasks):
    """With a trunk that can be wrapped by itself."""

    def __init__(self, optimizer=None):
        super().__init__(optimizer=optimizer)
        self.trunk = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5))


class Sizes(Recorder):
    """Also how much of the network this rank holds, and the whole of it."""

    def on_train_epoch_end(self, trainer, module):
        super().on_train_epoch_end(trainer, module)
        self.epochs[-1]["held"] = sum(parameter.numel() for parameter in self.epochs[-1]["network"])
        if isinstance(trainer.strategy, FSDPStrategy):
            with FullyShardedDataParallel.summon_full_params(trainer.strategy.model, writeback=False):
                self.epochs[-1]["network"] = [parameter.detach().clone() for parameter in module.parameters()]


PART = ModuleWrapPolicy({torch.nn.Sequential})
CASES = {
    "root": {"policy": None},
    "part": {"policy": PART},
    "clipping": {"policy": PART, "gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    "bf16-true": {"policy": PART, "precision": "bf16-true"},
    "bf16-mixed": {"policy": PART, "precision": "bf16-mixed"},
    "sgd": {"policy": PART, "optimizer": partial(torch.optim.SGD, momentum=0.9)},
}
# By kind of checkpoint, the run that it interrupts. A full one, on the CPU, gives back another first moment of Adam
# than it was given, with or without this package: torch "copies" what it gathers by `.cpu()`, which is no copy there.
RESUMED = {"full": "sgd", "sharded": "part"}


def fit(folder, collectives, chosen, *, max_epochs=2, ckpt_path=None, save=None, optimizer=None, **options):
    collectives.phase, collectives.calls = "outside", []
    module, recorder = Deep(optimizer), Sizes()
    callbacks = [Phases(collectives), UncertaintyCallback(), recorder]
    runner = trainer(folder, *callbacks, strategy=chosen, devices=2, max_epochs=max_epochs, **options)
    runner.fit(module, data(rank()), ckpt_path=ckpt_path)
    if save:
        runner.save_checkpoint(save)
    return {"epochs": recorder.epochs, "calls": collectives.calls, "steps": runner.global_step}


def train_all_cases(folder):
    # torch moves the gathered parameters to the CPU, and then frees what it moved: here they are the same.
    FlatParamHandle.to_cpu = lambda _: contextlib.nullcontext()
    collectives = Collectives()
    results = {"ddp": fit(folder, collectives, ddp())}
    for name, case in CASES.items():
        options = {key: value for key, value in case.items() if key != "policy"}
        results[name] = fit(folder, collectives, strategy(case["policy"]), **options)
    for kind, case in RESUMED.items():
        path, optimizer = Path(folder, kind), CASES[case].get("optimizer")
        fit(folder, collectives, strategy(PART, kind), max_epochs=1, save=path, optimizer=optimizer)
        results[kind] = fit(folder, collectives, strategy(PART, kind), ckpt_path=path, optimizer=optimizer)
        results[kind]["is_folder"] = path.is_dir()
    return results
