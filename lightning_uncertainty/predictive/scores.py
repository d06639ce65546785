r"""Scores of predictions as sums over samples: how often intervals hold, how sharp they are, and how sure is right.

All are sums, so that batches and ranks add up, and memory does not grow. For a regression with the deviation
``z = (y - mu) / sigma``: the coverage of central intervals, the negative log-likelihood in nats, the mean of ``z^2``
(for Laplace with its standard deviation ``sqrt(2) b``) and the continuous ranked probability score in the unit of the
target [Gneiting and Raftery, JASA 2007]. For classes: the negative log-likelihood, and the expected
calibration error (as in torchmetrics, norm ``"l1"``) over 20 bins of the confidence. A sample whose score is not finite
is left out, and counted as such.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Laplace, Normal
from torch.nn import functional as F

from lightning_uncertainty.predictive.losses import IGNORED, lifted
from lightning_uncertainty.snapshot import BINS, Score

__all__ = ["WIDTH", "class_sums", "is_at_bound", "read_left_out", "read_score", "read_shift", "regression_sums"]

_LOG_TEMPERATURES = tuple(-1.5 + 0.25 * step for step in range(19))  # 0.22 to 20
_SUMS = 6  # samples, NLL, z^2, CRPS, unscaled deviations, samples left out
_KIND = _SUMS + 3 * BINS
WIDTH = _KIND + len(_LOG_TEMPERATURES) + 2
"""The length of a vector of sums. Its last two entries are above 0 for a regression, and for one by Laplace."""


def regression_sums(predicted: Normal | Laplace, target: Tensor, mask: Tensor | None, shift: Tensor | None) -> Tensor:
    """Return the sums of a regression, of shape (WIDTH,).

    Args:
        predicted: The distributions of the targets.
        target: The targets, of their shape.
        mask: bool: True where there is a target; None for everywhere.
        shift: The logarithm of the number that the variances of a head were multiplied by; None without a head.
    """
    loc, scale = predicted.loc, predicted.scale
    target = lifted(target)
    z = ((target - loc) / scale).abs()
    if isinstance(predicted, Normal):
        inside = torch.erf(z * math.sqrt(0.5))
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)
        crps = z * inside + 2.0 * density - 1.0 / math.sqrt(math.pi)
        squares, power = z.square(), 2.0
    else:
        inside = -torch.expm1(-z)
        crps = z + torch.exp(-z) - 0.75
        squares, power = 0.5 * z.square(), 1.0
    deviation = torch.zeros_like(z) if shift is None else (z * torch.exp(0.5 * shift.to(z))) ** power
    nll = -predicted.log_prob(target)  # type: ignore[no-untyped-call]
    rows = [nll, squares, crps * scale, deviation]
    mask, samples, left_out = _kept(rows, mask)
    counts = _binned(inside, [torch.ones_like(z)], mask)
    kind = torch.tensor([1.0, float(isinstance(predicted, Laplace))], dtype=counts.dtype, device=counts.device)
    blank = counts.new_zeros(2 * BINS + len(_LOG_TEMPERATURES))
    return torch.cat([samples, *(_sum(row, mask) for row in rows), left_out, counts, blank, kind])


def class_sums(logits: Tensor, target: Tensor, mask: Tensor | None, log_temperature: Tensor, binary: bool) -> Tensor:
    """Return the sums of a classification, of shape (WIDTH,).

    Args:
        logits: The logits, of shape (N, C, ...), or of the shape of the target if they are ``binary``.
        target: Class indices of shape (N, ...), or from 0 to 1 if they are ``binary``; -100 where there is none.
        mask: bool: True where there is a target, of its shape; None for everywhere.
        log_temperature: The logarithm of the temperature that the logits are divided by.
        binary: True if each logit is that of one yes or no.
    """
    logits = lifted(logits)
    there = target != IGNORED
    mask = there if mask is None else mask & there
    target = target.where(mask, torch.zeros_like(target))

    def cost(log_t: Tensor | float) -> Tensor:
        tempered = logits * torch.exp(-torch.as_tensor(log_t, device=logits.device))
        if binary:
            costs = F.binary_cross_entropy_with_logits(tempered, target.to(tempered.dtype), reduction="none")
            return costs.where((target >= 0) & (target <= 1), torch.nan)  # no probability: left out, and told of
        return F.cross_entropy(tempered, target, reduction="none")

    tempered = logits * torch.exp(-log_temperature)
    if binary:
        sure, right = torch.sigmoid(tempered), target.to(tempered.dtype)
    else:
        sure, chosen = torch.softmax(tempered, 1).max(1)
        right = chosen.eq(target).to(sure.dtype)
    nll, coldest = cost(log_temperature), cost(_LOG_TEMPERATURES[0])  # what is finite there, is in between, too
    mask, samples, left_out = _kept([nll, coldest], mask)
    bins = _binned(sure, [torch.ones_like(sure), sure, right], mask)
    zero = bins.new_zeros(1)
    fits = [_sum(coldest, mask), *(_sum(cost(log_t), mask) for log_t in _LOG_TEMPERATURES[1:])]
    return torch.cat([samples, _sum(nll, mask), *[zero] * 3, left_out, bins, *fits, zero, zero])


def _kept(rows: list[Tensor], mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return where there is a target and all rows are finite; how many these are; and the other targets' number."""
    finite = torch.stack([row.isfinite() for row in rows]).all(0)
    mask = torch.ones_like(finite) if mask is None else mask
    kept = mask & finite
    return kept, _sum(kept.to(rows[0]), None), _sum((mask & ~finite).to(rows[0]), None)


