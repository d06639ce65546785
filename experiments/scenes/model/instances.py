"""Objects from vectors: pixels that vote for the same centre are one instance."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.scenes.data.centres import pixel_positions
from lightning_uncertainty._arguments import require

__all__ = ["Instances", "group_instances"]


@dataclass(frozen=True)
class Instances:
    """The objects found in one picture; the first has the number 1 in ``map``.

    Attributes:
        map: Number of the object that each pixel belongs to, 0 for none; (H, W) int64.
        classes: Class of each object, (N,) int64.
        scores: Confidence of the network in each, from 0 to 1; (N,) float32.
        centres: Position (x, y) of each in pixels, (N, 2) float32.
    """

    map: Tensor
    classes: Tensor
    scores: Tensor
    centres: Tensor


def group_instances(
    classes: Tensor,
    offsets: Tensor,
    instance_classes: Collection[int],
    *,
    confidence: Tensor | None = None,
    by_class: bool = True,
    radius: float = 2.0,
    min_samples: int = 5,
    min_pixels: int = 10,
    max_points: int = 1000,
) -> Instances:
    """Cluster the votes ``pixel + offset`` of one picture with OPTICS, and give each pixel to the nearest cluster.

    [Kendall, Gal, Cipolla, CVPR 2018, section 4: votes in a Hough space, clustered by OPTICS (Ankerst et al., 1999),
    each pixel to the centre nearest to its vote; the pixels are those of predicted instance classes.]

    The article says not how it cuts clusters out of the reachability plot. Here: at the height ``radius``. The steep
    edges ("xi") of scikit-learn divide by zero where votes agree exactly, and called up to three quarters of the votes
    noise where they nearly do.

    Args:
        classes: Predicted class of each pixel, (H, W).
        offsets: Predicted vector (x, y) to the centre, in pixels, (2, H, W).
        instance_classes: The classes whose objects are told apart.
        confidence: Probability of the predicted class, (H, W); the score of an object is its mean. By default 1.
        by_class: True clusters the votes of each class alone: a rider and the bicycle share a centre. False clusters
            all votes together and names each object after the class of most of its pixels: better where the network
            takes parts of a truck for a car.
        radius: Distance in pixels within which votes belong together.
        min_samples: Number of votes that make a cluster.
        min_pixels: Size of the smallest objects; the pixels of smaller ones belong to no object.
        max_points: Largest number of votes that are clustered; of more, every second, third... is (OPTICS takes about a
            millisecond per vote). All pixels are still given to a cluster. Objects that keep fewer than ``min_samples``
            votes are lost.

    Raises:
        MissingExtraError: without scikit-learn.

    >>> classes = torch.tensor([[1, 1, 1, 0, 1, 1, 1]])
    >>> offsets = torch.stack([torch.tensor([[1.0, 0.0, -1.0, 0.0, 1.0, 0.0, -1.0]]), torch.zeros(1, 7)])
    >>> group_instances(classes, offsets, {1}, min_samples=3, min_pixels=3).map
    tensor([[1, 1, 1, 0, 2, 2, 2]])
    """
    require("experiments", "sklearn")
    classes, offsets = classes.detach().cpu(), offsets.detach().cpu().float()
    votes = (pixel_positions(*classes.shape) + offsets).permute(1, 2, 0)
    found = torch.zeros_like(classes, dtype=torch.int64)
    centres: list[Tensor] = []
    for mask in _masks(classes, instance_classes, by_class=by_class):
        clusters = _cluster(votes[mask], radius=radius, min_samples=min_samples, max_points=max_points)
        if not len(clusters):
            continue
        nearest = torch.cdist(votes[mask], clusters).argmin(1)
        large = nearest.bincount(minlength=len(clusters)) >= min_pixels
        number = torch.where(large, large.cumsum(0) + len(centres), 0)
        found[mask] = number[nearest]
        centres += list(clusters[large])
    count = len(centres)
    sure = torch.ones(classes.shape) if confidence is None else confidence.detach().cpu().float()
    return Instances(
        map=found,
        classes=torch.tensor([int(classes[found == number].mode().values) for number in range(1, count + 1)]).long(),
        scores=torch.tensor([float(sure[found == number].mean()) for number in range(1, count + 1)]).float(),
        centres=torch.stack(centres) if centres else torch.zeros(0, 2),
    )


def _masks(classes: Tensor, instance_classes: Collection[int], *, by_class: bool) -> list[Tensor]:
    """Return the pixels to cluster together."""
    if by_class:
        return [classes == number for number in sorted(instance_classes)]
    return [torch.isin(classes, torch.tensor(sorted(instance_classes)))]


def _cluster(votes: Tensor, *, radius: float, min_samples: int, max_points: int) -> Tensor:
    """Return the centres of the clusters, (N, 2)."""
    from sklearn.cluster import OPTICS  # type: ignore[import-untyped]  # scikit-learn has no types

    chosen = votes[:: -(-len(votes) // max_points)] if len(votes) else votes
    if len(chosen) < min_samples:
        return votes.new_zeros(0, 2)
    optics = OPTICS(min_samples=min_samples, max_eps=radius, cluster_method="dbscan", eps=radius)
    with warnings.catch_warnings():
        # No cluster at all is a result like others.
        warnings.filterwarnings("ignore", message="All reachability values are inf")
        labels = torch.from_numpy(optics.fit(chosen.double().numpy()).labels_)
    return (
        torch.stack([chosen[labels == label].mean(0) for label in range(int(labels.max()) + 1)])
        if (labels.max() >= 0)
        else votes.new_zeros(0, 2)
    )
