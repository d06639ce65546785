"""The exact softmax likelihood of equation (5): a cross entropy whose logits are divided by sigma^2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CrossEntropy", "plain"]


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    r"""Logits and targets, to be weighed by a ``"softmax_exact"`` task (or, as a plain loss, by a ``"softmax"`` one).

    The loss at temperature ``sigma^2 = exp(s)`` is ``CE(z exp(-s), y)`` [Kendall et al., CVPR 2018, equation (5)], with
    the derivative

    .. math:: \frac{dL}{ds} = e^{-s}\, \mathrm{mean}\bigl(z_y - E_p[z]\bigr), \qquad p = \mathrm{softmax}(z e^{-s}).

    Arguments mean what they mean in :func:`torch.nn.functional.cross_entropy`, with ``reduction="mean"``.

    Args:
        logits: The logits ``z``, of shape (N, C), (N, C, d1, ...) or (C,).
        target: Class indices of shape (N,), (N, d1, ...) or (), or class probabilities of the shape of ``logits``.
        weight: One weight per class, of shape (C,).
        ignore_index: The index of targets that take no part (class indices only).
        label_smoothing: A number between 0 and 1.

    Raises:
        ValueError: if there are no logits of floating point, or ``label_smoothing`` is outside [0, 1].

    >>> inputs = CrossEntropy(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    >>> inputs.loss(torch.tensor(0.0)), inputs.slope(torch.tensor(0.0))
    (tensor(0.1269), tensor(0.2384))
    """

    logits: Tensor
    target: Tensor
    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("logits", "target", "weight"):
            if (made := plain(given := getattr(self, name))) is not given:
                object.__setattr__(self, name, made)
        if not (isinstance(self.logits, Tensor) and self.logits.is_floating_point() and self.logits.dim() > 0):
            raise ValueError("CrossEntropy expects logits as a floating point tensor with a class dimension.")
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must be between 0 and 1; got {self.label_smoothing}.")

    def loss(self, log_var: Tensor) -> Tensor:
        """Return ``CE(z exp(-s), y)``, a scalar in nats; ``log_var`` is a scalar and gets no gradient."""
        return F.cross_entropy(
            self._tempered(log_var),
            self.target,
            None if self.weight is None else self.weight.to(torch.promote_types(self.logits.dtype, torch.float32)),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def slope(self, log_var: Tensor) -> Tensor:
        """Return the derivative of the loss with respect to ``s``, a scalar without a graph.

        The cross entropy is linear in the log-probabilities ``u - logsumexp(u)`` with ``u = z exp(-s)``, and their
        derivative with respect to ``s`` is ``E_p[u] - u``: so it is the same weighted mean, of another score.
        """
        with torch.no_grad():  # as a decorator it would break the graph of torch.compile
            tempered = self._tempered(log_var)
            class_dim = 1 if tempered.dim() > 1 else 0
            probability = tempered.softmax(class_dim)
            # A class that is masked out by a logit of -inf has probability 0 and takes no part; 0 * inf would be NaN.
            expected = torch.where(probability > 0.0, probability * tempered, 0.0).sum(class_dim, keepdim=True)
            return self._weighted_mean(expected - tempered, class_dim)

    def _tempered(self, log_var: Tensor) -> Tensor:
        # Half precision is lifted first: inside cross_entropy it would be too late for the product.
        logits = self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))
        return logits * torch.exp(-log_var.detach())

    def _weighted_mean(self, score: Tensor, class_dim: int) -> Tensor:
        """Return the cross entropy with any ``score`` in place of the log-probabilities."""
        num_classes = score.shape[class_dim]
        shape = [num_classes if dim == class_dim else 1 for dim in range(score.dim())]
        class_weight = (score.new_ones(num_classes) if self.weight is None else self.weight.to(score)).view(shape)
        smooth = self.label_smoothing
        if self.target.is_floating_point():
            target = self.target * (1.0 - smooth) + smooth / num_classes
            return -(class_weight * target * score).sum() / (score.numel() // num_classes)
        valid = (self.target != self.ignore_index).unsqueeze(class_dim)
        index = torch.where(valid, self.target.unsqueeze(class_dim), 0)
        target_weight = class_weight.expand_as(score).gather(class_dim, index) * valid
        hit = (target_weight * score.gather(class_dim, index)).sum()
        if smooth:
            hit = (1.0 - smooth) * hit + smooth * (class_weight * score * valid).sum() / num_classes
        return -hit / target_weight.sum()


def plain(tensor: Any) -> Any:
    """Return a tensor of a subclass as a plain one, with its graph; all of a DTensor, from all its ranks.

    Data carry their class into losses (MetaTensor of MONAI, those of ``torchvision.tv_tensors``). In our state it would
    be saved too, and loaded only where that class is known. Anything else comes back as it is.
    """
    if type(tensor) is Tensor or not isinstance(tensor, Tensor):
        return tensor
    whole = getattr(tensor, "full_tensor", None)
    return (tensor if whole is None else whole()).as_subclass(Tensor)
