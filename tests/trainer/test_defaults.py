"""The defaults in a Trainer: they begin with the plain sum, and keep its size. Other tests use the article's total."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_uncertainty import UncertaintyCallback
from tests.models import Weighed, batches, fit, trainer
from tests.workers import loop_ranks
from tests.workers.processes import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


class Recording(Weighed):
    """Keeps how much each loss counts in each batch."""

    def on_fit_start(self):
        self.factors, self.totals = [], []

    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        total = self.weigh(losses)
        self.factors.append(torch.stack(torch.autograd.grad(total, list(losses.values()), retain_graph=True)))
        self.totals.append((total / sum(losses.values())).item())
        return total


@pytest.mark.parametrize(("accumulate", "plain"), [(1, 20), (4, 20)])
def test_a_tenth_of_the_optimizer_steps_is_the_plain_sum(tmp_path, accumulate, plain):
    module, runner = fit(
        tmp_path,
        Recording(),
        data=batches(50 * accumulate),
        callback=UncertaintyCallback(),
        max_epochs=4,
        accumulate_grad_batches=accumulate,
    )
    assert runner.estimated_stepping_batches == 200
    factors = torch.stack(module.factors)
    assert (factors[: plain * accumulate] == 1.0).all()
    assert (factors[plain * accumulate] != 1.0).any()
    assert all(0.2 < ratio < 5.0 for ratio in module.totals)
    assert runner.callback_metrics["uncertainty/trust"] == 1.0


@pytest.mark.parametrize("step", [7, 20, 33, 60])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, step):
    options = {"data": batches(50), "max_epochs": 4}
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=step, save_top_k=-1)
    one, two = UncertaintyCallback(), UncertaintyCallback()
    whole, _ = fit(tmp_path, callback=one, callbacks=[saving], enable_checkpointing=True, **options)
    rest, _ = fit(tmp_path, callback=two, ckpt_path=tmp_path / f"step={step}.ckpt", **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))
    assert one.weighting.snapshot() == two.weighting.snapshot()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_the_state_is_in_single_precision_and_finite(tmp_path, precision):
    callback = UncertaintyCallback()
    fit(tmp_path, data=batches(50), callback=callback, precision=precision, max_epochs=2)
    tensors = [value for value in callback.weighting.state_dict().values() if isinstance(value, torch.Tensor)]
    assert {tensor.dtype for tensor in tensors} <= {torch.float32, torch.int64, torch.bool}
    assert callback.weighting.snapshot().tasks["a"].trust == 1.0
    assert all(math.isfinite(sigma) for sigma in callback.weighting.sigmas.values())


def test_max_steps_tells_the_length_of_an_endless_set(tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield from batches(20)

    data = torch.utils.data.DataLoader(Endless(), batch_size=None)
    module = Recording()
    trainer(tmp_path, UncertaintyCallback(), max_steps=210, max_epochs=-1).fit(module, data)
    assert (torch.stack(module.factors)[:21] == 1.0).all()
    assert (torch.stack(module.factors)[21] != 1.0).all()


def test_two_ranks_hold_and_trust_as_one_process_does(tmp_path):
    one, other = run_ranks(loop_ranks.guard_of_each_rank, folder=tmp_path)
    assert one["factors"] == other["factors"]
    assert one["state"] == other["state"]
    assert one["held"] == [False, True, False]
    torch.testing.assert_close(torch.tensor(one["factors"]), torch.tensor(one["alone"]), rtol=1e-4, atol=1e-6)
