"""The prior of learned uncertainty: a factor that stays bounded, beside a sigma that stays the noise."""

import math

import pytest
import torch

from lightning_uncertainty import CrossEntropy, UncertaintyWeighting

TASKS = {"a": "gaussian", "b": "laplace", "c": "softmax"}
FIRST = [4.0, 3.0, 0.7]
REGULARIZERS = ["log_sigma", "sigma", "log1p_var"]


def engine(prior, tasks=TASKS, **options):
    return UncertaintyWeighting(tasks, prior=prior, **{"scale": None, "guard": False, "lr": 0.05, **options})


def run(weighting, rows):
    """The factors in each step, of shape (steps, K)."""
    factors = []
    for row in rows:
        losses = torch.as_tensor(row).clone().requires_grad_()
        weighting(losses).backward()
        weighting.step()
        factors.append(losses.grad)
    return torch.stack(factors)


@pytest.mark.parametrize("prior", [0.01, 0.3])
def test_no_factor_passes_its_bound_however_small_the_loss_becomes(prior):
    """1 / (2 r b L0), from the condition that a factor f = c e^(-r t) is at an optimum t of L + b L0 with L >= 0."""
    falling = [[first * 0.9**step for first in FIRST] for step in range(400)]
    factors = run(engine(prior, min_variance_ratio=0.0, bounds=(-200.0, 40.0)), falling)
    rates = torch.tensor([1.0, 0.5, 1.0])
    bound = 1.0 / (2.0 * rates * prior * torch.tensor(FIRST))
    assert (factors <= bound * (1.0 + 1e-5)).all()
    assert (factors[-1] > 0.9 * bound).all()
    without = run(engine(0.0, min_variance_ratio=0.0, bounds=(-200.0, 40.0)), falling)
    assert (without[-1] > 10.0 * bound * prior).all()


def test_the_factor_is_that_of_the_article_at_the_loss_and_the_prior():
    """Where sigma is at its optimum:

    exp(t) = L + b L0 for a Gaussian, exp(t / 2) for Laplace, exp(t) / 2 for softmax.
    """
    weighting = engine(0.1)
    factors = run(weighting, [FIRST])
    assert weighting.sigmas == pytest.approx({"a": 2.0, "b": 3.0, "c": math.sqrt(1.4)})  # those without a prior
    factors = torch.cat([factors, run(weighting, [FIRST])])
    both = 1.1 * torch.tensor(FIRST, dtype=torch.float64)
    expected = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64) / both
    for row in factors.double():
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("prior", [0.0, 0.05, 1.0])
def test_sigma_is_unbiased_whatever_the_prior(prior, regularizer):
    """Losses that fall to a tenth and then stay, with noise from step to step: the optimum at their mean."""
    noise = torch.rand(1500, 3, generator=torch.Generator().manual_seed(3)) + 0.5
    weighting, found = engine(prior, regularizer=regularizer, lr=0.01), []
    for step, row in enumerate(torch.tensor(FIRST) * noise):
        run(weighting, [row if step == 0 else 0.1 * row])
        found.append(weighting.log_var)
    settled = engine(0.0, regularizer=regularizer)
    run(settled, [[0.1 * first * noise.mean().item() for first in FIRST]])
    expected = torch.tensor([2.0 * math.log(sigma) for sigma in settled.sigmas.values()])
    torch.testing.assert_close(torch.stack(found[-500:]).mean(0), expected, atol=0.12, rtol=0.0)


def test_a_prior_of_next_to_nothing_changes_nothing():
    rows = torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) + 0.5
    torch.testing.assert_close(run(engine(1e-9), rows), run(engine(0.0), rows), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(
    "options", [{}, {"scale": "sum", "guard": True}, {"scale": "geometric"}, {"regularizer": "sigma"}]
)
def test_resumed_it_goes_on_bit_for_bit_and_a_graph_has_the_same_factors(options):
    rows = torch.rand(30, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([9.0, 1.0, 0.1])
    whole, first, second, compiled = (engine(0.05, **options) for _ in range(4))
    run(whole, rows)
    run(first, rows[:12])
    second.load_state_dict(first.state_dict())
    run(second, rows[12:])
    assert whole.snapshot() == second.snapshot()
    torch._dynamo.reset()
    call = torch.compile(lambda values: compiled(values), fullgraph=True, backend="aot_eager")
    eager = run(engine(0.05, **options), rows[:4])
    for row, expected in zip(rows, eager, strict=False):
        losses = row.clone().requires_grad_()
        call(losses).backward()
        compiled.step()
        torch.testing.assert_close(losses.grad, expected)


def test_an_exact_softmax_a_fixed_task_and_one_that_waits_have_none():
    tasks = {"a": "softmax_exact", "b": "gaussian", "late": "gaussian", "aux": 0.5}
    found = []
    for prior in (0.0, 0.5):
        weighting, logits = engine(prior, tasks), torch.tensor([[1.0, 0.0]], requires_grad=True)
        for step in range(3):
            losses = {name: torch.tensor(2.0, requires_grad=True) for name in ("b", "aux", *["late"] * (step == 2))}
            weighting({**losses, "a": CrossEntropy(logits, torch.tensor([1]))}).backward()
            weighting.step()
        found.append((weighting.log_vars["a"], losses["aux"].grad.item(), logits.grad.tolist()))
        assert losses["late"].grad.item() == pytest.approx(0.25 / (1.0 + prior))
        assert weighting.sigmas["late"] == pytest.approx(math.sqrt(2.0))
    assert found[0] == found[1]


def test_sigmas_that_are_set_are_those_that_are_read():
    weighting = engine(0.2)
    weighting.sigmas = {"a": 3.0, "b": 0.5}
    assert weighting.sigmas["a"] == pytest.approx(3.0)
    assert weighting.snapshot().tasks["a"].factor == pytest.approx(0.5 / (1.2 * 9.0))


def test_a_prior_below_zero_is_refused():
    with pytest.raises(ValueError, match="prior"):
        engine(-0.1)
