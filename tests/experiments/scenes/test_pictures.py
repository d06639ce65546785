import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image
from torch.nn.functional import one_hot

from experiments.scenes.data.batch import SceneBatch
from experiments.scenes.data.centres import centre_offsets
from experiments.scenes.pictures import Palette, contact_sheet, prediction_figure
from tests.experiments.scenes.model.test_instances import CAR, PERSON, ROAD, VOID, street

PALETTE = Palette(("road", "car", "person"), ((128, 64, 128), (0, 0, 142), (220, 20, 60)), (CAR, PERSON))


def perfect(count=3):
    """Scenes of the same street, and a network that is always right."""
    classes, instances = street()
    offsets, depth = centre_offsets(instances), torch.linspace(0.0, 9.0, 40)[:, None].expand(40, 80)
    labels = classes.clone()
    labels[:3] = VOID
    scene = {
        "image": torch.rand(3, 40, 80),
        "classes": labels,
        "instances": instances,
        "offsets": offsets,
        "inverse_depth": depth[None],
        "instance_mask": instances > 0,
        "depth_mask": depth > 2.0,
    }
    batch: SceneBatch = {name: tensor.expand(count, *tensor.shape) for name, tensor in scene.items()}
    logits = 9.0 * one_hot(classes, 3).permute(2, 0, 1).float()
    outputs = {"semantic": logits, "instance": offsets, "depth": depth[None]}
    return batch, {task: tensor.expand(count, *tensor.shape) for task, tensor in outputs.items()}


def shown(axis):
    """The colours of the picture on an axis, (H, W, 3)."""
    picture = torch.as_tensor(axis.images[0].get_array().filled(torch.nan))
    return picture if picture.dim() == 3 else picture[..., None]


def test_a_row_per_scene_shows_truth_and_prediction_of_every_task():
    batch, prediction = perfect(3)
    figure = prediction_figure(batch, prediction, PALETTE, rows=2)
    assert [axis.get_title() for axis in figure.axes[:8]] == [
        *("image", "classes", "predicted", "instances", "votes for centres", "predicted", "inverse depth", "predicted")
    ]
    assert len(figure.axes) == 2 * 8
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["road", "car", "person"]


def test_a_perfect_prediction_looks_like_the_truth_where_there_is_a_label():
    batch, prediction = perfect(1)
    row = prediction_figure(batch, prediction, PALETTE).axes
    classes, predicted, instances, found, depth, predicted_depth = (shown(row[i]) for i in (1, 2, 3, 5, 6, 7))
    assert torch.equal(classes[3:], predicted[3:])
    assert classes[:3].max() == 0.0  # no label: black
    assert torch.equal(instances, found)
    known = batch["depth_mask"][0]
    assert torch.equal(depth[known], predicted_depth[known])
    assert depth[~known].isnan().all()
    assert row[6].images[0].get_clim() == row[7].images[0].get_clim() == (0.0, 9.0)


def test_classes_are_drawn_in_the_colours_of_the_legend():
    batch, prediction = perfect(1)
    figure = prediction_figure(batch, prediction, PALETTE)
    classes, _ = street()
    colours = [to_rgb(patch.get_facecolor()) for patch in figure.legends[0].get_patches()]
    for number, colour in zip((ROAD, CAR, PERSON), colours, strict=True):
        drawn = shown(figure.axes[2])[classes == number]
        assert (drawn - torch.tensor(colour)).abs().max() < 0.01


def test_the_votes_lie_on_the_true_centres():
    batch, prediction = perfect(1)
    votes, *centres = prediction_figure(batch, prediction, PALETTE).axes[4].collections
    points = torch.as_tensor(votes.get_offsets().filled())
    crosses = torch.cat([torch.as_tensor(cross.get_offsets().filled()) for cross in centres])
    assert len(crosses) == 5
    assert torch.cdist(points.double(), crosses.double()).min(1).values.max() < 1e-3


def test_a_picture_without_any_object_or_depth_can_be_drawn():
    batch, prediction = perfect(1)
    batch = {**batch, "instances": torch.zeros_like(batch["instances"]), "depth_mask": batch["depth_mask"] & False}
    empty = {**prediction, "semantic": torch.randn(1, 1, 40, 80)}
    figure = prediction_figure(batch, empty, PALETTE)
    FigureCanvasAgg(figure).draw()
    assert shown(figure.axes[5]).flatten(0, 1).unique(dim=0).shape[0] == 1


def test_the_contact_sheet_shows_exact_and_noisy_labels_of_each_scene(tmp_path):
    figure = contact_sheet(scenes=2)
    assert len(figure.axes) == 2 * 8
    pictures = {axis.get_title(): shown(axis) for axis in figure.axes[:8]}
    for name in ("to the centre", "inverse depth"):
        exact, noisy = pictures[name].nan_to_num(), pictures[f"{name}, noisy"].nan_to_num()
        assert 0.01 < (exact != noisy).any(-1).float().mean() < 1.0
    figure.savefig(tmp_path / "scenes.png")
    with Image.open(tmp_path / "scenes.png") as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 500
