"""The average precision of Cityscapes: how many of the objects are found, and how well."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from experiments.scenes.data.batch import IGNORE
from experiments.scenes.model.instances import Instances

__all__ = ["OVERLAPS", "InstanceAveragePrecision"]

OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The overlaps (intersection over union) that a prediction must exceed to count as a hit: 0.5, 0.55... 0.95."""


class InstanceAveragePrecision(Metric):
    """Average precision over the ten overlaps 0.5, 0.55... 0.95, and at 0.5 alone, each the mean over classes.

    As in the evaluation of Cityscapes (cityscapesScripts, ``evalInstanceLevelSemanticLabeling``):

    - a prediction hits if its overlap with an object of its class exceeds the limit; as objects do not overlap each
      other and neither do predictions, no object is hit twice;
    - a prediction that hits nothing is an error, unless more of it than the limit lies on pixels that are not judged:
      those without a label, groups (an instance class without an instance), and objects of fewer than ``min_pixels``;
    - precision over recall, a point per distinct score and one at (0, 1), is integrated by the trapezoid rule;
    - a class without objects takes no part in the mean.

    Departures: the smallest object that counts has 100 pixels there, at 1024 x 2048; here it is an argument, since
    100 pixels are 2 at 128 x 256. Objects of classes that are not trained (caravans) are not judged; there, a car that
    is found in a caravan is an error. No averages by distance.

    Args:
        instance_classes: The classes that are judged.
        min_pixels: Size of the smallest objects that are judged.

    Example:
        >>> metric = InstanceAveragePrecision([1])
        >>> found = Instances(torch.tensor([[1, 1, 1, 0]]), torch.tensor([1]), torch.ones(1), torch.zeros(1, 2))
        >>> metric.update([found], torch.tensor([[[1, 1, 1, 1]]]), torch.tensor([[[7, 7, 7, 7]]]))
        >>> metric.compute()  # an overlap of 3/4: a hit at 0.5, 0.55... 0.7
        {'ap': tensor(0.5000), 'ap50': tensor(1.)}
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    found: list[Tensor]
    num_objects: Tensor

    def __init__(self, instance_classes: Collection[int], *, min_pixels: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.instance_classes, self.min_pixels = tuple(sorted(instance_classes)), min_pixels
        # A row per prediction: class, score, pixels in common with the best object of its class and of both together,
        # pixels that are not judged, all pixels. Counts, for a float32 of their ratio would miss limits by a rounding.
        self.add_state("found", default=[], dist_reduce_fx="cat")
        self.add_state("num_objects", default=torch.zeros(len(self.instance_classes)), dist_reduce_fx="sum")

    def update(self, found: Sequence[Instances], classes: Tensor, instances: Tensor) -> None:
        """Compare the objects found in each picture with the true ones.

        Args:
            found: Objects found in each picture of the batch.
            classes: The true class of each pixel, 255 where there is no label.
            instances: The number of the object that each pixel belongs to, 0 for none.
        """
        for one, *truth in zip(found, classes.cpu(), instances.cpu(), strict=True):
            self._update_one(one, *truth)

    def compute(self) -> dict[str, Tensor]:
        """Return ``ap``, over all overlaps, and ``ap50``; from 0 to 1, NaN if there was no object at all."""
        by_class = self.by_class()
        return {"ap": by_class.mean(1).nanmean(), "ap50": by_class[:, 0].nanmean()}

    def by_class(self) -> Tensor:
        """Return the average precision of each class at each overlap, (classes, 10); NaN without objects."""
        rows = (
            self.found if isinstance(self.found, Tensor) else torch.cat([self.num_objects.new_zeros(0, 6), *self.found])
        )
        table = torch.full((len(self.instance_classes), len(OVERLAPS)), torch.nan)
        for place, number in enumerate(self.instance_classes):
            if self.num_objects[place] > 0:
                of_class = rows[rows[:, 0] == number]
                table[place] = torch.stack([_average_precision(of_class, self.num_objects[place], o) for o in OVERLAPS])
        return table

    def _update_one(self, found: Instances, classes: Tensor, instances: Tensor) -> None:
        for place, number in enumerate(self.instance_classes):
            of_class = classes == number
            ids, sizes = torch.unique(instances[of_class], return_counts=True)
            judged = ids[(ids > 0) & (sizes >= self.min_pixels)]
            self.num_objects[place] += len(judged)
            objects = of_class & (instances == judged[:, None, None])  # (objects, H, W)
            unjudged = (classes == IGNORE) | (of_class & ~objects.any(0))
            for index in torch.nonzero(found.classes == number).flatten().tolist():
                mask = found.map == index + 1
                common, union = _best_overlap(mask, objects)
                counts = (common, union, int((mask & unjudged).sum()), int(mask.sum()))
                row = torch.tensor([[number, float(found.scores[index]), *counts]], device=self.device)
                self.found.append(row)


def _best_overlap(mask: Tensor, objects: Tensor) -> tuple[int, int]:
    """Return the pixels in common with the object that overlaps most, and those of both; (0, 1) if none does."""
    common, union = (mask & objects).sum((1, 2)), (mask | objects).sum((1, 2))
    if not common.any():
        return 0, 1
    best = (common / union).argmax()
    return int(common[best]), int(union[best])


def _average_precision(rows: Tensor, num_objects: Tensor, limit: float) -> Tensor:
    """Return the area under precision over recall."""
    _, score, common, union, unjudged, size = rows.cpu().double().unbind(1)
    hit = common / union > limit
    counted = hit | (unjudged / size <= limit)
    score, hit = score[counted], hit[counted]
    if not len(score):
        return torch.zeros(())
    chosen = score >= torch.unique(score)[:, None]  # what each distinct score as a threshold leaves, the lowest first
    hits = (chosen & hit).sum(1)
    precision, recall = hits / chosen.sum(1), hits / float(num_objects)
    # The curve starts at recall 0 with a precision of 1.
    curve = torch.cat([precision, torch.ones(1)]), torch.cat([recall, torch.zeros(1)])
    return -torch.trapezoid(*curve)
