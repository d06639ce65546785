import math

import numpy as np
import pytest
import torch

from experiments.scenes.data.batch import pick
from experiments.scenes.data.centres import centre_offsets
from experiments.scenes.data.generator import DISPARITY_PER_ROW, SceneGenerator
from experiments.scenes.data.label_noise import LabelNoise
from experiments.scenes.data.render import visible_surfaces
from experiments.scenes.data.street import CLASS_NAMES, KINDS, ROAD, SKY, Objects


@pytest.fixture(scope="module")
def scenes():
    return SceneGenerator().make(48, seed=3)


@pytest.fixture(scope="module")
def noisy():
    return SceneGenerator(noise=LabelNoise(semantic=0.1, instance=4.0, depth=0.3)).make(48, seed=3)


def test_a_batch_has_the_shapes_and_types_of_the_contract(scenes):
    found = {key: (tuple(values.shape[1:]), values.dtype) for key, values in scenes.items()}
    assert found == {
        "image": ((3, 64, 128), torch.float32),
        "classes": ((64, 128), torch.int64),
        "instances": ((64, 128), torch.int64),
        "offsets": ((2, 64, 128), torch.float32),
        "inverse_depth": ((1, 64, 128), torch.float32),
        "instance_mask": ((64, 128), torch.bool),
        "depth_mask": ((64, 128), torch.bool),
    }
    assert 0.0 <= scenes["image"].min() < 0.2
    assert 0.8 < scenes["image"].max() <= 1.0


def test_all_classes_occur(scenes):
    counts = scenes["classes"].flatten().bincount(minlength=len(CLASS_NAMES))
    assert (counts > 0.005 * counts.sum()).all()


def test_equal_seeds_give_equal_bits_and_others_do_not(scenes):
    again, other = SceneGenerator().make(48, seed=3), SceneGenerator().make(48, seed=4)
    assert all(torch.equal(scenes[key], again[key]) for key in scenes)
    assert not any(torch.equal(scenes[key], other[key]) for key in scenes)


def test_the_first_scenes_do_not_depend_on_how_many_are_made(scenes):
    few = SceneGenerator().make(5, seed=3)
    assert all(torch.equal(values, scenes[key][:5]) for key, values in few.items())


def test_no_scenes_are_refused():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        SceneGenerator().make(0, seed=0)


def test_making_scenes_leaves_the_global_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    SceneGenerator(height=16, width=32, noise=LabelNoise()).make(2, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_each_offset_points_to_the_mean_position_of_its_instance(scenes):
    offsets, instances = scenes["offsets"].numpy(), scenes["instances"].numpy()
    for scene in range(8):
        for number in np.unique(instances[scene])[1:]:
            y, x = (instances[scene] == number).nonzero()
            pointed = np.stack([x, y]) + offsets[scene][:, y, x]
            np.testing.assert_allclose(pointed, np.broadcast_to([[x.mean()], [y.mean()]], pointed.shape), atol=1e-3)


def test_masks_agree_with_classes_and_values_are_zero_off_them(scenes):
    mask = scenes["instance_mask"]
    assert torch.equal(mask, scenes["instances"] > 0)
    assert torch.equal(mask, scenes["classes"] >= 2)
    assert torch.equal(scenes["depth_mask"], scenes["classes"] != SKY)
    assert not scenes["offsets"].movedim(1, -1)[~mask].any()
    assert not scenes["inverse_depth"][:, 0][~scenes["depth_mask"]].any()
    assert (scenes["inverse_depth"][:, 0][scenes["depth_mask"]] > 0.0).all()


def test_an_instance_has_one_class(scenes):
    for classes, instances in zip(scenes["classes"], scenes["instances"], strict=True):
        for number in instances.unique()[1:]:
            assert len(classes[instances == number].unique()) == 1


def test_the_ground_gets_nearer_by_the_same_disparity_with_each_row(scenes):
    depth, road = scenes["inverse_depth"][:, 0], scenes["classes"] == ROAD
    both = road[:, 1:] & road[:, :-1]
    steps = (depth[:, 1:] - depth[:, :-1])[both]
    torch.testing.assert_close(steps, torch.full_like(steps, DISPARITY_PER_ROW), atol=1e-5, rtol=0.0)


def surfaces(*disparities, kind=0):
    """What is visible of objects at one place, one size and these disparities."""
    count = len(disparities)
    same = torch.ones(1, count)
    objects = Objects(
        kind=torch.full((1, count), kind),
        left_right=32.0 * same,
        foot=24.0 * same,
        half_width=10.0 * same,
        half_height=8.0 * same,
        disparity=torch.tensor([disparities]),
        relief=0.0 * same,
        colour=torch.zeros(1, count, 3),
        phase=0.0 * same,
    )
    return visible_surfaces(objects, torch.tensor([12.0]), height=32, width=64, disparity_per_row=0.1)


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[kind.name for kind in KINDS])
@pytest.mark.parametrize("order", [(1.5, 2.0, 2.5), (2.5, 2.0, 1.5), (2.0, 2.5, 1.5)], ids=str)
def test_the_nearest_object_hides_the_others_in_whatever_order_they_come(order, kind):
    visible = surfaces(*order, kind=kind)
    assert set(visible.owner.unique().tolist()) == {-1, order.index(2.5)}
    assert visible.disparity[visible.owner >= 0].unique().tolist() == [2.5]


