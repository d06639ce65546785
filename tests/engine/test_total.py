"""The fast sum of eager code against the readable one, which torch.compile gets: same totals, gradients and marks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_uncertainty.engine.total import plain_weighted_sum, weighted_sum
from tests.paper import UncertaintyWeighting

WORST = [0.0, -0.0, 1e-30, 1e30, -3.4e38, 3.4e38, math.nan, math.inf, -math.inf]
RAW = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from(WORST))
WEIGHTS = st.one_of(st.floats(0.0, 1e6, width=32), st.sampled_from([0.0, 1e-17, 2e17]))
OFFSETS = st.one_of(st.floats(-20.0, 20.0, width=32), st.just(math.nan))


def both(rows, dtype):
    """Total, gradient and mark of the fast and of the readable sum."""
    for function in (weighted_sum, plain_weighted_sum):
        raw, weight, offset = torch.tensor(rows, dtype=dtype).reshape(-1, 3).unbind(1)
        raw = raw.clone().requires_grad_()
        total, marked = function(raw, weight, offset)
        total.backward()
        yield total.detach(), raw.grad, marked


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(RAW, WEIGHTS, OFFSETS), min_size=1, max_size=9), st.sampled_from([torch.float32, torch.float64])
)
def test_the_fast_sum_is_the_readable_one(rows, dtype):
    (total, gradient, marked), (expected_total, expected_gradient, expected_marked) = both(rows, dtype)
    largest = max([abs(r * w) + abs(o) for r, w, o in rows if math.isfinite(r * w + o)], default=1.0)
    torch.testing.assert_close(total, expected_total, rtol=1e-6, atol=max(1e-6 * largest, 1e-6))
    assert torch.equal(gradient, expected_gradient)
    assert torch.equal(marked.isnan(), expected_marked.isnan())
    assert torch.equal(marked.nan_to_num(), expected_marked.nan_to_num())


def test_nothing_at_all_sums_to_zero():
    """All tasks sit out: a zero of which a gradient can be taken."""
    for total, gradient, marked in both([[math.nan, 2.0, 1.0], [math.inf, 1.0, 1.0]], torch.float32):
        assert total.item() == 0.0
        assert gradient.tolist() == [0.0, 0.0]
        assert marked.isnan().all()


def weigh(x, weighting):
    return weighting({"a": x.pow(4).sum(), "b": x.exp().sum()})


@pytest.fixture
def weighting():
    engine = UncertaintyWeighting({"a": "gaussian", "b": "softmax"}, init=0.0)
    engine.log_vars = {"a": 0.4, "b": -0.7}
    return engine


def test_the_total_can_be_differentiated_twice(weighting):
    """Gradient penalties and Hessians: the second derivative is that of the formula."""
    x = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(weigh(x, weighting), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    a, b = 0.5 * math.exp(-0.4), math.exp(0.7)
    first = a * 4 * x**3 + b * x.exp()
    torch.testing.assert_close(gradient, first)
    torch.testing.assert_close(second, 2 * first * (a * 12 * x**2 + b * x.exp()))


def test_a_graph_that_is_retained_gives_the_same_gradient_again_after_a_step(weighting):
    """The weights of a graph are those of its call."""
    x = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    total = weigh(x, weighting)
    (first,) = torch.autograd.grad(total, x, retain_graph=True)
    weighting.step()
    (again,) = torch.autograd.grad(total, x)
    assert torch.equal(first, again)


def test_the_total_is_a_tensor_like_any_other(weighting):
    """Nobody is to notice that its value was written by hand."""
    x = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    total = weigh(x, weighting)
    (3.0 * total.square()).backward()
    other = x.detach().clone().requires_grad_()
    a, b = 0.5 * math.exp(-0.4), math.exp(0.7)
    plain = a * other.pow(4).sum() + 0.2 + b * other.exp().sum() - 0.35
    (3.0 * plain.square()).backward()
    torch.testing.assert_close(total, plain)
    torch.testing.assert_close(x.grad, other.grad)
