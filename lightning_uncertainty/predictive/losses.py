r"""Negative log-likelihoods of heads that predict the noise of each sample: heteroscedastic aleatoric uncertainty.

Their task is declared as ``"nll"``: its factor is 1, and with ``beta=0``, in nats, it adds up with the learned terms of
other tasks. They are computed in single precision at least, whatever the precision of the head.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_uncertainty._arguments import as_number, check_choice

__all__ = [
    "IGNORED",
    "Reduction",
    "bounded",
    "check_classes",
    "check_log_var",
    "check_means",
    "check_tensors",
    "gaussian_nll",
    "laplace_nll",
    "mean_logits",
    "noisy_cross_entropy",
]

Reduction = Literal["mean", "sum", "none"]

IGNORED = -100
"""The index of no class: what ``F.cross_entropy`` leaves out by default."""

_BOUND = 30.0  # of log-variances: a sigma from 3e-7 to 3e6


def gaussian_nll(
    mean: Tensor,
    log_var: Tensor,
    target: Tensor,
    beta: float = 0.5,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the Gaussian negative log-likelihood of a head that predicts a mean and a log-variance.

    .. math:: \lfloor \sigma^{2\beta} \rfloor \left( \tfrac12 e^{-s} (y - \mu)^2 + \tfrac12 s \right)

    with ``s = log sigma^2`` [Kendall and Gal, NeurIPS 2017, equations (5) and (8)], and a constant power of the
    variance before it [Seitzer et al., ICLR 2022, equation (5)]. With ``beta=0`` it is the likelihood itself (less the
    constant ``log(2 pi) / 2``), and samples that are predicted badly soon count little. With ``beta=1`` the mean gets
    the gradient of half a squared error.

    Only with ``beta=0`` is it in nats. Above, its gradient depends on the unit of the target, by ``sigma^(2 beta)``: of
    metres as millimetres it is ``1000^(2 beta)`` times as large. Standardise the target, or take ``beta=0``, and
    measure with ``beta=0``.

    A noise of each sample that is known is its ``log_var``. Beyond -30 and 30 it counts as the bound, and the loss
    grows by the distance: a target that is met exactly would draw it out of the range of the exponential.

    Args:
        mean: The predicted means, in the unit of the target.
        log_var: The predicted log-variances, of a shape that broadcasts with ``mean``.
        target: The targets, of the shape of ``mean``.
        beta: The power of the variance, 0 to 1.
        mask: bool: True where there is a target; of the shape of ``target``.
        reduction: ``"mean"`` (over the targets that are there; NaN without any, so that the task sits out), ``"sum"``
            or ``"none"`` (0 where there is no target).

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes do not fit, or ``beta`` or ``reduction`` is not valid.

    >>> gaussian_nll(torch.tensor([0.0, 0.0]), torch.zeros(2), torch.tensor([1.0, 3.0]))
    tensor(2.5000)
    """
    mean, log_var, target = _checked(mean, log_var, target, mask)
    s = bounded(log_var)
    squares = torch.exp(-s) * (target - mean) ** 2
    return _reduced(0.5 * (squares + s) * _power(s, beta) + (log_var - s).abs(), mask, reduction)


