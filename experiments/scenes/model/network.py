"""One encoder, three decoders: the article's network, made small enough for a core."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["OFFSET_SCALE", "SceneNet"]

OFFSET_SCALE = 10.0
"""Pixels per unit of the decoder of offsets, so that its last layer need not grow first."""


class SceneNet(nn.Module):
    """A network that gives classes, offsets and inverse depth of each pixel of an image.

    After the article: a shared encoder whose later layers are dilated instead of strided, and a shallow decoder per
    task. Departures: the encoder is 7 convolutions with residual dilated blocks instead of ResNet-101 with atrous
    pyramid pooling, its stride is 4 instead of 8, and the decoders have 32 channels instead of 256.

    Args:
        num_classes: Number of classes of the semantic decoder.
        width: Channels of the encoder.

    Example:
        >>> outputs = SceneNet(num_classes=8)(torch.zeros(2, 3, 64, 128))
        >>> {task: tuple(output.shape) for task, output in outputs.items()}
        {'semantic': (2, 8, 64, 128), 'instance': (2, 2, 64, 128), 'depth': (2, 1, 64, 128)}
    """

    def __init__(self, num_classes: int, *, width: int = 48) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _convolution(3, 24, stride=2),
            _convolution(24, width, stride=2),
            *(_Residual(width, dilation) for dilation in (1, 2, 4, 8, 1)),
        )
        outputs = {"semantic": num_classes, "instance": 2, "depth": 1}
        self.decoders = nn.ModuleDict({task: _decoder(width, channels) for task, channels in outputs.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return logits (B, C, H, W), offsets in pixels (B, 2, H, W) and inverse depth (B, 1, H, W), by task."""
        features = self.encoder(image - 0.5)
        outputs = {task: self._full_size(decoder(features), image) for task, decoder in self.decoders.items()}
        outputs["instance"] = OFFSET_SCALE * outputs["instance"]
        return outputs

    def _full_size(self, output: Tensor, image: Tensor) -> Tensor:
        return nn.functional.interpolate(output, size=image.shape[-2:], mode="bilinear", align_corners=False)


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.block = _convolution(width, width, dilation=dilation)

    def forward(self, features: Tensor) -> Tensor:
        return features + torch.as_tensor(self.block(features))


def _convolution(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _decoder(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(_convolution(width, 32), nn.Conv2d(32, channels, 1))
