import math

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from lightning_uncertainty import Snapshot, UncertaintyWeighting
from lightning_uncertainty.reporting.figures import COLOURS, plot_raw_losses, plot_weights, save_training_figure
from lightning_uncertainty.snapshot import TaskSnapshot

UNITS = {"price": "$²", "carat": "ct²", "cut": "nats", "color": "nats", "clarity": "nats"}


def task(weight, raw_loss, likelihood="gaussian"):
    return TaskSnapshot(likelihood, -math.log(weight), weight**-0.5, weight, 0.5 * weight, raw_loss, 0, None, True)


def history(steps=20, names=tuple(UNITS)):
    """Weights of very different size, three of which end at almost the same value."""
    sizes = [1e-7, 1e4, 0.30, 0.29, 0.31, *([0.3] * len(names))]
    return [
        Snapshot(step, {name: task(sizes[i] * (1 + step), 1 / sizes[i] / (1 + step)) for i, name in enumerate(names)})
        for step in range(steps)
    ]


def axis():
    return Figure(layout="constrained").subplots()


@pytest.mark.parametrize("plot", [plot_weights, plot_raw_losses])
def test_a_plot_gives_back_its_axis_with_a_line_per_task_and_named_log_axes(plot):
    given = axis()
    drawn = plot(given, history())
    assert drawn is given
    assert [line.get_label() for line in drawn.lines] == list(UNITS)
    assert drawn.get_yscale() == "log"
    assert drawn.get_xlabel() == "optimizer step"
    assert drawn.get_ylabel()


def test_the_lines_show_the_weights_and_the_raw_losses_of_the_snapshots():
    snapshots = history(steps=3, names=("price",))
    (weights,), (losses,) = plot_weights(axis(), snapshots).lines, plot_raw_losses(axis(), snapshots).lines
    assert weights.get_xydata().tolist() == [[s.step, s.tasks["price"].weight] for s in snapshots]
    assert losses.get_xydata().tolist() == [[s.step, s.tasks["price"].raw_loss] for s in snapshots]


@pytest.mark.parametrize("names", [tuple(UNITS), tuple("abcdefghijkl")], ids=["5 tasks", "12 tasks"])
def test_no_two_labels_overlap_and_all_lie_on_the_picture(names):
    figure = Figure(figsize=(9.0, 8.0), layout="constrained")
    for each, plot in zip(figure.subplots(2, 1), (plot_weights, plot_raw_losses), strict=True):
        plot(each, history(names=names), labels=UNITS)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for each in figure.axes:
        for text in each.texts:
            text.update_positions(canvas.get_renderer())
        boxes = [Text.get_window_extent(text) for text in each.texts]  # of the text without its line
        assert len(boxes) == len(names)
        assert all(box.x0 > each.bbox.x1 for box in boxes)  # beside the axis
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) for box in boxes)
        assert all(figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1) for box in boxes)


def test_a_label_has_the_colour_of_its_line_and_the_text_that_was_asked_for():
    drawn = plot_raw_losses(axis(), history(), labels=UNITS)
    colours = {line.get_label(): line.get_color() for line in drawn.lines}
    texts = [(text.get_text(), text.get_color()) for text in drawn.texts]
    assert sorted(texts) == sorted((UNITS[name], colours[name]) for name in UNITS)


def test_more_tasks_than_colours_differ_in_style():
    lines = plot_weights(axis(), history(names=tuple("abcdefghijkl"))).lines
    assert len({(to_rgb(line.get_color()), line.get_linestyle()) for line in lines}) == 12 > len(COLOURS)


def test_tasks_that_were_never_seen_or_lost_nothing_do_no_harm():
    snapshots = [
        Snapshot(step, {"a": task(1.0, math.nan), "b": task(2.0, 0.0), "c": task(3.0, 1.0)}) for step in (1, 2)
    ]
    figure = Figure(layout="constrained")
    drawn = plot_raw_losses(figure.subplots(), snapshots)
    FigureCanvasAgg(figure).draw()
    assert [text.get_text() for text in drawn.texts] == ["c"]


def test_plots_take_what_the_engine_gives_before_its_first_step():
    figure = Figure(layout="constrained")
    snapshots = [UncertaintyWeighting({"depth": "laplace", "class": "softmax"}).snapshot()]
    drawn = plot_weights(figure.subplots(), snapshots)
    FigureCanvasAgg(figure).draw()
    assert "Laplace" in drawn.get_ylabel()


def test_nothing_to_plot_says_what_to_pass():
    with pytest.raises(ValueError, match="at least one snapshot"):
        plot_weights(axis(), [])


def test_the_saved_picture_opens_and_is_not_blank(tmp_path):
    path = save_training_figure(tmp_path / "training.png", history(steps=200), title="t", loss_labels=UNITS)
    picture = imread(path)
    assert picture.shape == (1200, 1350, 4)
    for colour in COLOURS[:5]:
        close = abs(picture[..., :3] - to_rgb(colour)).max(axis=-1) < 0.02
        assert close.sum() > 100
