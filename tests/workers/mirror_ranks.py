"""What the processes run in which a single rank drops losses that it has weighed."""

import torch
import torch.distributed as dist

from tests.models import TASKS, Recorded, batches, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.workers.ranks import rank

BAD = {0: (3, 7, 20), 1: (5, 7)}  # the batches that each rank drops; both drop the seventh
COUNT = 24


class Each(Recorded):
    """Each rank has losses of its own."""

    def losses(self, batch):
        x, y = batch
        return super().losses([x, y * (1.0 + 0.5 * rank())])


class Zeroes(Each):
    def training_step(self, batch, batch_idx):
        self.index = batch_idx
        return super().training_step(batch, batch_idx)

    def on_after_backward(self):
        if self.index in BAD[rank()]:
            self.zero_grad()


class StepsByHand(Each):
    """A rank that does not step, after its backward: its network then differs, and s must not."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        if batch_idx not in BAD[rank()]:
            optimizer.step()


class ZeroesByHand(StepsByHand):
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(Each.training_step(self, batch, batch_idx))
        if batch_idx in BAD[rank()]:
            optimizer.zero_grad()
        optimizer.step()


WAYS = {"zeroes": Zeroes, "does not step": StepsByHand, "zeroes by hand": ZeroesByHand}


def drops(folder, way):
    """The state of each rank, and what it should be by the losses of those that did not drop them."""
    module, callback = WAYS[way](), UncertaintyCallback(report=False, summary=False)
    trainer(folder, callback, max_epochs=1, devices=2, strategy="ddp").fit(module, batches(2 * COUNT))
    gathered = [None, None]
    mine = [{name: loss.item() for name, loss in losses.items()} for losses in module.seen]
    dist.all_gather_object(gathered, mine)
    alone = dist.new_group([0]), dist.new_group([1])
    expected = UncertaintyWeighting(TASKS, process_group=alone[rank()])
    for index in range(len(mine)):
        for each in (0, 1):
            if index not in BAD[each]:
                values = gathered[each][index].items()
                expected({name: torch.tensor(value, requires_grad=True) for name, value in values}).backward()
        if not all(index in bad for bad in BAD.values()):
            expected.step()
    weighting = module.uncertainty
    (dropped,) = {task.dropped for task in weighting.snapshot().tasks.values()}
    return {
        "log_var": weighting.log_var,
        "steps": weighting.steps,
        "dropped": dropped,
        "expected": expected.log_var.tolist(),
        "expected steps": expected.steps,
    }
