"""Each strategy against the formula of its paper, computed in float64 by hand or by autograd, and at its limits."""

import math

import pytest
import torch

from lightning_uncertainty import UncertaintyCallback, UncertaintyWarning, UncertaintyWeighting
from lightning_uncertainty.strategies import DWA, STRATEGIES, UWSO, Random
from tests.models import Weighed, fit

TASKS = {"a": "gaussian", "b": "laplace", "c": "softmax"}
LOSSES = [[300.0, 2.0, 0.01], [200.0, 1.5, 0.02], [9.0, 1.0, 0.04], [4.0, 1.2, 0.01]]
SIGMALESS = [name for name in STRATEGIES if name != "uncertainty"]


def run(weighting, rows, each=lambda: None):
    """Return the total and the gradient at each row of losses, one step per row."""
    found = []
    for row in rows:
        losses = torch.tensor(row, requires_grad=True)
        total = weighting(losses)
        total.backward()
        weighting.step()
        each()
        found.append((total.item(), losses.grad.double()))
    return found


def check(found, expected):
    assert len(found) == len(expected) > 0
    for (total, gradient), (right_total, right_gradient) in zip(found, expected, strict=True):
        assert total == pytest.approx(right_total, rel=1e-5, abs=1e-6)
        torch.testing.assert_close(
            gradient, torch.as_tensor(right_gradient, dtype=torch.float64), rtol=1e-5, atol=1e-20
        )


def differentiated(total, rows=LOSSES):
    """What autograd makes of a total in float64."""
    found = []
    for row in rows:
        losses = torch.tensor(row, dtype=torch.float64, requires_grad=True)
        value = total(losses)
        (gradient,) = torch.autograd.grad(value, losses)
        found.append((value.item(), gradient))
    return found


def weighed(rows, weights):
    """The total and the gradient of given factors."""
    return [(sum(w * x for w, x in zip(ws, row, strict=True)), ws) for row, ws in zip(rows, weights, strict=True)]


def softmax(values):
    exponentials = [math.exp(value - max(values)) for value in values]
    return [each / sum(exponentials) for each in exponentials]


# ---------------------------------------------------------------------------------------------------- the formulas


def test_equal_is_the_plain_sum():
    check(run(UncertaintyWeighting(TASKS, strategy="equal"), LOSSES), differentiated(torch.sum))


def test_initial_is_the_sum_of_the_losses_as_parts_of_the_first():
    first = torch.tensor(LOSSES[0], dtype=torch.float64)
    found = run(UncertaintyWeighting(TASKS, strategy="initial"), LOSSES)
    check(found, differentiated(lambda losses: (losses / first).sum()))


def test_initial_takes_the_mean_of_the_first_step():
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "gaussian"}, strategy="initial")
    factors = []
    for row in ([2.0, math.nan], [6.0, 5.0]):
        losses = torch.tensor(row, requires_grad=True)
        weighting(losses).backward()
        factors.append(losses.grad.tolist())
    weighting.step()
    assert factors == [[0.5, 0.0], pytest.approx([0.5, 0.2])]
    assert weighting.weights == {"a": 0.25, "b": pytest.approx(0.2)}


def test_log_sum_is_the_sum_of_the_logarithms():
    found = run(UncertaintyWeighting(TASKS, strategy="log_sum"), LOSSES)
    check(found, differentiated(lambda losses: losses.log().sum()))


def test_geometric_mean_is_the_root_of_the_product():
    found = run(UncertaintyWeighting(TASKS, strategy="geometric_mean"), LOSSES)
    check(found, differentiated(lambda losses: losses.prod() ** (1 / 3)))


