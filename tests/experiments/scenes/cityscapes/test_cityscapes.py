import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.scenes.cityscapes.classes import CLASS_NAMES, CLASSES, INSTANCE_CLASSES, class_of_ids
from experiments.scenes.cityscapes.datamodule import CityscapesDataModule, CityscapesDataset, CityscapesError
from experiments.scenes.cityscapes.files import KINDS, Frame
from experiments.scenes.cityscapes.scene import flipped, read_scene
from experiments.scenes.data.centres import centre_offsets, pixel_positions
from tests.experiments.scenes.cityscapes.data_set import HEIGHT, OBJECTS, WIDTH, arrays, write_frame, write_set

SMALL = (16, 32)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cityscapes")
    write_set(folder)
    return folder


@pytest.fixture
def own(root, tmp_path):
    """A copy to damage, and a frame of it."""
    shutil.copytree(root, tmp_path / "own")
    return tmp_path / "own", Frame(tmp_path / "own", "train", "jena", "jena_000001_000019")


@pytest.fixture(params=[None, SMALL], ids=["full size", "sub-sampled"])
def scene(request, root):
    return read_scene(Frame(root, "train", "ulm", "ulm_000000_000019"), request.param)


# -------------------------------------------------------------------------------------------------------- what is read


def test_the_nineteen_classes_are_those_of_the_standard_table():
    """Names and ids as the benchmark lists them, in the order of their train ids."""
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert [each.id for each in CLASSES] == ids
    assert CLASS_NAMES[0] == "road"
    assert [CLASS_NAMES[number] for number in INSTANCE_CLASSES] == (
        ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    )
    classes = class_of_ids(np.arange(256)).tolist()
    assert [classes[number] for number in ids] == list(range(19))
    assert {classes[number] for number in set(range(256)) - set(ids)} == {255}


def test_a_scene_at_full_size_holds_what_the_files_hold(root):
    scene = read_scene(Frame(root, "train", "ulm", "ulm_000000_000019"), None, sky_at_infinity=False)
    files = arrays(0)
    assert torch.equal(scene["image"], torch.tensor(files["image"]).permute(2, 0, 1) / 255)
    named = {7: 0, 23: 10, 24: 11, 26: 13, 3: 255, 30: 255}
    assert scene["classes"].tolist() == [[named[int(number)] for number in row] for row in files["labels"]]
    raw = files["disparity"].astype(np.float64)
    expected = np.where(raw > 0, (raw - 1) / 256, 0.0)
    np.testing.assert_allclose(scene["inverse_depth"][0], expected, rtol=1e-6)
    assert scene["depth_mask"].tolist() == (raw > 0).tolist()


def test_only_single_objects_of_trained_classes_are_instances_and_keep_their_ids(root):
    scene = read_scene(Frame(root, "train", "ulm", "ulm_000000_000019"), None)
    assert set(scene["instances"].unique().tolist()) == {0, 24000, 26000, 26001}
    for number in (24000, 26000, 26001):
        region = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        region[OBJECTS[number]] = True
        assert torch.equal(scene["instances"] == number, region)
        (train_id,) = scene["classes"][region].unique().tolist()
        assert CLASSES[train_id].id == number // 1000
    assert torch.equal(scene["instance_mask"], scene["instances"] > 0)


def test_pixel_plus_offset_is_the_mean_position_of_the_instance_for_every_pixel(scene):
    positions = pixel_positions(*scene["instances"].shape)
    votes = positions + scene["offsets"]
    for number in set(scene["instances"].unique().tolist()) - {0}:
        region = scene["instances"] == number
        rows, columns = np.nonzero(region.numpy())
        assert votes[0][region].numpy() == pytest.approx(columns.mean(), abs=1e-4)
        assert votes[1][region].numpy() == pytest.approx(rows.mean(), abs=1e-4)
        assert (positions[:, region] - votes[:, region]).abs().max() > 0.5  # and it is no vote for itself
    assert scene["offsets"][:, ~scene["instance_mask"]].abs().max() == 0.0


def test_centres_of_instances_that_are_cut_in_two_lie_between_the_parts():
    offsets = centre_offsets(torch.tensor([[4, 0, 0, 0, 4]]))
    assert offsets[0].tolist() == [[2.0, 0.0, 0.0, 0.0, -2.0]]


def test_a_sub_sampled_scene_has_the_labels_of_the_middle_pixels_and_the_mean_colour_of_each_block(root):
    frame = Frame(root, "train", "ulm", "ulm_000000_000019")
    full, small = (read_scene(frame, size, sky_at_infinity=False) for size in (None, SMALL))
    for name in ("classes", "instances", "depth_mask", "instance_mask"):
        assert torch.equal(small[name], full[name][2::4, 2::4])
    blocks = full["image"].reshape(3, 16, 4, 32, 4).mean(dim=(2, 4))
    torch.testing.assert_close(small["image"], blocks)


