"""A check that sigma is the noise of the labels: a decoder that can fit the signal, on labels of known noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.scenes.data.batch import SceneBatch, pick
from experiments.scenes.data.generator import SceneGenerator
from experiments.scenes.data.label_noise import LabelNoise
from experiments.scenes.data.street import CLASS_NAMES
from experiments.scenes.model.losses import masked_errors, scene_losses
from lightning_uncertainty.weighting import UncertaintyWeighting

__all__ = ["LEVELS", "NoiseResult", "check_noise"]

LEVELS = (LabelNoise(0.05, 1.0, 0.1), LabelNoise(0.10, 4.0, 0.3), LabelNoise(0.20, 8.0, 1.0))
"""Of the labels; the middle one is that of the table."""

_SCALES = {"instance": 10.0, "depth": 1.0}  # of the features and outputs
_SCENES, _BATCH = 64, 2


@dataclass(frozen=True)
class NoiseResult:
    """The result for one task at one level of noise.

    Attributes:
        task: Name of the task.
        likelihood: Likelihood of the loss.
        noise: Noise that was put on the labels, as in :class:`LabelNoise`.
        expected: Sigma that the formula gives for that noise.
        learned: Sigma that was learned.
    """

    task: str
    likelihood: str
    noise: float
    expected: float
    learned: float


class _Decoder(nn.Module):
    """One linear layer per task, on features that determine the exact labels: what is left over is the noise."""

    def __init__(self) -> None:
        super().__init__()
        classes = len(CLASS_NAMES)
        layers = {
            "semantic": nn.Conv2d(classes, classes, 1),
            "instance": nn.Conv2d(2, 2, 1),
            "depth": nn.Conv2d(1, 1, 1),
        }
        self.layers = nn.ModuleDict(layers)

    def forward(self, exact: SceneBatch) -> dict[str, Tensor]:
        one_hot = nn.functional.one_hot(exact["classes"], len(CLASS_NAMES)).movedim(-1, 1).float()
        features = {"instance": exact["offsets"], "depth": exact["inverse_depth"]}
        outputs = {task: _SCALES[task] * self.layers[task](x / _SCALES[task]) for task, x in features.items()}
        return {"semantic": self.layers["semantic"](one_hot), **outputs}


def check_noise(levels: Sequence[LabelNoise] = LEVELS, *, steps: int = 1200, seed: int = 0) -> list[NoiseResult]:
    """Return sigma as learned beside what it should be, for each task and level, with L1 and with squared errors.

    Expected, for Gaussian noise of standard deviation d: sigma = b = E|noise| = sqrt(2 / pi) d with an L1 loss
    (Laplace), sigma = d with a squared one. For the cross entropy sigma^2 = 2 L is a temperature and no share of wrong
    labels; L is then the entropy of the label given the true class, counted in the scenes used: their few hundred
    objects are of different sizes, so that the share of wrong pixels is not that of wrong objects.

    Args:
        levels: Levels of the noise.
        steps: Number of optimizer steps.
        seed: Seed of scenes, noise, network and batches.
    """
    return [result for level in levels for result in _check(level, steps, seed)]


def _check(level: LabelNoise, steps: int, seed: int) -> list[NoiseResult]:
    exact = SceneGenerator().make(_SCENES, seed=seed)
    noisy = SceneGenerator(noise=level).make(_SCENES, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = _Decoder()
    squared = {"instance squared": "gaussian", "depth squared": "gaussian"}
    tasks = {"semantic": "softmax", "instance": "laplace", "depth": "laplace", **squared}
    weighting = UncertaintyWeighting(tasks, scale=None)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        picked = torch.randint(_SCENES, (_BATCH,), generator=generator)
        features, labels = (pick(scenes, picked) for scenes in (exact, noisy))
        weighting(_losses(decoder(features), labels)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        weighting.step()
        schedule.step()
    return _results(level, _label_entropy(exact["classes"], noisy["classes"]), weighting.sigmas)


def _losses(outputs: dict[str, Tensor], labels: SceneBatch) -> dict[str, Tensor]:
    offsets = masked_errors(outputs["instance"], labels["offsets"], labels["instance_mask"])
    depths = masked_errors(outputs["depth"], labels["inverse_depth"], labels["depth_mask"])
    squared = {"instance squared": offsets.square().mean(), "depth squared": depths.square().mean()}
    return {**scene_losses(outputs, labels), **squared}


def _results(level: LabelNoise, entropy: float, sigmas: dict[str, float]) -> list[NoiseResult]:
    laplace = math.sqrt(2.0 / math.pi)
    expected = {
        ("semantic", "softmax", level.semantic): math.sqrt(2.0 * entropy),
        ("instance", "laplace", level.instance): laplace * level.instance,
        ("instance squared", "gaussian", level.instance): level.instance,
        ("depth", "laplace", level.depth): laplace * level.depth,
        ("depth squared", "gaussian", level.depth): level.depth,
    }
    return [NoiseResult(*key, expected=value, learned=sigmas[key[0]]) for key, value in expected.items()]


def _label_entropy(truth: Tensor, label: Tensor) -> float:
    """Return the entropy of a pixel's label given its true class, in nats."""
    classes = len(CLASS_NAMES)
    counts = (truth * classes + label).flatten().bincount(minlength=classes**2).view(classes, classes).double()
    chances = counts / counts.sum(1, keepdim=True).clamp(min=1.0)
    return float(-torch.special.xlogy(counts, chances).sum() / counts.sum())
