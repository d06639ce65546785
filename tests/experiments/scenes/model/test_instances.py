import itertools
import math

import pytest
import torch

from experiments.scenes.data.centres import centre_offsets
from experiments.scenes.model.average_precision import OVERLAPS, InstanceAveragePrecision
from experiments.scenes.model.instances import Instances, group_instances

CAR, PERSON, ROAD, VOID = 1, 2, 0, 255
THINGS = (CAR, PERSON)


def street():
    """Classes and instances of a small picture: three cars, two of which touch, and two persons."""
    classes = torch.full((40, 80), ROAD)
    instances = torch.zeros(40, 80, dtype=torch.int64)
    places = {
        7: (CAR, slice(10, 20), slice(5, 25)),
        8: (CAR, slice(10, 20), slice(25, 40)),
        9: (CAR, slice(25, 33), slice(50, 70)),
        3: (PERSON, slice(8, 24), slice(44, 48)),
        4: (PERSON, slice(28, 36), slice(74, 78)),
    }
    for number, (kind, rows, columns) in places.items():
        classes[rows, columns], instances[rows, columns] = kind, number
    return classes, instances


def same_partition(found, instances):
    """Whether both name the same sets of pixels, whatever the numbers."""
    pairs = {(int(a), int(b)) for a, b in torch.stack([found.flatten(), instances.flatten()], 1).unique(dim=0)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def average_precision(found, classes, instances, **options):
    metric = InstanceAveragePrecision(THINGS, **options)
    metric.update([found], classes[None], instances[None])
    return {name: float(value) for name, value in metric.compute().items()}


# ------------------------------------------------------------------------------------------------------------- grouping


@pytest.mark.parametrize("by_class", [True, False])
def test_perfect_offsets_give_exactly_the_instances_and_an_average_precision_of_one(by_class):
    classes, instances = street()
    found = group_instances(classes, centre_offsets(instances), THINGS, by_class=by_class)
    assert same_partition(found.map, instances)
    assert sorted(found.classes.tolist()) == [CAR, CAR, CAR, PERSON, PERSON]
    for number, centre in enumerate(found.centres, start=1):
        rows, columns = torch.nonzero(found.map == number, as_tuple=True)
        assert centre.tolist() == pytest.approx([float(columns.float().mean()), float(rows.float().mean())], abs=1e-4)
    assert average_precision(found, classes, instances) == {"ap": 1.0, "ap50": 1.0}


def test_two_parts_of_an_instance_that_something_hides_in_the_middle_are_one():
    """What the article's figure 4 shows: two halves of a car behind a lamp-post."""
    classes, instances = street()
    classes[10:20, 14:16], instances[10:20, 14:16] = ROAD, 0
    found = group_instances(classes, centre_offsets(instances), THINGS)
    assert same_partition(found.map, instances)


def test_the_more_noise_on_the_offsets_the_lower_the_average_precision():
    classes, instances = street()
    mask = instances > 0
    figures = []
    for noise in (0.5, 5.0, 8.0):
        vectors = centre_offsets(instances) + noise * torch.randn(2, *mask.shape) * mask
        found = group_instances(classes, vectors, THINGS)
        figures.append(average_precision(found, classes, instances)["ap"])
    assert 1.0 == figures[0] > figures[1] > figures[2]
    assert figures[2] < 0.6


def test_each_class_is_clustered_alone_or_all_together_under_the_class_of_most_pixels():
    """A rider on a bicycle: the same centre. A car, a quarter of which is taken for a person: one object."""
    classes, instances = street()
    classes[10:20, 20:25] = PERSON
    offsets = centre_offsets(instances)
    apart, together = (group_instances(classes, offsets, THINGS, by_class=choice) for choice in (True, False))
    assert len(apart.classes) == 6
    assert same_partition(together.map, instances)
    assert int(together.classes[together.map[12, 22] - 1]) == CAR


@pytest.mark.parametrize(
    "classes",
    [torch.zeros(20, 30, dtype=torch.int64), torch.where(torch.arange(600).reshape(20, 30) % 149 == 0, CAR, ROAD)],
    ids=["no pixel of an instance class", "single pixels far from each other"],
)
def test_a_picture_without_instances_gives_none(classes):
    found = group_instances(classes, torch.zeros(2, 20, 30), THINGS)
    assert found.map.max() == 0
    assert len(found.classes) == len(found.scores) == len(found.centres) == 0


def test_objects_of_few_pixels_are_dropped_and_their_pixels_belong_to_none():
    classes, instances = street()
    offsets = centre_offsets(instances)
    sizes = {number: int((instances == number).sum()) for number in (3, 4, 7, 8, 9)}
    assert sizes == {3: 64, 4: 32, 7: 200, 8: 150, 9: 160}
    found = group_instances(classes, offsets, THINGS, min_pixels=64)
    kept = torch.where(instances == 4, 0, instances)
    assert same_partition(found.map, kept)
    assert len(found.classes) == 4


def test_of_many_votes_only_some_are_clustered_and_every_pixel_is_still_given_to_a_cluster():
    classes, instances = street()
    found = group_instances(classes, centre_offsets(instances), THINGS, max_points=60, min_samples=3)
    assert same_partition(found.map, instances)


def test_a_vote_that_went_astray_counts_for_the_cluster_nearest_to_it():
    classes, instances = street()
    offsets = centre_offsets(instances)
    offsets[:, 12, 7] += torch.tensor([-9.0, 0.0])
    found = group_instances(classes, offsets, THINGS)
    assert same_partition(found.map, instances)


def test_the_score_of_an_object_is_the_mean_probability_of_its_pixels():
    classes, instances = street()
    confidence = torch.rand(classes.shape)
    found = group_instances(classes, centre_offsets(instances), THINGS, confidence=confidence)
    for number, score in enumerate(found.scores, start=1):
        assert float(score) == pytest.approx(float(confidence[found.map == number].mean()))


def test_bfloat16_outputs_with_a_graph_are_taken_as_they_come():
    classes, instances = street()
    offsets = centre_offsets(instances).bfloat16().requires_grad_()
    assert same_partition(group_instances(classes, offsets, THINGS).map, instances)


# ---------------------------------------------------------------------------------------------------- average precision


def strip(*lengths):
    """A picture of one row in which one object stands behind the other: their numbers, 1, 2..., 0 for a length < 0."""
    numbers = [n if length > 0 else 0 for n, length in enumerate(lengths, start=1) for _ in range(abs(length))]
    return torch.tensor([numbers])


def predicted(numbers, scores, classes=None):
    classes = [CAR] * len(scores) if classes is None else classes
    return Instances(numbers, torch.tensor(classes), torch.tensor(scores), torch.zeros(len(scores), 2))


def by_hand(rows, num_objects):
    """Precision over recall at each distinct score, and the area under it, in plain Python.

    Args:
        rows: score and whether it hits, of every prediction that counts.
        num_objects: that there are.
    """
    points = [(0.0, 1.0)]
    for limit in sorted({score for score, _ in rows}, reverse=True):
        kept = [hit for score, hit in rows if score >= limit]
        points.append((sum(kept) / num_objects, sum(kept) / len(kept)))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def test_average_precision_equals_a_computation_by_hand():
    """Overlaps 0.9, 0.65 and 0 (a false alarm), and a third object that is not found."""
    instances, found = torch.zeros(2, 1, 60).long()
    instances[0, :10], instances[0, 10:30], instances[0, 50:] = 1, 2, 3
    found[0, :9], found[0, 10:23], found[0, 35:45] = 1, 2, 3
    classes = torch.where(instances > 0, CAR, ROAD)
    scores = {1: 0.9, 2: 0.4, 3: 0.6}
    overlaps = {1: 9 / 10, 2: 13 / 20, 3: 0.0}
    expected = [by_hand([(scores[n], overlaps[n] > limit) for n in scores], 3) for limit in OVERLAPS]
    result = average_precision(predicted(found, list(scores.values())), classes, instances)
    assert result["ap"] == pytest.approx(sum(expected) / 10)
    assert result["ap50"] == pytest.approx(expected[0])
    assert 0.1 < result["ap"] < result["ap50"] < 0.6


@pytest.mark.parametrize(("pixels", "hits"), [(10, 10), (9, 8), (6, 2), (5, 0), (4, 0)])
def test_an_overlap_must_exceed_the_limit_to_hit(pixels, hits):
    """Of 10 pixels: 6 exceed 0.5 and 0.55 but not 0.6 itself."""
    found = strip(pixels, pixels - 10) if pixels < 10 else strip(10)
    classes = torch.full((1, 10), CAR)
    result = average_precision(predicted(found, [1.0]), classes, torch.ones(1, 10).long())
    assert result["ap"] == pytest.approx(hits / 10)


def test_the_right_pixels_under_the_wrong_class_are_a_miss_and_a_false_alarm():
    classes, instances = torch.full((1, 10), CAR), torch.ones(1, 10).long()
    found = predicted(instances, [1.0], classes=[PERSON])
    assert average_precision(found, classes, instances) == {"ap": 0.0, "ap50": 0.0}


@pytest.mark.parametrize(
    ("classes", "instances"),
    [
        (torch.tensor([[CAR] * 10 + [VOID] * 10]), strip(10, -10)),
        (torch.tensor([[CAR] * 20]), strip(10, -10)),
        (torch.tensor([[CAR] * 20]), torch.tensor([[1] * 10 + [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]])),
    ],
    ids=["no label", "a group", "objects too small"],
)
def test_a_prediction_on_pixels_that_are_not_judged_is_no_false_alarm(classes, instances):
    """Beside one that hits; on a road it is a false alarm, of the higher score."""
    found = predicted(strip(10, 10), [0.5, 0.9])
    assert average_precision(found, classes, instances) == {"ap": 1.0, "ap50": 1.0}
    road = torch.tensor([[CAR] * 10 + [ROAD] * 10])
    assert average_precision(found, road, strip(10, -10))["ap50"] == pytest.approx(by_hand([(0.9, 0), (0.5, 1)], 1))


def test_a_class_without_objects_takes_no_part_and_without_any_there_is_no_figure():
    classes, instances = torch.full((1, 10), CAR), torch.ones(1, 10).long()
    found = predicted(instances, [1.0])
    assert average_precision(found, classes, instances)["ap"] == 1.0  # of CAR; PERSON has none
    road, none = torch.full((1, 10), ROAD), torch.zeros(1, 10).long()
    assert all(math.isnan(value) for value in average_precision(found, road, none).values())


def test_objects_that_nothing_is_predicted_for_give_zero():
    classes, instances = street()
    nothing = group_instances(torch.zeros_like(classes), torch.zeros(2, 40, 80), THINGS)
    assert average_precision(nothing, classes, instances) == {"ap": 0.0, "ap50": 0.0}


def test_pictures_count_together_whether_they_come_one_by_one_or_in_a_batch_or_on_two_ranks():
    classes, instances = street()
    found = [
        group_instances(classes, centre_offsets(instances) + noise * torch.randn(2, 40, 80), THINGS)
        for noise in (0.2, 6.0)
    ]
    batch = InstanceAveragePrecision(THINGS)
    batch.update(found, torch.stack([classes] * 2), torch.stack([instances] * 2))
    single = InstanceAveragePrecision(THINGS)
    for each in found:
        single.update([each], classes[None], instances[None])
    synced = InstanceAveragePrecision(THINGS)
    synced.found = torch.cat(single.found)  # what the sum over ranks makes of a list
    synced.num_objects = single.num_objects
    assert torch.equal(batch.compute()["ap"], single.compute()["ap"])
    torch.testing.assert_close(batch.by_class(), synced.by_class(), rtol=0.0, atol=0.0, equal_nan=True)
    batch.reset()
    batch.update(found[1:], classes[None], instances[None])
    assert batch.compute()["ap"] < single.compute()["ap"]
