"""The article's three losses, means over the pixels that have a label."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.scenes.data.batch import IGNORE, SceneBatch

__all__ = ["masked_errors", "scene_losses"]


def scene_losses(outputs: Mapping[str, Tensor], batch: SceneBatch) -> dict[str, Tensor]:
    """Return a scalar loss by task: cross entropy in nats, mean absolute error of offsets, and of inverse depth.

    Averaged over labelled pixels, pixels of instances (and both components), and pixels of known depth. A task of
    which the batch has no pixel gets NaN, with finite gradients, and so sits out that step.
    """
    return {
        "semantic": F.cross_entropy(outputs["semantic"], batch["classes"], ignore_index=IGNORE),
        "instance": _mean(outputs["instance"], batch["offsets"], batch["instance_mask"]),
        "depth": _mean(outputs["depth"], batch["inverse_depth"], batch["depth_mask"]),
    }


def masked_errors(output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return absolute errors where ``mask`` (B, H, W) is True, of all channels, flat.

    >>> output, target = torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, -2.0, 9.0]]]])
    >>> masked_errors(output, target, torch.tensor([[[True, True, False]]]))
    tensor([1., 2.])
    """
    return (output - target).abs().movedim(1, -1)[mask].flatten()


def _mean(output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    # Not masked_errors(...).mean(): of the same value, and half the time.
    error = torch.where(mask[:, None], (output - target).abs(), 0.0).sum()
    return error / (mask.sum() * output.shape[1])