def test_no_object_hides_nearer_ground():
    visible = surfaces(0.5)  # it stands further away than where its foot is drawn
    below = visible.disparity[0, :, 32]
    assert (below[1:] >= below[:-1] - 1e-6)[18:].all()
    assert (visible.owner[0, 18:] == -1).all()


@pytest.mark.parametrize(("kind", "bulges"), [("van", False), ("barrel", True), ("ball", True)])
def test_round_objects_bulge_towards_the_camera_and_boxes_are_flat(kind, bulges, scenes):
    number = CLASS_NAMES.index(kind)
    spans = []
    for classes, instances, depth in zip(scenes["classes"], scenes["instances"], scenes["inverse_depth"], strict=True):
        views = (depth[0][instances == instance] for instance in instances[classes == number].unique())
        spans += [float(view.max() / view.min()) - 1.0 for view in views if len(view) > 100]
    assert spans
    assert (min(spans) > 0.01) if bulges else (max(spans) < 1e-6)


def test_noise_leaves_images_masks_and_instances_alone(scenes, noisy):
    for key in ("image", "instances", "instance_mask", "depth_mask"):
        assert torch.equal(scenes[key], noisy[key])
    assert not noisy["offsets"].movedim(1, -1)[~noisy["instance_mask"]].any()
    assert not noisy["inverse_depth"][:, 0][~noisy["depth_mask"]].any()


@pytest.mark.parametrize(
    ("key", "mask", "deviation"),
    [("offsets", "instance_mask", 4.0), ("inverse_depth", "depth_mask", 0.3)],
    ids=["offsets", "inverse depth"],
)
def test_noise_of_a_regression_is_gaussian_of_the_stated_size_everywhere(key, mask, deviation, scenes, noisy):
    noise = (noisy[key] - scenes[key]).movedim(1, -1)[scenes[mask]].flatten().double()
    count = len(noise)
    assert abs(noise.mean()) < 5.0 * deviation / math.sqrt(count)
    assert noise.std() == pytest.approx(deviation, rel=5.0 / math.sqrt(2 * count))
    # Of a Gaussian, a Laplace or a uniform noise of that deviation would miss this by 10 % and 9 %.
    assert noise.abs().mean() == pytest.approx(math.sqrt(2 / math.pi) * deviation, rel=0.01)
    near, far = noise[: count // 2], noise[count // 2 :]
    assert near.std() == pytest.approx(float(far.std()), rel=0.02)


def test_the_stated_share_of_objects_has_the_label_of_another_class():
    scenes = SceneGenerator(height=32, width=64).make(400, seed=0)
    noisy = SceneGenerator(height=32, width=64, noise=LabelNoise(0.1, 0.0, 0.0)).make(400, seed=0)
    wrong, objects = 0, 0
    for truth, label, instances in zip(scenes["classes"], noisy["classes"], scenes["instances"], strict=True):
        for number in instances.unique()[1:]:
            labels, classes = label[instances == number].unique(), truth[instances == number].unique()
            assert len(labels) == 1
            assert int(labels) >= 2
            wrong += int(labels != classes)
            objects += 1
    assert wrong / objects == pytest.approx(0.1, abs=5 * math.sqrt(0.1 * 0.9 / objects))
    background = scenes["instances"] == 0
    assert torch.equal(noisy["classes"][background], scenes["classes"][background])


def test_noise_defaults_differ_between_the_tasks_and_exact_labels_are_the_default_of_the_generator():
    assert LabelNoise() == LabelNoise(semantic=0.1, instance=4.0, depth=0.3)
    assert SceneGenerator().noise == LabelNoise(semantic=0.0, instance=0.0, depth=0.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LabelNoise(semantic=1.5), "from 0 to 1; got 1.5"),
        (lambda: LabelNoise(instance=-1.0), "`instance` is a standard deviation"),
        (lambda: LabelNoise(depth=-1.0), "`depth` is a standard deviation"),
        (lambda: SceneGenerator(height=4), "`height` must be at least 8; got 4"),
        (lambda: SceneGenerator(objects=0), "`objects` must be at least 1"),
    ],
    ids=["share", "instance", "depth", "height", "objects"],
)
def test_an_impossible_setting_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_offsets_of_a_hand_made_map_of_instances():
    instances = torch.tensor([[[1, 1, 0], [2, 1, 0]], [[0, 0, 0], [0, 2, 0]]])  # the second shares a number
    offsets = centre_offsets(instances)
    third = 1 / 3
    expected = [[[third * 2, -third, 0.0], [0.0, -third, 0.0]], [[third, third, 0.0], [0.0, -2 * third, 0.0]]]
    torch.testing.assert_close(offsets[0], torch.tensor(expected))
    assert not offsets[1].any()
    assert torch.equal(centre_offsets(instances[0]), offsets[0])


def test_picking_gives_those_scenes(scenes):
    picked = pick(scenes, [4, 2])
    assert all(torch.equal(picked[key], torch.stack([scenes[key][4], scenes[key][2]])) for key in scenes)
