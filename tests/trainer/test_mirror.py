"""s learns from exactly those losses whose gradients an optimizer of the network has used."""

import math
import warnings

import lightning as L
import pytest
import torch

from lightning_uncertainty import UncertaintyMixin, UncertaintyWarning
from lightning_uncertainty.reporting.diagnosis import diagnose
from tests.models import TASKS, Recorded, Weighed, batches, fit, trainer
from tests.paper import UncertaintyCallback, UncertaintyWeighting
from tests.workers import mirror_ranks
from tests.workers.processes import run_ranks

BAD = range(2, 24, 5)  # the batches that are skipped, one way or another


class Skips(Recorded):
    """Weighs each batch, and then does something else with some."""

    bad = BAD

    def training_step(self, batch, batch_idx):
        self.index = batch_idx
        return super().training_step(batch, batch_idx)


class ReturnsNone(Skips):
    def training_step(self, batch, batch_idx):
        total = super().training_step(batch, batch_idx)
        return None if batch_idx in self.bad else total


class SetsToNone(Skips):
    def on_after_backward(self):
        if self.index in self.bad:
            self.zero_grad()


class Zeroes(Skips):
    def on_before_optimizer_step(self, optimizer):
        if self.index in self.bad:
            for parameter in self.parameters():
                parameter.grad.mul_(-0.0)


class Detaches(Skips):
    def training_step(self, batch, batch_idx):
        total = super().training_step(batch, batch_idx)
        return sum(p.sum() for p in self.parameters()) * 0.0 + total.detach() if batch_idx in self.bad else total


class ByHand(Skips):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        if batch_idx not in self.bad:
            optimizer.step()


class ByHandWithoutBackward(ByHand):
    def training_step(self, batch, batch_idx):
        if batch_idx in self.bad:
            Skips.training_step(self, batch, batch_idx)
        else:
            super().training_step(batch, batch_idx)


WAYS = [ReturnsNone, SetsToNone, Zeroes, Detaches, ByHand, ByHandWithoutBackward]


def learned_from(seen):
    weighting = UncertaintyWeighting(TASKS)
    for losses in seen:
        weighting(losses).backward()
        weighting.step()
    return weighting


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_batch_that_the_network_skips_is_none_of_s(tmp_path, way):
    callback = UncertaintyCallback()
    module, _ = fit(tmp_path, way(), callback=callback, max_epochs=1)
    expected = learned_from(losses for index, losses in enumerate(module.seen) if index not in BAD)
    assert torch.equal(module.uncertainty.log_var, expected.log_var)
    assert module.uncertainty.steps == expected.steps == 24 - len(BAD)
    tasks = module.uncertainty.snapshot().tasks.values()
    assert {(task.dropped, task.absent) for task in tasks} == {(len(BAD), 0)}
    said = [str(found) for found in diagnose(callback.history)]
    assert any(f"{len(BAD)} steps dropped" in sentence for sentence in said), said
    assert not any("Nothing stands out" in sentence or "took no part" in sentence for sentence in said)


@pytest.mark.parametrize("way", [ReturnsNone, SetsToNone, Zeroes, Detaches], ids=lambda way: way.__name__)
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_within_an_accumulation_too(tmp_path, way):
    """Of four micro-batches, the gradients of the first two are dropped with those of the second."""

    class Second(way):
        bad = range(1, 24, 4)

    module, _ = fit(tmp_path, Second(), max_epochs=1, accumulate_grad_batches=4)
    expected = UncertaintyWeighting(TASKS)
    for first in range(0, 24, 4):
        kept = (0, 2, 3) if way in (ReturnsNone, Detaches) else (2, 3)
        kept = (0, 1, 2, 3) if way is Zeroes else kept  # that hook is called once, in the fourth
        for index in kept:
            expected(module.seen[first + index]).backward()
        expected.step()
    assert torch.equal(module.uncertainty.log_var, expected.log_var)