def test_log_sum_is_learned_uncertainty_that_is_at_its_optimum_in_each_step():
    """log x = min over s of e^s x - s - 1: so all of the log family are one but for lag and step size."""
    for row in LOSSES:
        weighting = UncertaintyWeighting(dict.fromkeys("abc", "softmax"), scale=None, guard=False)
        ((_, gradient),) = run(weighting, [row])
        ((_, expected),) = run(UncertaintyWeighting(dict.fromkeys("abc", "softmax"), strategy="log_sum"), [row])
        torch.testing.assert_close(gradient, expected / 2, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("temperature", [1.0, 20.0, 0.01])
def test_uw_so_is_the_softmax_of_the_inverse_losses(temperature):
    strategy = "uw_so" if temperature == 1.0 else UWSO(temperature=temperature)
    weights = [softmax([1.0 / (temperature * loss) for loss in row]) for row in LOSSES]
    check(run(UncertaintyWeighting(TASKS, strategy=strategy), LOSSES), weighed(LOSSES, weights))


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_dwa_is_the_softmax_of_the_ratios_of_the_last_two_epochs(temperature):
    strategy = "dwa" if temperature == 2.0 else DWA(temperature=temperature)
    weighting = UncertaintyWeighting(TASKS, strategy=strategy)
    epochs = [LOSSES[:2], LOSSES[1:], LOSSES[:1], LOSSES[2:]]
    found = [each for epoch in epochs for each in (run(weighting, epoch), weighting.end_epoch())[0]]
    weights, means = [], [[sum(column) / len(epoch) for column in zip(*epoch, strict=True)] for epoch in epochs]
    for index, epoch in enumerate(epochs):
        ratios = [1.0] * 3
        if index >= 2:
            ratios = [last / before for last, before in zip(means[index - 1], means[index - 2], strict=True)]
        weights += [[3.0 * each for each in softmax([ratio / temperature for ratio in ratios])]] * len(epoch)
    check(found, weighed([row for epoch in epochs for row in epoch], weights))


def test_random_is_k_times_the_softmax_of_independent_standard_normals():
    tasks, steps = dict.fromkeys("abcd", "gaussian"), 4000
    rows = [[1.0] * 4] * steps
    weights = torch.stack([gradient for _, gradient in run(UncertaintyWeighting(tasks, strategy="random"), rows)])
    torch.testing.assert_close(weights.sum(1), torch.full((steps,), 4.0, dtype=torch.float64), rtol=1e-6, atol=0.0)
    logs = weights.log()
    logs -= logs.mean(1, keepdim=True)
    assert (logs.T.cov() - (torch.eye(4) - 0.25)).abs().max() < 0.06  # a softmax drops their mean
    assert logs.mean(0).sub(logs.mean()).abs().max() < 0.06
    standard = (logs[:, 0] - logs[:, 1]) / math.sqrt(2.0)
    for point in (-2.0, -1.0, 0.0, 1.0, 2.0):
        below = 0.5 * (1.0 + math.erf(point / math.sqrt(2.0)))
        assert (standard < point).double().mean().item() == pytest.approx(below, abs=0.03)
    assert (standard[1:] * standard[:-1]).mean().abs() < 0.06


def test_draws_follow_from_the_seed_and_move_no_generator_of_torch():
    before = torch.random.get_rng_state()
    one, again, other = (
        run(UncertaintyWeighting(TASKS, strategy=Random(seed=seed)), LOSSES)[-1][1].tolist() for seed in (3, 3, 4)
    )
    assert one == again != other
    assert torch.equal(before, torch.random.get_rng_state())


# ---------------------------------------------------------------------------------------------------- the odd cases


@pytest.mark.parametrize("strategy", ["log_sum", "geometric_mean", "uw_so"])
@pytest.mark.parametrize("odd", [0.0, -3.0, 1e-42])
def test_a_loss_without_a_logarithm_sits_out_with_a_word(strategy, odd):
    weighting = UncertaintyWeighting(TASKS, strategy=strategy)
    ((total, gradient),) = run(weighting, [[2.0, odd, 0.5]])
    ((expected, others),) = run(
        UncertaintyWeighting({"a": "gaussian", "c": "softmax"}, strategy=strategy), [[2.0, 0.5]]
    )
    assert total == pytest.approx(expected)
    assert gradient.tolist() == [others[0].item(), 0.0, others[1].item()]
    with pytest.warns(UncertaintyWarning, match=f"'b' was zero or negative in 1 step, .*{strategy}"):
        weighting.check()


@pytest.mark.parametrize("strategy", SIGMALESS)
@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [-1.0, -2.0, -3.0], [1e-30, 1e30, 1.0], [math.nan] * 3])
def test_whatever_the_losses_are_factors_are_finite(strategy, row):
    weighting = UncertaintyWeighting(TASKS, strategy=strategy)
    for _ in range(4):
        losses = torch.tensor(row, requires_grad=True)
        weighting(losses).backward()
        weighting.step()
        weighting.end_epoch()
        assert torch.isfinite(losses.grad).all()
    assert all(math.isfinite(weight) for weight in weighting.weights.values())


@pytest.mark.parametrize("strategy", SIGMALESS)
def test_a_number_is_the_factor_of_its_task_which_takes_no_part(strategy):
    tasks = {"a": "gaussian", "aux": 0.25, "b": "laplace"}
    rows = [[x, 1e3 * y, y] for x, y, _ in LOSSES]
    found = run(weighting := UncertaintyWeighting(tasks, strategy=strategy), rows, each=lambda: None)
    other = run(UncertaintyWeighting({"a": "gaussian", "b": "laplace"}, strategy=strategy), [row[::2] for row in rows])
    for (_, gradient), (_, expected) in zip(found, other, strict=True):
        assert gradient[1] == 0.25
        torch.testing.assert_close(gradient[::2], expected)
    assert weighting.weights["aux"] == 0.25


@pytest.mark.parametrize("strategy", [name for name in SIGMALESS if name != "fixed"])
@pytest.mark.parametrize("kind", ["gaussian", "softmax", "softmax_exact"])
def test_likelihoods_are_taken_and_change_nothing(strategy, kind):
    from lightning_uncertainty import CrossEntropy

    found = []
    for likelihood in (kind, "bernoulli"):
        weighting = UncertaintyWeighting({"a": "gaussian", "b": likelihood}, strategy=strategy)
        for scale in (1.0, 2.0):
            logits, a = torch.tensor([[2.0, -1.0]], requires_grad=True), torch.tensor(3.0 * scale, requires_grad=True)
            entropy = CrossEntropy(scale * logits, torch.tensor([1]))
            b = entropy if likelihood == "softmax_exact" else entropy.loss(torch.tensor(0.0))
            weighting({"a": a, "b": b}).backward()
            weighting.step()
            found.append((likelihood == kind, a.grad.item(), logits.grad.tolist()))
        assert weighting.sigmas == {}
        assert not [key for key in weighting.snapshot().metrics() if "sigma" in key]
    assert [row[1:] for row in found if row[0]] == [row[1:] for row in found if not row[0]]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: UWSO(temperature=0.0), "temperature"),
        (lambda: DWA(temperature=-1.0), "temperature"),
        (lambda: Random(seed=-1), "seed"),
        (lambda: Random(seed=0.5), "seed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("strategy", SIGMALESS)
def test_by_name_it_trains_in_a_trainer_with_a_word_on_which_it_is(tmp_path, strategy):
    callback = UncertaintyCallback(strategy=strategy)
    module, _ = fit(tmp_path, Weighed(), callback=callback, max_epochs=2)
    assert module.uncertainty.strategy.name == strategy
    assert f"strategy={strategy!r}" in repr(module.uncertainty)
    assert "uncertainty/sigma/a" not in callback.weighting.snapshot().metrics()
