import itertools
import math

import pytest
import torch

from lightning_uncertainty.likelihoods import SOFTMAX_EXACT, Likelihood, LikelihoodVector, fixed, get_likelihood
from lightning_uncertainty.regularizers import get_regularizer
from tests import oracle
from tests.paper import UncertaintyWeighting

PAIRS = [
    pytest.param(likelihood, regularizer, id=f"{likelihood}-{regularizer}")
    for likelihood, regularizer in itertools.product(oracle.TERMS, oracle.REGULARIZERS)
]
POINTS = [(-6.0, 1e-3), (-1.0, 0.3), (0.0, 1.0), (0.7, 25.0), (5.0, 1e4)]


@pytest.mark.parametrize(("likelihood", "regularizer"), PAIRS)
@pytest.mark.parametrize(("s", "loss"), POINTS)
def test_term_is_the_formula_of_the_article(likelihood, regularizer, s, loss):
    s, loss = oracle.double(s), oracle.double(loss)
    got = get_likelihood(likelihood).term(loss, s, get_regularizer(regularizer))
    torch.testing.assert_close(got, oracle.term(likelihood, regularizer, s, loss), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("likelihood", "regularizer"), PAIRS)
@pytest.mark.parametrize(("s", "loss"), POINTS)
def test_closed_form_derivatives_are_those_of_autograd(likelihood, regularizer, s, loss):
    kind, penalty = get_likelihood(likelihood), get_regularizer(regularizer)
    at = torch.tensor(s, dtype=torch.float64)
    expected = oracle.derivative(lambda x: oracle.term(likelihood, regularizer, x, loss), s)
    torch.testing.assert_close(kind.derivative(torch.tensor(loss, dtype=torch.float64), at, penalty), expected)
    torch.testing.assert_close(
        kind.factor_derivative(at), oracle.derivative(lambda x: oracle.TERMS[likelihood](x, 1.0), s)
    )


@pytest.mark.parametrize(("likelihood", "regularizer"), PAIRS)
@pytest.mark.parametrize("exponent", range(-8, 9, 2))
def test_gradient_vanishes_at_the_closed_form_optimum(likelihood, regularizer, exponent):
    loss = 10.0**exponent
    best = get_likelihood(likelihood).optimum(torch.tensor(loss, dtype=torch.float64), get_regularizer(regularizer))
    gradient = oracle.derivative(lambda x: oracle.term(likelihood, regularizer, x, loss), best.item())
    scale = oracle.derivative(lambda x: oracle.REGULARIZERS[regularizer](x), best.item())
    assert abs(gradient / scale) < 1e-9


@pytest.mark.parametrize("exponent", [-30, -10, 0, 10, 30])
@pytest.mark.parametrize(("likelihood", "regularizer"), PAIRS)
def test_optimum_stays_exact_in_single_precision(likelihood, regularizer, exponent):
    kind, penalty = get_likelihood(likelihood), get_regularizer(regularizer)
    exact = kind.optimum(torch.tensor(10.0**exponent, dtype=torch.float64), penalty)
    single = kind.optimum(torch.tensor(10.0**exponent), penalty)
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "regularizer", "expected"),
    [
        ("gaussian", "log_sigma", lambda loss: math.log(loss)),
        ("softmax", "log_sigma", lambda loss: math.log(2 * loss)),
        ("bernoulli", "log_sigma", lambda loss: math.log(2 * loss)),
        ("laplace", "log_sigma", lambda loss: 2 * math.log(loss)),
        ("gaussian", "sigma", lambda loss: 2 / 3 * math.log(loss)),
    ],
)
def test_optimum_is_the_one_that_is_documented(likelihood, regularizer, expected):
    for loss in (0.03, 1.0, 700.0):
        got = get_likelihood(likelihood).optimum(torch.tensor(loss, dtype=torch.float64), get_regularizer(regularizer))
        assert got.item() == pytest.approx(expected(loss), abs=1e-12)


@pytest.mark.parametrize(
    ("likelihood", "regularizer", "factor"),
    [
        ("gaussian", "log_sigma", 1.0),
        ("softmax", "log_sigma", 1.0),
        ("laplace", "log_sigma", 2.0),
        ("gaussian", "sigma", 2 / 3),
        ("laplace", "sigma", 1.0),
    ],
)
@pytest.mark.parametrize("c", [1e-3, 7.0, 1e5])
def test_scaling_a_loss_moves_its_optimum_by_a_multiple_of_log_c(likelihood, regularizer, factor, c):
    kind, penalty, loss = (
        get_likelihood(likelihood),
        get_regularizer(regularizer),
        torch.tensor(0.37, dtype=torch.float64),
    )
    shift = kind.optimum(c * loss, penalty) - kind.optimum(loss, penalty)
    assert shift.item() == pytest.approx(factor * math.log(c), abs=1e-12)


def test_the_vector_of_likelihoods_agrees_with_each_of_them():
    kinds = [get_likelihood(name) for name in [*oracle.TERMS, "softmax_exact", 0.3]]
    vector = LikelihoodVector(kinds)
    s, loss = torch.linspace(-2, 2, len(kinds)), torch.linspace(0.1, 5, len(kinds))
    for penalty in map(get_regularizer, oracle.REGULARIZERS):
        for k, kind in enumerate(kinds):
            torch.testing.assert_close(vector.term(loss, s, penalty)[k], kind.term(loss[k], s[k], penalty))
            torch.testing.assert_close(vector.derivative(loss, s, penalty)[k], kind.derivative(loss[k], s[k], penalty))
            torch.testing.assert_close(vector.precision(s)[k], kind.precision(s[k]))
            if kind.regularized:
                torch.testing.assert_close(vector.optimum(loss, penalty)[k], kind.optimum(loss[k], penalty))


@pytest.mark.parametrize("kind", [fixed(2.0), SOFTMAX_EXACT], ids=str)
def test_where_nothing_is_weighed_by_s_the_loss_moves_nothing_and_has_no_optimum(kind):
    assert kind.derivative(torch.tensor(3.0), torch.tensor(0.7)) == 0.0
    assert not torch.isfinite(kind.optimum(torch.tensor(3.0)))


def test_a_likelihood_of_ones_own_is_given_by_its_attributes():
    exponential = Likelihood("exponential", rate=0.5, precision_rate=0.5)  # -log p = L / mu + log mu for s = log mu^2
    weighting = UncertaintyWeighting({"a": exponential})
    weighting({"a": torch.tensor(3.0, requires_grad=True)}).backward()
    weighting.step()
    assert weighting.sigmas["a"] == pytest.approx(3.0)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_fixed_weight_must_be_a_finite_number_that_is_not_negative(weight):
    with pytest.raises(ValueError, match="fixed weight"):
        fixed(weight)


def test_unknown_names_are_answered_with_the_closest_one():
    with pytest.raises(ValueError, match=r"Unknown likelihood 'laplac'. Did you mean 'laplace'\? Known: 'gaussian'"):
        get_likelihood("laplac")
    with pytest.raises(ValueError, match=r"Unknown regularizer 'log_sigm'. Did you mean 'log_sigma'\?"):
        get_regularizer("log_sigm")