def test_a_sub_sampled_scene_counts_disparities_and_offsets_in_its_own_pixels(root):
    """A quarter of the width: a quarter of the disparity; and the centre is where it was, up to a pixel."""
    frame = Frame(root, "train", "ulm", "ulm_000000_000019")
    full, small = (read_scene(frame, size, sky_at_infinity=False) for size in (None, SMALL))
    torch.testing.assert_close(small["inverse_depth"], full["inverse_depth"][:, 2::4, 2::4] / 4)
    for number in (24000, 26000, 26001):
        centres = [
            (pixel_positions(*s["instances"].shape) + s["offsets"])[:, s["instances"] == number][:, 0]
            for s in (full, small)
        ]
        assert ((centres[0] + 0.5) / 4 - (centres[1] + 0.5)).abs().max() <= 0.5


def test_sky_is_infinitely_far_as_in_the_article_or_unknown(root):
    frame = Frame(root, "train", "ulm", "ulm_000000_000019")
    article, measured = (read_scene(frame, None, sky_at_infinity=choice) for choice in (True, False))
    sky = article["classes"] == CLASS_NAMES.index("sky")
    assert sky.sum() == 20 * (WIDTH - 4)
    assert article["depth_mask"][sky].all()
    assert not measured["depth_mask"][sky].any()
    assert article["inverse_depth"][0][sky].abs().max() == 0.0
    for name in ("inverse_depth", "depth_mask"):
        assert torch.equal(article[name][..., ~sky], measured[name][..., ~sky])


def test_the_mirror_image_obeys_the_same_law_and_its_mirror_image_is_the_scene(scene):
    mirror = flipped(scene)
    torch.testing.assert_close(mirror["offsets"], centre_offsets(mirror["instances"]))
    assert not torch.equal(mirror["classes"], scene["classes"])
    for name, tensor in flipped(mirror).items():
        assert torch.equal(tensor, scene[name])


# ------------------------------------------------------------------------------------------------------ the data module


def test_the_data_module_serves_batches_of_the_agreed_shapes_and_types(root):
    data = CityscapesDataModule(root, size=SMALL, batch_size=2)
    data.prepare_data()
    data.setup("fit")
    first, second = list(data.train_dataloader())
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in first.items()} == {
        "image": ((2, 3, *SMALL), torch.float32),
        "classes": ((2, *SMALL), torch.int64),
        "instances": ((2, *SMALL), torch.int64),
        "offsets": ((2, 2, *SMALL), torch.float32),
        "inverse_depth": ((2, 1, *SMALL), torch.float32),
        "instance_mask": ((2, *SMALL), torch.bool),
        "depth_mask": ((2, *SMALL), torch.bool),
    }
    assert len(second["image"]) == 1
    assert [len(batch["image"]) for batch in data.val_dataloader()] == [2]


def test_testing_needs_no_training_scenes(root):
    data = CityscapesDataModule(root, size=SMALL)
    data.setup("test")
    assert len(data.test_dataloader().dataset) == 2
    assert not hasattr(data, "train_set")


def test_half_of_the_training_scenes_are_mirrored_and_no_other(root):
    data = CityscapesDataModule(root, size=SMALL)
    data.setup()
    plain = data.train_set.frames[0]
    straight = read_scene(plain, SMALL)["image"]
    mirrored = [not torch.equal(data.train_set[0]["image"], straight) for _ in range(100)]
    assert 30 <= sum(mirrored) <= 70
    assert torch.equal(data.train_set[0]["image"], straight) or torch.equal(
        data.train_set[0]["image"], straight.flip(-1)
    )
    val = read_scene(data.val_set.frames[0], SMALL)["image"]
    assert all(torch.equal(data.val_set[0]["image"], val) for _ in range(20))


# ---------------------------------------------------------------------------------------------------------- what is not


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CityscapesError, match=r"nowhere is not a folder. Expected the root .* disparity, gtFine, left"):
        CityscapesDataModule(tmp_path / "nowhere").setup()


@pytest.mark.parametrize("kind", ["image", "labels", "disparity"])
@pytest.mark.parametrize("zipped", [False, True])
def test_an_archive_that_was_not_extracted(own, kind, zipped):
    folder, _ = own
    shutil.rmtree(folder / KINDS[kind].folder)
    if zipped:
        (folder / KINDS[kind].archive).touch()
    with pytest.raises(CityscapesError) as caught:
        CityscapesDataModule(folder).setup()
    there = ", which is there but not extracted," if zipped else ""
    assert f"extract {KINDS[kind].archive}{there} in" in str(caught.value)
    assert str(folder / KINDS[kind].folder / "train") in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_of_each_kind_is_named_before_anything_is_read(own, kind):
    folder, frame = own
    frame.path(kind).unlink()
    with pytest.raises(CityscapesError) as caught:
        CityscapesDataModule(folder).setup()
    assert str(caught.value).startswith(f"{frame.path(kind)} is missing. Expected four files of every frame")
    assert KINDS[kind].archive in str(caught.value)


