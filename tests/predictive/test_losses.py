"""The losses of heads that predict their noise, against formulas written out by hand in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_uncertainty.predictive import gaussian_nll, laplace_nll, noisy_cross_entropy
from lightning_uncertainty.predictive.losses import mean_logits

LOSSES = pytest.mark.parametrize("loss", [gaussian_nll, laplace_nll], ids=["gaussian", "laplace"])
SHAPE = (3, 4)


def sample(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    mean, log_var, target = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(3))
    return mean.to(dtype).requires_grad_(), (2.0 * log_var).to(dtype).requires_grad_(), target.to(dtype)


def by_hand(loss, mean, log_var, target, beta):
    """Value and both gradients of each element; nothing here comes from the package, nor from autograd."""
    mean, log_var, error = mean.detach(), log_var.detach(), (target - mean).detach()
    if loss is gaussian_nll:
        variance = log_var.exp()
        power = variance**beta
        value = error**2 / (2 * variance) + variance.log() / 2
        slopes = -error / variance, (1 - error**2 / variance) / 2
    else:
        b = (log_var / 2).exp()
        power = b**beta
        value = error.abs() / b + b.log()
        slopes = -error.sign() / b, (1 - error.abs() / b) / 2
    return power * value, power * slopes[0], power * slopes[1]


@LOSSES
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_values_and_gradients_are_those_of_the_formula(loss, beta):
    mean, log_var, target = sample()
    value, *slopes = by_hand(loss, mean, log_var, target, beta)
    torch.testing.assert_close(loss(mean, log_var, target, beta, reduction="none"), value)
    torch.testing.assert_close(loss(mean, log_var, target, beta, reduction="sum"), value.sum())
    loss(mean, log_var, target, beta).backward()
    for given, slope in zip((mean, log_var), slopes, strict=True):
        torch.testing.assert_close(given.grad, slope / given.numel())


@LOSSES
def test_beta_of_0_is_the_density_of_torch_less_its_constant(loss):
    mean, log_var, target = sample()
    scale = (0.5 * log_var).exp()
    family, constant = (torch.distributions.Normal, 0.5 * math.log(2 * math.pi))
    if loss is laplace_nll:
        family, constant = torch.distributions.Laplace, math.log(2)
    expected = -family(mean, scale).log_prob(target) - constant
    torch.testing.assert_close(loss(mean, log_var, target, beta=0.0, reduction="none"), expected)


@LOSSES
def test_beta_of_1_gives_the_mean_the_gradient_of_a_loss_without_variance(loss):
    mean, log_var, target = sample()
    (got,) = torch.autograd.grad(loss(mean, log_var, target, beta=1.0), mean)
    plain = F.mse_loss(mean, target) / 2 if loss is gaussian_nll else F.l1_loss(mean, target)
    torch.testing.assert_close(got, torch.autograd.grad(plain, mean)[0])


@LOSSES
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_what_the_mask_leaves_out_has_neither_value_nor_gradient(loss, reduction):
    mean, log_var, target = sample()
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.5
    got = loss(mean, log_var, target.masked_fill(~mask, math.nan), mask=mask, reduction=reduction)
    value, slope, _ = by_hand(loss, mean, log_var, target, 0.5)
    expected = {"mean": value[mask].mean(), "sum": value[mask].sum(), "none": value.where(mask, 0.0)}[reduction]
    torch.testing.assert_close(got, expected)
    got.sum().backward()
    count = mask.sum() if reduction == "mean" else 1
    torch.testing.assert_close(mean.grad, slope.where(mask, 0.0) / count)
    assert log_var.grad.isfinite().all()


@LOSSES
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("mu", "s"), [(math.inf, 0.0), (math.nan, 0.0), (1.0, -100.0), (1.0, math.inf), (1.0, 100.0)])
def test_whatever_a_head_says_where_the_mask_leaves_out_has_no_gradient(loss, mu, s, shared):
    mean = torch.tensor([[0.5, mu], [0.5, mu]], requires_grad=True)
    log_var = torch.tensor([[0.2, s]] if shared else [[0.2, s], [0.2, s]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, False]])
    loss(mean, log_var, torch.ones(2, 2), mask=mask).backward()
    for head in (mean, log_var):
        assert head.grad.isfinite().all()
        assert head.grad[:, 1].eq(0.0).all()
        assert head.grad[:, 0].ne(0.0).all()


@LOSSES
def test_without_any_target_the_loss_is_nan_and_its_gradient_is_0(loss):
    mean, log_var, target = sample()
    got = loss(mean, log_var, target, mask=torch.zeros(SHAPE, dtype=torch.bool))
    assert got.isnan()
    torch.where(got.isnan(), 0.0, got).backward()
    assert mean.grad.eq(0.0).all()
    assert log_var.grad.eq(0.0).all()


@LOSSES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_before_anything_is_computed(loss, dtype):
    # In fp16 itself, exp(12) and the square of 300 would be infinite.
    mean, log_var, target = (torch.tensor(x, dtype=dtype) for x in ([0.0, 1.0], [-12.0, 12.0], [300.0, 2.0]))
    mean.requires_grad_(), log_var.requires_grad_()
    got = loss(mean, log_var, target, beta=0.0, reduction="none")
    value, *_ = by_hand(loss, mean.double(), log_var.double(), target.double(), 0.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), value, rtol=1e-5, atol=0.0)
    loss(mean[1:], log_var[1:], target[1:]).backward()
    assert mean.grad.isfinite().all()
    assert log_var.grad.isfinite().all()


def test_a_known_noise_of_each_observation_is_its_log_var():
    """The best constant is then the mean with weights of 1 / sigma^2."""
    target, sigma = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64), torch.tensor([0.1, 1.0, 3.0]).double()
    weights = sigma**-2
    best = ((weights * target).sum() / weights.sum()).expand(3).clone().requires_grad_()
    gaussian_nll(best, 2 * sigma.log(), target, beta=0.0).backward()
    assert best.grad.sum().item() == pytest.approx(0.0, abs=1e-12)


@LOSSES
def test_what_does_not_fit_is_refused(loss):
    x = torch.zeros(3)
    with pytest.raises(ValueError, match=r"mean has shape \(3, 1\) and the target \(3,\)\. Expected the same"):
        loss(x[:, None], x, x)
    with pytest.raises(ValueError, match=r"log_var \(3, 1\)\. Expected one log-variance for each mean"):
        loss(x, x[:, None], x)
    with pytest.raises(ValueError, match=r"log_var \(2,\)\. Expected one log-variance for each mean"):
        loss(x, x[:2], x)
    with pytest.raises(ValueError, match=r"beta must be .* from 0 .* to 1; got 1.5"):
        loss(x, x, x, beta=1.5)
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum', 'none'; got 'max'"):
        loss(x, x, x, reduction="max")
    with pytest.raises(ValueError, match=r"mask of bools of the shape of the target, \(3,\)"):
        loss(x, x, x, mask=x)


# ---------------------------------------------------------------------------------------------------- classes


def noisy_by_hand(logits, log_std, target, noise):
    """Equation (12): the mean over samples of the softmax at the target."""
    probability = torch.stack([torch.softmax(logits + log_std.exp() * each, 1) for each in noise]).mean(0)
    return -probability.gather(1, target[:, None]).squeeze(1).log()


def classes(shape=(5, 4)):
    generator = torch.Generator().manual_seed(2)
    logits = (3.0 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    log_std = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    return logits, log_std, torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)


@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3, 2)])
def test_noisy_logits_give_value_and_gradients_of_equation_12(shape):
    logits, log_std, target = classes(shape)
    noise = torch.randn((7, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    got = noisy_cross_entropy(logits, log_std, target, samples=7, generator=torch.Generator().manual_seed(3))
    expected = noisy_by_hand(logits, log_std, target, noise).mean()
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(
        torch.autograd.grad(got, (logits, log_std)), torch.autograd.grad(expected, (logits, log_std)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_without_noise_it_is_the_cross_entropy():
    logits, log_std, target = classes()
    got = noisy_cross_entropy(logits, log_std - 50.0, target, reduction="none")
    torch.testing.assert_close(got, F.cross_entropy(logits, target, reduction="none"))


def test_many_samples_give_the_integral_over_the_noise():
    """For two classes the difference of the logits is Gaussian: one integral, done here on a grid."""
    grid = torch.linspace(-8.0, 8.0, 20_001, dtype=torch.float64)
    density = torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi)
    integral = torch.trapezoid(torch.sigmoid(1.0 + math.sqrt(2.0) * 2.0 * grid) * density, grid)
    logits = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    got = noisy_cross_entropy(
        logits,
        torch.tensor([[math.log(2.0)]], dtype=torch.float64),
        torch.tensor([0]),
        samples=200_000,
        generator=torch.Generator().manual_seed(4),
    )
    assert got.item() == pytest.approx(-math.log(integral), abs=0.005)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_noisy_logits_in_half_precision_stay_finite(dtype):
    logits = torch.tensor([[60000.0, -60000.0], [1.0, 0.0]], dtype=dtype, requires_grad=True)
    log_std = torch.tensor([[0.0], [20.0]], dtype=dtype, requires_grad=True)  # exp(20) is beyond fp16
    got = noisy_cross_entropy(logits, log_std, torch.tensor([1, 0]))
    got.backward()
    assert got.dtype == torch.float32
    assert got.isfinite()
    assert logits.grad.isfinite().all()


def test_classes_that_are_masked_out_take_no_part():
    logits, log_std, target = classes()
    mask = torch.tensor([True, False, True, True, False])
    noise = torch.randn((10, *logits.shape), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    got = noisy_cross_entropy(
        logits, log_std, target.where(mask, -100), mask=mask, generator=torch.Generator().manual_seed(5)
    )
    torch.testing.assert_close(got, noisy_by_hand(logits, log_std, target, noise)[mask].mean())


def test_classes_of_a_wrong_shape_or_without_samples_are_refused():
    logits, log_std, target = classes()
    with pytest.raises(ValueError, match=r"logits of shape \(5, 4\) and a target of shape \(5, 1\)"):
        noisy_cross_entropy(logits, log_std, target[:, None])
    with pytest.raises(ValueError, match="The number of samples must be a whole number of at least 1; got 0"):
        noisy_cross_entropy(logits, log_std, target, samples=0)
    for samples in (2.5, True, math.inf):
        with pytest.raises(ValueError, match="The number of samples must be a whole number of at least 1; got"):
            noisy_cross_entropy(logits, log_std, target, samples=samples)
    for wrong in (log_std[:, :2], log_std[:3], log_std[None]):
        with pytest.raises(ValueError, match=r"The logits have shape \(5, 4\) and log_std .* Expected one for each"):
            noisy_cross_entropy(logits, wrong, target)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_an_index_that_cross_entropy_ignores_takes_no_part(reduction):
    logits, log_std, target = classes()
    target[1] = target[4] = -100
    broken = logits.detach().clone()
    broken[4] = math.inf
    broken.requires_grad_()
    got = noisy_cross_entropy(broken, log_std - 50.0, target, reduction=reduction)
    torch.testing.assert_close(got, F.cross_entropy(logits, target, reduction=reduction))
    got.sum().backward()
    assert broken.grad.isfinite().all()
    assert broken.grad[[1, 4]].eq(0.0).all()
    assert noisy_cross_entropy(logits, log_std, torch.full_like(target, -100)).isnan()


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("wrong", [0.5, None, [1.0]], ids=str)
@pytest.mark.parametrize("loss", [gaussian_nll, laplace_nll, noisy_cross_entropy, mean_logits])
def test_what_is_no_tensor_is_refused_with_what_to_write(loss, wrong, place):
    x = torch.zeros(3, 2)
    arguments = [x, x, torch.zeros(3, dtype=torch.long) if loss is noisy_cross_entropy else x][
        : 2 + (loss != mean_logits)
    ]
    if place < len(arguments):
        arguments[place] = wrong
        with pytest.raises(
            TypeError, match=r"Expected \w+ as a tensor; got .* of type \w+\. For one .* `torch\.tensor\("
        ):
            loss(*arguments)


def test_further_arguments_of_a_wrong_type_are_refused_as_documented():
    x, target = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    with pytest.raises(TypeError, match="Expected mask as a tensor; got True"):
        gaussian_nll(x, x, x, mask=True)
    for beta in ("1", None, math.nan, -0.1):
        with pytest.raises(ValueError, match=r"beta must be a number from 0 .* to 1; got "):
            laplace_nll(x, x, x, beta)
    with pytest.raises(ValueError, match=r"a target of shape \(3,\) of torch\.float32\. Expected class indices"):
        noisy_cross_entropy(x, x, target.float())
    with pytest.raises(ValueError, match=r"The logits have shape \(3, 2\) and log_std \(3,\)\. Expected one"):
        mean_logits(x, target.float())


# ---------------------------------------------------------------------------------------------------- far out


@LOSSES
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("s", [-20000.0, -400.0, -90.0, -40.0, 40.0, 200.0, 20000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_target_that_is_met_exactly_makes_no_nan_and_a_log_variance_far_out_is_drawn_back(loss, beta, s, dtype):
    mean, target = torch.zeros(3, dtype=dtype, requires_grad=True), torch.tensor([1.0, 1.0, 0.0], dtype=dtype)
    log_var = torch.tensor([0.0, 0.0, s], dtype=dtype, requires_grad=True)
    got = loss(mean, log_var, target, beta, reduction="sum")
    got.backward()
    assert got.isfinite()
    assert mean.grad.isfinite().all()
    assert log_var.grad.isfinite().all()
    assert log_var.grad[2] * s > 0.0  # a step downhill leads to the bound
    missed = loss(torch.ones(1), torch.tensor([s]), torch.zeros(1), beta)
    assert missed.isfinite()


@LOSSES
def test_within_its_bounds_the_loss_is_the_formula_and_at_them_it_is_continuous(loss):
    for s in (-29.9, 29.9):
        mean, log_var, target = (torch.tensor([x], dtype=torch.float64) for x in (0.0, s, 1.0))
        value, *_ = by_hand(loss, mean, log_var, target, 0.5)
        torch.testing.assert_close(loss(mean, log_var, target), value[0])
    inside, outside = (loss(torch.zeros(1), torch.tensor([s]).double(), torch.zeros(1), 0.0) for s in (-30, -30 - 1e-9))
    assert outside.item() == pytest.approx(inside.item(), abs=1e-8)


def test_a_zero_inflated_target_trains_on():
    """Its mean is met exactly, and its log-variance then falls without end."""
    log_var = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.SGD([log_var], lr=4.0)
    for _ in range(200):
        optimizer.zero_grad()
        gaussian_nll(torch.zeros(4), log_var, torch.zeros(4), beta=0.0, reduction="sum").backward()
        optimizer.step()
    assert log_var.detach().tolist() == pytest.approx([-30.0] * 4, abs=5.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("u", [16.0, 100.0, 20000.0])
def test_noisy_logits_whose_noise_overflows_stay_finite_and_are_drawn_back(u, dtype):
    logits = torch.tensor([[1.0, 0.0]], dtype=dtype, requires_grad=True)
    log_std = torch.tensor([[u]], dtype=dtype, requires_grad=True)
    got = noisy_cross_entropy(logits, log_std, torch.tensor([0]))
    got.backward()
    assert got.isfinite()
    assert logits.grad.isfinite().all()
    assert log_std.grad.item() > 0.0
    assert mean_logits(logits, log_std).isfinite().all()


def test_no_noise_at_all_is_the_cross_entropy():
    logits, log_std, target = classes()
    for got in (
        noisy_cross_entropy(logits, torch.full_like(log_std, -math.inf), target),
        F.cross_entropy(mean_logits(logits, torch.full_like(log_std, -math.inf)), target),
    ):
        torch.testing.assert_close(got, F.cross_entropy(logits, target))


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 2)], ids=str)
def test_the_prediction_of_noisy_logits_depends_on_the_input_alone(shape):
    logits, log_std, _ = classes(shape)
    whole = mean_logits(logits, log_std)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mean_logits(logits[order], log_std[order]), whole[order])
    split = [mean_logits(*each) for each in zip(logits.split(2), log_std.split(2), strict=True)]
    torch.testing.assert_close(torch.cat(split), whole)
    if len(shape) > 2:
        cropped = mean_logits(logits[..., 1:, :], log_std[..., 1:, :])
        torch.testing.assert_close(cropped, whole[..., 1:, :])