def _exact(tensor: Tensor) -> Tensor:
    """Return a tensor in double precision where the device has it: sums of many samples stay exact."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def _sum(row: Tensor, mask: Tensor | None) -> Tensor:
    return _exact(row if mask is None else row.where(mask, 0.0)).sum().reshape(1)


def _binned(part: Tensor, rows: list[Tensor], mask: Tensor | None) -> Tensor:
    """Return the sum of ``rows`` in each bin of ``part``, a number from 0 to 1; one row after the other."""
    # As torchmetrics: a bin is open below and closed above.
    place = (torch.ceil(part.detach() * BINS) - 1.0).nan_to_num(0.0).clamp(0, BINS - 1).long().flatten()
    summed = []
    for row in rows:
        row = _exact(row if mask is None else row.where(mask, 0.0)).flatten()
        summed.append(torch.zeros(BINS, dtype=row.dtype, device=row.device).index_add_(0, place, row))
    return torch.cat(summed)


def read_score(sums: list[float], data: str) -> Score | None:
    """Return the score of sums that were moved to the host, of that kind of ``data``; None without samples."""
    samples, nll, squares, crps = sums[:4]
    if not samples or not all(map(math.isfinite, sums)):  # a network that is lost has no score
        return None
    bins = [sums[_SUMS + row * BINS :][:BINS] for row in range(3)]
    if sums[-2]:
        inside = tuple(math.fsum(bins[0][: place + 1]) / samples for place in range(BINS))
        return Score(int(samples), nll / samples, squares / samples, crps / samples, coverage=inside, data=data)
    pairs = tuple((count, sure / count, right / count) for count, sure, right in zip(*bins, strict=True) if count)
    ece = math.fsum(count * abs(sure - right) for count, sure, right in pairs) / samples
    temperature = math.exp(read_shift(sums))
    return Score(int(samples), nll / samples, ece=ece, temperature=temperature, reliability=pairs, data=data)


def read_shift(sums: list[float]) -> float:
    """Return the best ``shift`` of the log-variances, or logarithm of the temperature; NaN without samples."""
    samples, deviation = sums[0], sums[4]
    if not samples or not all(map(math.isfinite, sums)):
        return math.nan
    if sums[-2]:
        power = 2.0 if sums[-1] else 1.0
        return power * math.log(deviation / samples) if deviation > 0.0 else math.nan
    costs = sums[_KIND : _KIND + len(_LOG_TEMPERATURES)]
    lowest = min(range(len(costs)), key=lambda place: (costs[place], abs(_LOG_TEMPERATURES[place])))
    best = _LOG_TEMPERATURES[lowest]
    if 0 < lowest < len(costs) - 1:  # the lowest point of the parabola through three
        left, middle, right = costs[lowest - 1 : lowest + 2]
        best += 0.125 * (left - right) / (left - 2.0 * middle + right) if left + right > 2.0 * middle else 0.0
    return best


def is_at_bound(log_temperature: float) -> bool:
    """Return True for the lowest and the highest temperature that is looked at: a better one may lie beyond."""
    return log_temperature in (_LOG_TEMPERATURES[0], _LOG_TEMPERATURES[-1])  # both exact in single precision


def read_left_out(sums: list[float]) -> int:
    """Return how many samples had a target and no finite score."""
    return int(sums[_SUMS - 1])