def test_a_half_extracted_folder_says_how_much_is_missing(own):
    folder, _ = own
    shutil.rmtree(folder / "gtFine" / "train" / "ulm")
    with pytest.raises(CityscapesError, match=r"ulm_000000_000019_gtFine_labelIds.png and 3 more files are missing"):
        CityscapesDataModule(folder).setup()


def test_a_split_without_a_picture(own):
    folder, _ = own
    for kind in ("leftImg8bit", "gtFine", "disparity"):
        shutil.rmtree(folder / kind / "val")
        (folder / kind / "val").mkdir()
    with pytest.raises(CityscapesError, match=r"val holds no pictures"):
        CityscapesDataModule(folder).setup()


@pytest.mark.parametrize(
    "name",
    [
        "jena_000001_000019.png",
        "jena_1_19_leftImg8bit.png",
        "ulm_000001_000019_leftImg8bit.png",
        "jena_000001_000019_leftImg8bit (1).png",
    ],
)
def test_a_wrong_file_name_is_said_with_the_right_one(own, name):
    folder, frame = own
    frame.path("image").rename(frame.path("image").with_name(name))
    with pytest.raises(CityscapesError, match=re.escape(f"{name} is not named as a file of this folder")) as caught:
        CityscapesDataModule(folder).setup()
    assert "jena_<sequence>_<frame>_leftImg8bit.png" in str(caught.value)


def test_other_files_of_the_archives_are_left_alone(own):
    folder, frame = own
    for suffix in ("color.png", "polygons.json", "labelTrainIds.png"):
        (frame.path("labels").parent / f"{frame.name}_gtFine_{suffix}").touch()
    (folder / "leftImg8bit" / "license.txt").touch()
    (frame.path("image").parent / ".DS_Store").touch()
    data = CityscapesDataModule(folder, size=SMALL)
    data.prepare_data()
    data.setup()
    assert len(data.train_set) == 3


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-60])


def damage(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut_short, damage])
@pytest.mark.parametrize("kind", KINDS)
def test_a_corrupt_png_is_named_when_it_is_read(own, kind, harm):
    folder, frame = own
    harm(frame.path(kind))
    data = CityscapesDataset(folder, "train", size=SMALL)
    with pytest.raises(CityscapesError) as caught:
        data[data.frames.index(frame)]
    assert str(caught.value).startswith(f"{frame.path(kind)} cannot be read (")
    assert f"extract it again from {KINDS[kind].archive}" in str(caught.value)


def test_a_corrupt_png_is_named_by_worker_processes_too(own):
    folder, frame = own
    cut_short(frame.path("disparity"))
    data = CityscapesDataModule(folder, size=SMALL, num_workers=1, batch_size=1)
    data.setup()
    with pytest.raises(CityscapesError, match=re.escape(frame.path("disparity").name)):
        list(data.train_dataloader())


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("labels", b"", "cannot be read"),
        ("disparity", b"<html>please log in</html>", "cannot be read"),
    ],
    ids=["an empty file", "a page of a web server"],
)
def test_what_is_no_png_at_all_is_named_before_training(own, kind, content, message):
    folder, frame = own
    frame.path(kind).write_bytes(content)
    with pytest.raises(CityscapesError, match=message) as caught:
        CityscapesDataModule(folder).prepare_data()
    assert str(frame.path(kind)) in str(caught.value)


@pytest.mark.parametrize(("kind", "mode"), [("image", "L"), ("labels", "RGB"), ("instances", "L"), ("disparity", "L")])
def test_another_pixel_format_is_named_before_training(own, kind, mode):
    folder, frame = own
    Image.open(frame.path(kind)).convert(mode).save(frame.path(kind))
    with pytest.raises(CityscapesError, match=f"has pixels of mode '{mode}'. Expected .*not a converted one") as caught:
        CityscapesDataModule(folder).prepare_data()
    assert str(frame.path(kind)) in str(caught.value)


@pytest.mark.parametrize("kind", ["labels", "instances", "disparity"])
def test_an_image_and_a_label_of_different_sizes_are_named_before_training_and_when_read(own, kind):
    folder, frame = own
    write_frame(frame, {kind: arrays()[kind][:32, :64]})
    expected = re.escape(f"{frame.path(kind)} has 64 x 32 pixels. Expected the size of its picture {frame.name}")
    with pytest.raises(CityscapesError, match=expected):
        CityscapesDataModule(folder).prepare_data()
    with pytest.raises(CityscapesError, match=expected):
        read_scene(frame, SMALL)


def test_a_class_id_that_does_not_exist(own):
    _, frame = own
    write_frame(frame, {"labels": arrays()["labels"] + 30})
    with pytest.raises(CityscapesError, match=r"labelIds.png contains the class id 37. Expected ids from 0 to 33"):
        read_scene(frame, SMALL)


def test_a_size_above_that_of_the_files(root):
    with pytest.raises(CityscapesError, match=r"has 128 x 64 pixels. Expected at least the 256 x 128"):
        CityscapesDataset(root, "train")[0]