def laplace_nll(
    mean: Tensor,
    log_var: Tensor,
    target: Tensor,
    beta: float = 0.5,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the Laplace negative log-likelihood of a head that predicts a location and ``log b^2``.

    .. math:: \lfloor b^{\beta} \rfloor \left( e^{-s/2} |y - \mu| + \tfrac12 s \right), \qquad s = \log b^2,

    less the constant ``log 2``. With ``beta=1`` the location gets the gradient of an absolute error. As with
    :func:`gaussian_nll`, it is in nats only with ``beta=0``, its gradient depends on the unit by ``b^beta``, and
    ``log b^2`` counts from -30 to 30.

    Args:
        mean: The predicted locations, in the unit of the target.
        log_var: The predicted ``log b^2``, of a shape that broadcasts with ``mean``.
        target: The targets, of the shape of ``mean``.
        beta: The power of the scale, 0 to 1.
        mask: bool: True where there is a target.
        reduction: As in :func:`gaussian_nll`.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes do not fit, or ``beta`` or ``reduction`` is not valid.

    >>> laplace_nll(torch.tensor([0.0, 0.0]), torch.zeros(2), torch.tensor([1.0, 3.0]))
    tensor(2.)
    """
    mean, log_var, target = _checked(mean, log_var, target, mask)
    s = bounded(log_var)
    distances = torch.exp(-0.5 * s) * (target - mean).abs()
    return _reduced((distances + 0.5 * s) * _power(0.5 * s, beta) + (log_var - s).abs(), mask, reduction)


def noisy_cross_entropy(
    logits: Tensor,
    log_std: Tensor,
    target: Tensor,
    samples: int = 10,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return the cross entropy of logits with Gaussian noise, whose size a head predicts.

    .. math:: -\log \frac1T \sum_t \mathrm{softmax}(z + e^{u} \epsilon_t)_y, \qquad \epsilon_t \sim N(0, I)

    [Kendall and Gal, NeurIPS 2017, equation (12)], with ``T`` samples. Its expectation is above that of infinitely many
    samples.

    Args:
        logits: The logits ``z``, of shape (N, C) or (N, C, d1, ...).
        log_std: The logarithms ``u`` of the standard deviations, of a shape that broadcasts with ``logits``, for
            example (N, 1). Above 15 they count as 15, and the loss grows by the distance, as in :func:`gaussian_nll`.
        target: Class indices, of shape (N,) or (N, d1, ...); -100 where there is none, as in ``F.cross_entropy``.
        samples: The number ``T``.
        mask: bool: True where there is a target, of the shape of ``target``.
        reduction: As in :func:`gaussian_nll`.
        generator: The source of the noise; by default that of torch.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes do not fit, or ``samples`` or ``reduction`` is not valid.

    >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    >>> noisy_cross_entropy(logits, torch.full((1, 1), -20.0), target)  # next to no noise
    tensor(0.1269)
    """
    count = as_number(samples)
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"The number of samples must be a whole number of at least 1; got {samples!r}.")
    check_classes(logits, target, mask)
    _check_log_std(logits, log_std)
    there = target != IGNORED if mask is None else mask & (target != IGNORED)
    # As in `_checked`: nothing of a sample without a target may meet the gradient.
    logits, log_std = (lifted(each).expand_as(logits).where(there.unsqueeze(1), 0.0) for each in (logits, log_std))
    target = target.where(there, 0)
    shape = (count, *logits.shape)
    noise = torch.randn(shape, dtype=logits.dtype, device=logits.device, generator=generator)
    u = bounded(log_std, least=-torch.inf, most=0.5 * _BOUND)
    noisy = logits + torch.exp(u) * noise
    # One cross entropy over the samples and the batch, which are one dimension to it.
    costs = F.cross_entropy(noisy.flatten(0, 1), target.repeat(count, *[1] * (target.dim() - 1)), reduction="none")
    likelihood = torch.logsumexp(-costs.reshape(count, *target.shape), 0) - math.log(count)
    return _reduced((log_std - 0.5 * _BOUND).relu().mean(1) - likelihood, there, reduction)


def mean_logits(logits: Tensor, log_std: Tensor, samples: int = 100) -> Tensor:
    r"""Return the logarithm of the mean probabilities of logits with Gaussian noise: the logits to predict with.

    .. math:: \log \frac1T \sum_t \mathrm{softmax}(z + e^{u} \epsilon_t), \qquad \epsilon_t \sim N(0, I)

    The noise is the same for each row and pixel and in each call, so that the same input has the same prediction,
    whatever its batch. Memory does not grow with ``T``.

    Args:
        logits: The logits ``z``, of shape (N, C) or (N, C, d1, ...).
        log_std: The logarithms ``u`` of the standard deviations, as in :func:`noisy_cross_entropy`.
        samples: The number ``T``.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes do not fit.
    """
    _check_log_std(logits, log_std)
    logits, std = lifted(logits), bounded(lifted(log_std), least=-torch.inf, most=0.5 * _BOUND).exp()
    generator = torch.Generator(logits.device).manual_seed(0)  # not that of torch, which training goes on with
    total = torch.full_like(logits, -torch.inf)
    shape = (1, logits.shape[1], *[1] * (logits.dim() - 2))
    for _ in range(samples):
        noise = torch.randn(shape, dtype=logits.dtype, device=logits.device, generator=generator)
        total = torch.logaddexp(total, F.log_softmax(logits + std * noise, 1))
    return total - math.log(samples)


