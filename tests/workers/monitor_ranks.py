"""A module that weighs its losses in validation, on one process or on several."""

import math

import torch
from lightning.pytorch.callbacks import Callback

from tests.models import Weighed, batches, trainer
from tests.paper import UncertaintyCallback
from tests.workers.ranks import Collectives, Phases, rank

TRAIN, VAL = "uncertainty/relative_loss", "uncertainty/val_relative_loss"


def part(begin, end):
    """Some of the batches of one set."""
    loader = batches(13)
    loader.batches = loader.batches[begin:end]
    return loader


class Validated(Weighed):
    """Weighs its losses in validation, where task b has no labels in some batches, and remembers them."""

    samples = None

    def __init__(self):
        super().__init__()
        self.seen = []

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        losses = self.losses(batch)
        if batch_idx % 3 == 1 and "b" in losses:
            losses["b"] = losses["b"] * math.nan
        if not self.trainer.sanity_checking:
            self.seen[-1].append({name: (loss.item(), len(batch[0])) for name, loss in losses.items()})
        self.weigh(losses, samples=len(batch[0]) if self.samples else None)

    def on_validation_epoch_start(self):
        self.seen.append([])


class Values(Callback):
    """What stands in callback_metrics where others decide: at the end of each validation and epoch."""

    def __init__(self):
        self.val, self.train = [], []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.val.append(trainer.callback_metrics.get(VAL, torch.tensor(math.nan)).item())

    def on_train_epoch_end(self, trainer, pl_module):
        self.train.append(trainer.callback_metrics[TRAIN].item())


class OnRanks(Validated):
    """A rank has no labels of a task, and once does not weigh at all."""

    def validation_step(self, batch, batch_idx):
        if not (rank() and self.current_epoch == 1):
            super().validation_step(batch, 1 if rank() else batch_idx)


def validate(folder):
    collectives, values, module = Collectives(), Values(), OnRanks()
    callback = UncertaintyCallback(report=False, summary=False)
    runner = trainer(folder, Phases(collectives), callback, values, strategy="ddp", devices=2, max_epochs=3)
    runner.fit(module, part(0, 6), part(6 + 3 * rank(), 9 + 3 * rank()))
    return {"val": values.val, "train": values.train, "seen": module.seen, "reduced": collectives.during("validation")}


class Scored(Validated):
    """Scores its predictions of task a, whose sigma is 1 before any training."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.uncertainty.score("a", self.net(batch[0])[:, 0], batch[1][:, 0])


def held_out(folder, devices=2):
    """Validate without training, on shards of 6 and 2 batches of different sizes; or on all of them."""
    data, module, callback = part(0, 8), Scored(), UncertaintyCallback(report=False, summary=False, init=0.0)
    data.batches = [[each[: 1 + index] for each in batch] for index, batch in enumerate(data.batches)]
    module.samples, options, collectives = True, {}, None
    if devices > 1:
        data.batches = data.batches[6:] if rank() else data.batches[:6]
        collectives = Collectives()
        options = {"strategy": "ddp", "devices": devices, "use_distributed_sampler": False}
    runner = trainer(folder, *([] if collectives is None else [Phases(collectives)]), callback, **options)
    runner.validate(module, data, verbose=False)
    reduced = [] if collectives is None else collectives.during("validation")
    sigmas, scores = module.uncertainty.sigmas_val, module.uncertainty.scores
    numbers = {name: score.numbers() | {"samples": score.samples} for name, score in scores.items()}
    return {"sigmas": sigmas, "seen": module.seen[-1], "reduced": reduced, "scores": numbers}


class OnOneRank(Scored):
    """Only the first rank weighs and scores."""

    def validation_step(self, batch, batch_idx):
        if not rank():
            super().validation_step(batch, batch_idx)

    test_step = validation_step

    def on_test_epoch_start(self):
        self.seen.append([])


def score_on_one_rank(folder):
    module = OnOneRank()
    callback = UncertaintyCallback(report=False, summary=False, init=0.0)
    runner = trainer(folder, callback, strategy="ddp", devices=2, use_distributed_sampler=False)
    found = {}
    for stage, run in (("validated", runner.validate), ("tested", runner.test)):
        run(module, part(0, 3), verbose=False)
        scores = module.uncertainty.scores
        found[stage] = {name: score.numbers() | {"samples": score.samples} for name, score in scores.items()}
    return {**found, "sigmas": module.uncertainty.sigmas_val}
