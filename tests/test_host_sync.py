"""What the host reads from the device: nothing on a step that does not log, and one transfer on a step that does."""

import traceback
from collections import Counter

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_uncertainty import CrossEntropy, UncertaintyCallback, UncertaintyWeighting
from tests.models import TASKS, Returned, Weighed, batches, fit

OURS = "/lightning_uncertainty/"

READS = {
    torch.ops.aten._local_scalar_dense.default,  # .item(), float(), bool(), if tensor:
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,  # its shape depends on the values
    torch.ops.aten.masked_select.default,
    torch.ops.aten.unique_dim.default,
    torch.ops.aten._unique2.default,
}


class Reads(TorchDispatchMode):
    """Counts what would stop the host on a GPU and was asked for by a line of this package.

    ``.tolist()`` is no operator, so it is caught where it is called.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.seen = Counter()
        tolist = torch.Tensor.tolist

        def counted(tensor):
            self.note("tolist")
            return tolist(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", counted)

    def note(self, what):
        stack = traceback.extract_stack()
        if any(OURS in frame.filename for frame in stack):
            self.seen[what] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS:
            self.note(func.name())
        return func(*args, **(kwargs or {}))


class PerBatch(Callback):
    """Counts the reads from the start of a training batch to the start of the next."""

    def __init__(self, reads):
        self.reads, self.counts, self.before = reads, [], None

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.close()
        self.before = self.reads.seen.total()

    def close(self):
        if self.before is not None:
            self.counts.append(self.reads.seen.total() - self.before)


@pytest.fixture
def reads(monkeypatch):
    return Reads(monkeypatch)


class Sparse(Weighed):
    """One task is missing now and then, by its key and by a NaN."""

    def losses(self, batch):
        losses = super().losses(batch)
        if self.global_step % 3 == 1:
            del losses["b"]
        elif self.global_step % 3 == 2:
            losses["b"] = losses["b"] * torch.nan
        return losses


class Classifier(Weighed):
    def losses(self, batch):
        return {"a": CrossEntropy(self.net(batch[0]), (batch[1][:, 0] > 0.0).long()), "b": super().losses(batch)["b"]}


CASES = {
    "mixin": (Weighed, TASKS, {}),
    "callback alone": (Returned, TASKS, {}),
    "missing tasks": (Sparse, TASKS, {}),
    "exact softmax": (Classifier, {"a": "softmax_exact", "b": "laplace"}, {}),
    "bf16-mixed": (Weighed, TASKS, {"precision": "bf16-mixed"}),
    "accumulation": (Weighed, TASKS, {"accumulate_grad_batches": 2}),
}


@pytest.mark.filterwarnings("ignore:.*was NaN or infinite in .* calls")
@pytest.mark.parametrize(("cls", "tasks", "options"), CASES.values(), ids=CASES)
def test_a_step_that_does_not_log_reads_nothing_and_one_that_logs_reads_once(tmp_path, reads, cls, tasks, options):
    """``HostFlag`` reads page-locked host memory, once per step, until all tasks have started: no device waits."""
    watch = PerBatch(reads)
    callback = UncertaintyCallback(tasks)
    callback_options = {"log_every_n_steps": 6, "max_epochs": 1, **options}
    with reads:
        fit(tmp_path, cls(), callback=callback, callbacks=[watch], data=batches(24), **callback_options)
    every = 6 * options.get("accumulate_grad_batches", 1)
    counts = dict(enumerate(watch.counts))  # the last batch of an epoch also publishes, and is not in here
    logging = {batch for batch in counts if (batch + 1) % every == 0}
    assert {counts[batch] for batch in logging} == {1}
    settled = [batch for batch in counts if batch not in logging and batch >= 6]
    assert {counts[batch] for batch in settled} == {0}


def test_the_flag_is_read_from_host_memory_at_most_until_the_start(reads):
    """Two steps after the last task has started, nothing is looked at any more."""
    weighting = UncertaintyWeighting(TASKS)
    counts = []
    with reads:
        for _ in range(5):
            before = reads.seen.total()
            weighting({name: torch.ones((), requires_grad=True) for name in TASKS}).backward()
            weighting.step()
            counts.append(reads.seen.total() - before)
    assert counts == [1, 1, 0, 0, 0]


def test_the_counter_sees_a_read(reads):
    """The check of the check: reading on purpose is counted."""
    weighting = UncertaintyWeighting(TASKS, nonfinite="raise", init=0.0)
    with reads:
        weighting({name: torch.ones((), requires_grad=True) for name in TASKS})
        assert reads.seen.total() == 1
        _ = weighting.weights
    assert reads.seen.total() == 2