def lifted(tensor: Tensor) -> Tensor:
    """Return a tensor in single precision at least: in half precision, an exponential soon overflows."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def bounded(log_scale: Tensor, least: float = -_BOUND, most: float = _BOUND) -> Tensor:
    """Return log-variances between bounds, within which exponentials are finite; what is not finite stays."""
    return torch.where(log_scale.isfinite(), log_scale.clamp(least, most), log_scale)


def check_means(mean: Tensor, log_var: Tensor | None, target: Tensor, mask: Tensor | None, what: str = "mean") -> None:
    """Raise ``ValueError`` unless the shapes fit: nothing but ``log_var`` may be broadcast."""
    check_tensors({what: mean, "target": target})
    if target.shape != mean.shape:
        raise ValueError(
            f"The {what} has shape {tuple(mean.shape)} and the target {tuple(target.shape)}. Expected the same shape, "
            f"since others would be broadcast: for example `{what}.squeeze(-1)`."
        )
    if log_var is not None:
        check_log_var(mean, log_var)
    _check_mask(mask, target)


def check_log_var(mean: Tensor, log_var: Tensor) -> None:
    """Raise ``ValueError`` unless ``log_var`` broadcasts to the shape of the means."""
    check_tensors({"mean": mean, "log_var": log_var})
    if not _broadcasts(log_var, mean):
        raise ValueError(
            f"The mean has shape {tuple(mean.shape)} and log_var {tuple(log_var.shape)}. Expected one log-variance for "
            "each mean, or a shape that broadcasts to that of the means: for example `log_var.squeeze(-1)`."
        )


def check_classes(logits: Tensor, target: Tensor, mask: Tensor | None) -> None:
    """Raise ``ValueError`` unless the shapes fit: one class index for each row, or pixel, of the logits."""
    check_tensors({"logits": logits, "target": target})
    if logits.dim() < 2 or target.shape != logits.shape[:1] + logits.shape[2:] or target.is_floating_point():
        numbers = f" of {target.dtype}" if target.is_floating_point() else ""
        raise ValueError(
            f"Got logits of shape {tuple(logits.shape)} and a target of shape {tuple(target.shape)}{numbers}. Expected "
            "class indices, and classes in the second dimension: (N, C) and (N,), or (N, C, d1, ...) and (N, d1, ...)."
        )
    _check_mask(mask, target)


def _check_log_std(logits: Tensor, log_std: Tensor) -> None:
    check_tensors({"logits": logits, "log_std": log_std})
    if logits.dim() < 2 or not _broadcasts(log_std, logits):
        raise ValueError(
            f"The logits have shape {tuple(logits.shape)} and log_std {tuple(log_std.shape)}. Expected one for each "
            "logit, or a shape that broadcasts to that of the logits: for example `log_std.unsqueeze(1)`, of shape "
            "(N, 1, ...)."
        )


def check_tensors(given: dict[str, Any]) -> None:
    """Raise ``TypeError`` for what is no tensor."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"Expected {name} as a tensor; got {value!r} of type {type(value).__name__}. For one number for all "
                f"targets write `torch.tensor({value!r})`."
            )


def _checked(mean: Tensor, log_var: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three in single precision at least, all 0 where there is no target."""
    check_tensors({"log_var": log_var})
    check_means(mean, log_var, target, mask)
    mean, log_var, target = (lifted(each) for each in (mean, log_var, target))
    if mask is None:
        return mean, log_var, target
    # Whatever stands there, NaN or a variance out of range, must not meet the gradient.
    return mean.where(mask, 0.0), log_var.expand_as(mean).where(mask, 0.0), target.where(mask, 0.0)


def _broadcasts(tensor: Tensor, other: Tensor) -> bool:
    """Return True if a tensor broadcasts to the shape of another one."""
    pairs = zip(reversed(tensor.shape), reversed(other.shape), strict=False)
    return tensor.dim() <= other.dim() and all(mine in (1, size) for mine, size in pairs)


def _check_mask(mask: Tensor | None, target: Tensor) -> None:
    if mask is not None:
        check_tensors({"mask": mask})
    if mask is not None and (mask.dtype != torch.bool or mask.shape != target.shape):
        raise ValueError(
            f"Expected a mask of bools of the shape of the target, {tuple(target.shape)}, True where there is one; got "
            f"{mask.dtype} of shape {tuple(mask.shape)}."
        )


def _power(log_scale: Tensor, beta: float) -> Tensor | float:
    """Return the constant power of the noise that stands before the likelihood."""
    number = as_number(beta)
    if number is None or not 0.0 <= number <= 1.0:
        raise ValueError(f"beta must be a number from 0 (the likelihood itself) to 1; got {beta!r}.")
    return torch.exp(beta * log_scale.detach()) if beta else 1.0


def _reduced(costs: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    if mask is not None:
        costs = costs.where(mask, 0.0)
    if reduction == "none":
        return costs
    if reduction == "sum":
        return costs.sum()
    if mask is None:
        return costs.mean()
    count = mask.sum()
    return torch.where(count > 0, costs.sum() / count.clamp(min=1), torch.nan)  # 0 / 0 would make NaN of the gradient
