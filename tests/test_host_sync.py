"""What the host reads from the device: nothing on a step that does not log, and one transfer on a step that does."""

import traceback
from collections import Counter

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_uncertainty import CrossEntropy
from lightning_uncertainty.engine import window
from lightning_uncertainty.strategies import STRATEGIES
from tests.models import TASKS, Returned, Weighed, batches, fit
from tests.paper import UncertaintyCallback, UncertaintyWeighting

OURS = "/lightning_uncertainty/"


@pytest.fixture(autouse=True)
def other_device(monkeypatch):
    """Take steps as on a device other than a CPU, which knows its numbers for nothing."""
    monkeypatch.setattr(window, "NUMPY", False)


READS = {
    torch.ops.aten._local_scalar_dense.default,  # .item(), float(), bool(), if tensor:
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,  # its shape depends on the values, as do those below
    torch.ops.aten.masked_select.default,
    torch.ops.aten.repeat_interleave.Tensor,
    torch.ops.aten.unique_dim.default,
    torch.ops.aten._unique2.default,
}
# With a mask among the indices they begin with nonzero(), inside the kernel.
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}

HOST_MEMORY = "host memory"


class Reads(TorchDispatchMode):
    """Counts what would stop the host on a GPU and was asked for by a line of this package.

    ``.tolist()`` is no operator, so it is caught where it is called. What ``HostFlags`` reads lies in page-locked host
    memory, no device waits for it: it is counted under a name of its own.

    A CPU cannot see what only two devices have: copies to the host (``.cpu()``, ``.to("cpu")``, ``.numpy()``) do
    nothing here; copies from it (``torch.tensor(x, device="cuda")``) wait only where the memory is not page-locked; the
    allocator and some kernels wait by themselves. ``benchmarks/gpu_checks.py`` asks the device for these.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.seen, self.counting = Counter(), False
        tolist = torch.Tensor.tolist

        def counted(tensor):
            if self.counting:
                self.note("tolist")
            return tolist(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", counted)

    def __enter__(self):
        self.counting = True
        return super().__enter__()

    def __exit__(self, *exception):
        self.counting = False
        super().__exit__(*exception)

    def note(self, what):
        frames = [frame for frame in traceback.extract_stack() if OURS in frame.filename]
        if any(frame.filename.endswith("engine/state.py") and frame.name == "poll" for frame in frames):
            self.seen[HOST_MEMORY] += 1
        elif frames:
            self.seen[what] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS or (func in INDEXING and any(map(is_mask, args[1]))):
            self.note(func.name())
        return func(*args, **(kwargs or {}))


def is_mask(index):
    return index is not None and index.dtype in (torch.bool, torch.uint8)


class PerBatch(Callback):
    """Counts the reads from the start of a training batch to the start of the next."""

    def __init__(self, reads):
        self.reads, self.counts, self.before = reads, [], None

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.before is not None:
            self.counts.append(self.reads.seen - self.before)
        self.before = self.reads.seen.copy()


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


class Late(Weighed):
    """One task appears in the fourth batch."""

    def losses(self, batch):
        losses = super().losses(batch)
        if self.global_step < 3:
            del losses["b"]
        return losses


class Classifier(Weighed):
    def losses(self, batch):
        return {"a": CrossEntropy(self.net(batch[0]), (batch[1][:, 0] > 0.0).long()), "b": super().losses(batch)["b"]}


CASES = {
    "mixin": (Weighed, TASKS, {}),
    "callback alone": (Returned, TASKS, {}),
    "missing tasks": (Sparse, TASKS, {}),
    "late task": (Late, TASKS, {}),
    "exact softmax": (Classifier, {"a": "softmax_exact", "b": "laplace"}, {}),
    "bf16-mixed": (Weighed, TASKS, {"precision": "bf16-mixed"}),
    "accumulation": (Weighed, TASKS, {"accumulate_grad_batches": 2}),
}


@pytest.mark.filterwarnings("ignore:.*was NaN or infinite in .* calls")
@pytest.mark.parametrize(("cls", "tasks", "options"), CASES.values(), ids=CASES)
def test_a_step_that_does_not_log_reads_nothing_and_one_that_logs_reads_once(tmp_path, reads, cls, tasks, options):
    """From the very first batch, whose losses set s on the device.

    At the start the host looks, once per step, whether every task has its s and its first loss, in host memory: until
    one step after that is so. The history of the run begins with the first step, which the first one that logs fetches
    too.
    """
    watch = PerBatch(reads)
    callback = UncertaintyCallback(tasks)
    callback_options = {"log_every_n_steps": 6, "max_epochs": 1, **options}
    with reads:
        fit(tmp_path, cls(), callback=callback, callbacks=[watch], data=batches(24), **callback_options)
    assert len(watch.counts) == 23  # the last batch of an epoch also publishes, and is not in here
    accumulate = options.get("accumulate_grad_batches", 1)
    looks = 5 if cls is Late else 2
    for batch, found in enumerate(watch.counts):
        step, rest = divmod(batch + 1, accumulate)
        expected = Counter(
            {"tolist": 0 if rest or step % 6 else 2 if step == 6 else 1, HOST_MEMORY: 2 * (not rest and step <= looks)}
        )
        assert found == +expected, batch


@pytest.mark.filterwarnings("ignore:.*was NaN or infinite in .* calls")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_strategy_reads_anything_on_a_step_that_does_not_log(tmp_path, reads, strategy):
    watch, options = PerBatch(reads), {"log_every_n_steps": 50, "max_epochs": 1}
    callback = UncertaintyCallback(TASKS, strategy=strategy)
    with reads:
        fit(tmp_path, Sparse(), callback=callback, callbacks=[watch], data=batches(24), **options)
    assert {name for found in watch.counts for name in found} <= {HOST_MEMORY}


def test_the_flag_is_read_from_host_memory_at_most_until_the_start(reads):
    """Two steps after the last task has started, nothing is looked at any more."""
    weighting = UncertaintyWeighting(TASKS)
    counts = []
    with reads:
        for _ in range(5):
            before = reads.seen[HOST_MEMORY]
            weighting({name: torch.ones((), requires_grad=True) for name in TASKS}).backward()
            weighting.step()
            counts.append(reads.seen[HOST_MEMORY] - before)
    assert counts == [2, 2, 0, 0, 0]
    assert reads.seen.total() == 4


VALUES = torch.tensor([1.0, -1.0, 2.0])
WAITS = {
    "item": "t[0].item()",
    "float": "float(t[0])",
    "branch": "1 if t.any() else 0",
    "tolist": "t.tolist()",
    "mask": "t[t > 0]",
    "mask of bytes in a column": "t.view(3, 1)[(t > 0).byte(), 0]",
    "assignment to a mask": "t.__setitem__(t > 0, torch.ones(2))",
    "nonzero": "t.nonzero()",
    "where": "torch.where(t > 0)",
    "select": "torch.masked_select(t, t > 0)",
    "repeat": "torch.repeat_interleave(t.long().abs())",
    "unique": "t.unique()",
    "equal": "torch.equal(t, t.clone())",
}
GOES_ON = {
    "places": "t[torch.tensor([0, 2])]",
    "slice": "t[1:]",
    "where": "torch.where(t > 0, t, 0.0)",
    "fill": "t.masked_fill(t > 0, 0.0)",
    "assignment to places": "t.__setitem__(torch.tensor([0, 2]), torch.ones(2))",
}


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize(("code", "expected"), [(c, 1) for c in WAITS.values()] + [(c, 0) for c in GOES_ON.values()])
def test_the_counter_sees_a_read_and_only_that(reads, code, expected):
    """The check of the check, with code that seems to be of this package."""
    with reads:
        eval(compile(code, f"{OURS}pretended.py", "eval"), {"torch": torch, "t": VALUES.clone()})
    assert reads.seen.total() == expected


def test_the_counter_sees_the_reads_of_the_engine(reads):
    weighting = UncertaintyWeighting(TASKS, nonfinite="raise", init=0.0)
    with reads:
        weighting({name: torch.ones((), requires_grad=True) for name in TASKS}).backward()
        assert reads.seen == {"tolist": 1}
        _ = weighting.weights
    assert reads.seen.total() == 2
