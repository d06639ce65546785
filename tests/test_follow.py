"""Loops without a Trainer: s steps with the optimizers that it follows."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch

from lightning_uncertainty import UncertaintyWarning
from tests.paper import UncertaintyWeighting

TASKS = {"a": "gaussian", "b": "laplace"}


class Loop:
    """A network with two heads, an optimizer, and an engine that follows it."""

    def __init__(self, make=torch.optim.Adam, follow=True, **options):
        torch.manual_seed(0)
        self.net, self.seen = torch.nn.Linear(3, 2), []
        self.optimizer = make(self.net.parameters(), **options)
        self.weighting = UncertaintyWeighting(TASKS)
        if follow:
            self.weighting.follow(self.optimizer)

    def total(self, scale=1.0):
        error = self.net(torch.randn(8, 3))
        losses = {"a": error[:, 0].square().mean(), "b": error[:, 1].abs().mean() * scale}
        self.seen.append({name: loss.detach().clone().requires_grad_() for name, loss in losses.items()})
        return self.weighting(losses)

    def check(self, *windows):
        """Assert that s is what it is after steps on the losses of these calls."""
        expected = UncertaintyWeighting(TASKS)
        for window in windows:
            for index in window:
                expected(self.seen[index]).backward()
            expected.step()
        assert torch.equal(self.weighting.log_var, expected.log_var)
        assert self.weighting.steps == len(windows)


def each(count):
    return [[index] for index in range(count)]


def test_it_steps_by_itself_and_step_is_superfluous_then():
    for also in (False, True):
        loop = Loop()
        for _ in range(20):
            loop.optimizer.zero_grad()
            loop.total().backward()
            loop.optimizer.step()
            if also:
                loop.weighting.step()
        loop.check(*each(20))


def test_losses_without_a_backward_pass_do_not_count():
    loop = Loop(follow=False)
    for index in range(6):
        total = loop.total()
        if index % 2:
            total.backward()
            loop.weighting.step()
    loop.check([1], [3], [5])


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("followed", [True, False], ids=["followed", "by hand"])
def test_gradients_zeroed_before_they_were_used(followed, to_none):
    loop = Loop(follow=followed)
    for index in range(12):
        loop.optimizer.zero_grad(set_to_none=to_none)
        loop.total(1e6 if index % 4 == 2 else 1.0).backward()
        if index % 4 != 2:
            loop.optimizer.step()
            loop.weighting.step()
    loop.check(*([index] for index in range(12) if index % 4 != 2))
    assert {task.dropped for task in loop.weighting.snapshot().tasks.values()} == {3}


class Words(torch.nn.Module):
    """An embedding whose first row never has a gradient, before the heads."""

    def __init__(self, sparse):
        super().__init__()
        self.words = torch.nn.Embedding(5, 3, padding_idx=0, sparse=sparse)
        self.heads = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.heads(self.words(x[:, 0].abs().mul(2).long().clamp(1, 4)))


@pytest.mark.parametrize("sparse", [False, True])
def test_a_gradient_that_is_always_zero_hides_no_zeroed_one(sparse):
    loop = Loop(follow=False)
    loop.net = Words(sparse)
    loop.optimizer = torch.optim.SGD(loop.net.parameters(), lr=0.1)
    loop.weighting.follow(loop.optimizer)
    for index in range(12):
        loop.optimizer.zero_grad(set_to_none=False)
        loop.total(1e6 if index % 4 == 2 else 1.0).backward()
        if index % 4 != 2:
            loop.optimizer.step()
    loop.check(*([index] for index in range(12) if index % 4 != 2))


def test_parameters_whose_gradient_is_taken_away_alone_are_no_sign():
    """As DINO holds its last layer still at first; here the first parameter has no gradient either."""
    loop, unused = Loop(follow=False), torch.nn.Parameter(torch.zeros(1))
    loop.optimizer = torch.optim.SGD([unused, *loop.net.parameters()], lr=0.1)
    loop.weighting.follow(loop.optimizer)
    for _ in range(6):
        loop.optimizer.zero_grad()
        loop.total().backward()
        loop.net.bias.grad = None
        loop.optimizer.step()
    loop.check(*each(6))


def test_an_optimizer_without_gradients_that_steps_first_takes_nothing_away():
    loop = Loop()
    other = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
    loop.weighting.follow(other)
    for _ in range(6):
        loop.optimizer.zero_grad()
        loop.total().backward()
        other.step()
        loop.optimizer.step()
    loop.check(*each(6))


def test_losses_that_reach_only_some_parameters_of_an_optimizer_are_its_own():
    loop, first, last = Loop(follow=False), torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    loop.optimizer = torch.optim.SGD([*first.parameters(), *loop.net.parameters(), *last.parameters()], lr=0.01)
    loop.weighting.follow(loop.optimizer)
    for index in range(8):
        loop.optimizer.zero_grad()
        loop.total().backward()
        if index % 2:
            last(torch.ones(3)).sum().backward()
        loop.optimizer.step()
    loop.check(*each(8))


def test_an_optimizer_that_zeroes_when_it_has_stepped_has_stepped():
    loop = Loop()
    loop.optimizer.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
    for _ in range(6):
        loop.total().backward()
        loop.optimizer.step()
    loop.check(*each(6))


def test_accumulation_counts_all_that_was_accumulated():
    loop = Loop()
    for index in range(12):
        loop.total().backward()
        if index % 4 == 3:
            loop.optimizer.step()
            loop.optimizer.zero_grad()
    loop.check([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11])


class Lazy(torch.optim.Optimizer):
    """As Accelerate wraps an optimizer: nothing happens until the last micro-batch."""

    def __init__(self, optimizer):
        self.optimizer, self.calls = optimizer, 0

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self):
        self.calls += 1
        if self.calls % 4 == 0:
            self.optimizer.step()

    def zero_grad(self):
        if self.calls % 4 == 0:
            self.optimizer.zero_grad()


def test_a_wrapper_that_steps_at_the_last_micro_batch_only():
    loop = Loop(lambda parameters: Lazy(torch.optim.Adam(parameters)))
    for _ in range(12):
        loop.total().backward()
        loop.optimizer.step()
        loop.optimizer.zero_grad()
    loop.check([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11])


@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=["Adam", "one that skips by itself"])
def test_a_step_that_a_scaler_skips_is_none(options):
    loop, scaler = Loop(**options), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for index in range(12):
        loop.optimizer.zero_grad()
        scaler.scale(loop.total() * (torch.inf if index % 5 == 1 else 1.0)).backward()
        scaler.step(loop.optimizer)
        scaler.update()
    loop.check(*([index] for index in range(12) if index % 5 != 1))


@pytest.mark.parametrize("inner", [1, 3])
def test_several_optimizers_each_step_of_those_that_it_follows_with_losses(inner):
    loop, other = Loop(), torch.nn.Linear(3, 1)
    foreign = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(5):
        for _ in range(4):
            other(torch.randn(2, 3)).sum().backward()
            foreign.step()
        for _ in range(inner):
            loop.optimizer.zero_grad()
            loop.total().backward()
            loop.optimizer.step()
    loop.check(*each(5 * inner))


@pytest.mark.parametrize("followed", [True, False], ids=["followed", "by hand"])
def test_of_a_closure_the_last_evaluation_counts(followed):
    options = {"lr": 1.0, "max_iter": 6, "line_search_fn": "strong_wolfe"}
    loop, last = Loop(torch.optim.LBFGS, follow=followed, **options), []

    def closure():
        loop.optimizer.zero_grad()
        total = loop.total()
        total.backward()
        return total

    for _ in range(4):
        loop.optimizer.step(closure)
        loop.weighting.step()
        last.append([len(loop.seen) - 1])
    assert len(loop.seen) > 8
    loop.check(*last)
    assert {task.dropped for task in loop.weighting.snapshot().tasks.values()} == {0}


def test_gradients_that_are_asked_for_count_too():
    loop = Loop()
    for _ in range(5):
        loop.optimizer.zero_grad()
        parameters = list(loop.net.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loop.total(), parameters), strict=True):
            parameter.grad = gradient
        loop.optimizer.step()
    loop.check(*each(5))


def test_two_totals_of_one_step_count_whenever_backward_comes():
    loop = Loop()
    for _ in range(4):
        loop.optimizer.zero_grad()
        one, two = loop.total(), loop.total()
        (one + two).backward()
        loop.optimizer.step()
    loop.check([0, 1], [2, 3], [4, 5], [6, 7])
    assert {task.dropped for task in loop.weighting.snapshot().tasks.values()} == {0}


def test_a_loop_that_never_steps_is_told_once():
    loop = Loop(follow=False)

    def train():
        for _ in range(700):
            loop.optimizer.zero_grad()
            loop.total().backward()
            loop.optimizer.step()

    with pytest.warns(UncertaintyWarning, match=r"`weighting.follow\(optimizer\)` once") as said:
        train()
    assert len(said) == 1


def test_many_evaluations_of_one_closure_are_no_loop_that_never_steps():
    loop = Loop(torch.optim.LBFGS, lr=1e-4, max_iter=400, tolerance_grad=0.0, tolerance_change=0.0)
    x = torch.randn(8, 3)

    def closure():
        loop.optimizer.zero_grad()
        error = loop.net(x)
        total = loop.weighting({"a": error[:, 0].square().mean(), "b": error[:, 1].abs().mean()})
        total.backward()
        return total

    loop.optimizer.step(closure)
    assert loop.weighting.steps == 1


def test_whom_it_does_not_need_it_does_not_keep():
    loop = Loop()
    weighting, optimizer = loop.weighting, weakref.ref(loop.optimizer)
    loop.total().backward()
    loop.optimizer.step()
    del loop
    gc.collect()
    assert optimizer() is None
    assert weighting.steps == 1


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="got an object of type Linear, without `param_groups`"):
        UncertaintyWeighting(TASKS).follow(torch.nn.Linear(1, 1))


def test_an_engine_that_nobody_needs_is_not_kept_by_its_hooks():
    loop = Loop()
    engine, optimizer = weakref.ref(loop.weighting), loop.optimizer
    loop.total().backward()
    del loop
    gc.collect()
    assert engine() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_a_copy_follows_nobody(copied):
    loop = Loop()
    loop.total().backward()
    twin = copied(loop.weighting)
    loop.optimizer.step()
    assert (loop.weighting.steps, twin.steps) == (1, 0)
    twin.step()
    assert twin.steps == 1
    assert torch.equal(twin.log_var, loop.weighting.log_var)


def test_in_a_compiled_total_too():
    loop = Loop()

    def weighed(x):
        error = loop.net(x)
        return loop.weighting({"a": error[:, 0].square().mean(), "b": error[:, 1].abs().mean()})

    compiled = torch.compile(weighed, backend="aot_eager", fullgraph=True)
    for index in range(8):
        loop.optimizer.zero_grad()
        x = torch.randn(8, 3)
        with torch.no_grad():
            losses = {"a": loop.net(x)[:, 0].square().mean(), "b": loop.net(x)[:, 1].abs().mean()}
        loop.seen.append({name: loss.requires_grad_() for name, loss in losses.items()})
        total = compiled(x)
        if index % 3:
            total.backward()
        loop.optimizer.step()
    loop.check(*([index] for index in range(8) if index % 3))
    assert {task.dropped for task in loop.weighting.snapshot().tasks.values()} == {3}