class Closures(Recorded):
    """Counts its evaluations."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=1.0, max_iter=8, line_search_fn="strong_wolfe")

    def losses(self, batch):
        self.evaluations = getattr(self, "evaluations", 0) + 1
        return super().losses(batch)

    def on_train_batch_end(self, *args):
        self.last = [*getattr(self, "last", []), self.seen[-1]]


def test_of_the_points_that_a_line_search_tries_only_the_last_counts(tmp_path):
    module, _ = fit(tmp_path, Closures(), max_epochs=1)
    assert module.evaluations > 3 * 24
    assert torch.equal(module.uncertainty.log_var, learned_from(module.last).log_var)
    assert module.uncertainty.steps == 24
    assert {task.dropped for task in module.uncertainty.snapshot().tasks.values()} == {0}


def test_the_points_of_a_line_search_are_weighed_alike_also_before_s_has_a_value(tmp_path):
    """Else the values of the total would not belong to its gradients."""

    class Weighs(Closures):
        def training_step(self, batch, batch_idx):
            total = super().training_step(batch, batch_idx)
            self.kept = [*getattr(self, "kept", []), (total.item(), self.seen[-1])]
            return total

    module, _ = fit(tmp_path, Weighs(), max_epochs=1, limit_train_batches=1)
    first = {name: loss.item() for name, loss in module.kept[0][1].items()}
    assert len(module.kept) > 3
    for total, losses in module.kept:
        expected = 0.5 * losses["a"].item() / first["a"] + losses["b"].item() / first["b"]
        expected += 0.5 * math.log(first["a"]) + math.log(first["b"])  # s of a Laplace is 2 log b
        assert total == pytest.approx(expected, rel=1e-5)


class Sharpness(torch.optim.Optimizer):
    """SAM: a step up to a worse point, and the step down from there by another optimizer of the same parameters."""

    def __init__(self, parameters):
        parameters = list(parameters)
        super().__init__(parameters, {})
        self.base = torch.optim.SGD(parameters, lr=0.05)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def move(self, sign):
        for parameter in self.param_groups[0]["params"]:
            if sign > 0:
                self.state[parameter] = parameter.grad.clone()
            parameter.add_(self.state[parameter], alpha=0.05 * sign)

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            closure()
        self.move(+1)
        with torch.enable_grad():
            loss = closure()
        self.move(-1)
        self.base.step()
        return loss


def test_with_sam_s_learns_from_the_point_whose_gradient_the_network_takes(tmp_path):
    class Sharp(Closures):
        def configure_optimizers(self):
            return Sharpness(self.parameters())

    module, _ = fit(tmp_path, Sharp(), max_epochs=1)
    assert module.evaluations == 2 * 24
    assert torch.equal(module.uncertainty.log_var, learned_from(module.last).log_var)
    assert module.uncertainty.steps == 24


# ---------------------------------------------------------------------------------------------------- several steps


class Part(UncertaintyMixin, L.LightningModule):
    """``inner`` steps on its losses in each batch, and ``others`` of an optimizer that they do not concern."""

    tasks = TASKS
    automatic_optimization = False

    def __init__(self, inner, others=0, every=1):
        super().__init__()
        torch.manual_seed(1)
        self.net, self.other, self.seen = torch.nn.Linear(4, 2), torch.nn.Linear(4, 1), []
        self.inner, self.others, self.every = inner, others, every

    def training_step(self, batch, batch_idx):
        mine, foreign = self.optimizers()
        x, y = batch
        for _ in range(self.others):
            foreign.zero_grad()
            self.manual_backward(self.other(x).square().mean())
            foreign.step()
        if batch_idx % self.every:
            return
        for _ in range(self.inner):
            error = self.net(x) - y
            losses = {"a": error[:, 0].square().mean(), "b": error[:, 1].abs().mean()}
            self.seen.append({name: loss.detach().clone().requires_grad_() for name, loss in losses.items()})
            mine.zero_grad()
            self.manual_backward(self.weigh(losses))
            mine.step()

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters()), torch.optim.Adam(self.other.parameters())


@pytest.mark.parametrize(("inner", "others", "every"), [(4, 0, 1), (1, 5, 1), (1, 1, 5), (3, 2, 2), (0, 1, 1)])
def test_a_step_of_s_belongs_to_a_step_on_its_losses(tmp_path, inner, others, every):
    callback = UncertaintyCallback(warmup_steps=6)
    module = Part(inner, others, every)
    if inner:
        trainer(tmp_path, callback, max_epochs=1).fit(module, batches())
    else:
        with pytest.warns(UserWarning, match="No loss of 'a', 'b' reached"):
            trainer(tmp_path, callback, max_epochs=1).fit(module, batches())
    expected = UncertaintyWeighting(TASKS, warmup_steps=6)
    for losses in module.seen:
        expected(losses).backward()
        expected.step()
    assert module.uncertainty.steps == len(module.seen) == inner * -(-24 // every)
    assert torch.equal(module.uncertainty.log_var, expected.log_var)
    assert {(task.absent, task.dropped) for task in module.uncertainty.snapshot().tasks.values()} == {(0, 0)}


class Copies(torch.optim.Optimizer):
    """Trains copies of the parameters, as offloading and master weights do; torch's hooks do not know its step."""

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.copies = [parameter.detach().clone() for parameter in self.parameters]
        self.inner = torch.optim.SGD(self.copies, lr=0.01)
        self.param_groups, self.state, self.defaults = [{"params": self.parameters, "lr": 0.01}], {}, {}

    def step(self, closure=None):
        loss = closure()
        for copy, parameter in zip(self.copies, self.parameters, strict=True):
            copy.grad = parameter.grad
        self.inner.step()
        with torch.no_grad():
            for copy, parameter in zip(self.copies, self.parameters, strict=True):
                parameter.copy_(copy)
        return loss

    def zero_grad(self, set_to_none=True):
        for parameter in self.parameters:
            parameter.grad = None


def test_an_optimizer_whose_steps_cannot_be_seen_is_told_and_s_learns_all_the_same(tmp_path):
    class Hidden(Weighed):
        def configure_optimizers(self):
            return Copies(self.parameters())

    with pytest.warns(UncertaintyWarning, match="no optimizer was seen that had gradients of the parameters"):
        module, _ = fit(tmp_path, Hidden(), max_epochs=1)
    assert module.uncertainty.steps == 24 - 5


def test_a_fit_leaves_whom_the_user_follows(tmp_path):
    module, x = Weighed(), torch.ones(2, requires_grad=True)
    module.uncertainty, optimizer = UncertaintyWeighting(TASKS), torch.optim.SGD([x], lr=0.1)
    module.uncertainty.follow(optimizer)
    fit(tmp_path, module, max_epochs=1)
    module.weigh({"a": x[0].square(), "b": x[1].abs()}).backward()
    optimizer.step()
    assert module.uncertainty.steps == 25


def test_parameters_that_an_optimizer_gets_later_are_followed_from_the_next_epoch(tmp_path):
    class Outer(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.inner, self.other = Skips(), torch.nn.Linear(1, 1)

        def training_step(self, batch, batch_idx):
            total = self.inner.training_step(batch, batch_idx) + 0.0 * self.other(torch.ones(1)).sum()
            return None if self.current_epoch and batch_idx in BAD else total

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.optimizers().add_param_group({"params": list(self.inner.parameters())})

        def configure_optimizers(self):
            return torch.optim.SGD(self.other.parameters(), lr=0.01)

    module = Outer()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`training_step` returned `None`")
        fit(tmp_path, module, callback=UncertaintyCallback(module="inner"), max_epochs=2)
    assert module.inner.uncertainty.steps == 24 + 24 - len(BAD)


# ---------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("way", mirror_ranks.WAYS)
def test_a_rank_that_drops_its_losses_neither_hangs_the_others_nor_differs(tmp_path, way):
    one, other = run_ranks(mirror_ranks.drops, tmp_path, way, folder=tmp_path)
    assert torch.equal(one["log_var"], other["log_var"])
    assert one["steps"] == other["steps"] == one["expected steps"]
    assert one["dropped"] == other["dropped"] > 0
    assert one["log_var"].tolist() == pytest.approx(one["expected"], abs=1e-6)
