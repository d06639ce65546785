import json
import math
import statistics
import subprocess
import sys
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from lightning_uncertainty import Snapshot
from lightning_uncertainty.reporting import figures
from lightning_uncertainty.reporting.figures import (
    COLOURS,
    FEW,
    GREY,
    overview,
    plot_raw_losses,
    plot_shares,
    plot_sigmas,
    plot_weights,
)
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.snapshot import TaskSnapshot
from tests.paper import UncertaintyWeighting

UNITS = {"price": "$", "carat": "ct", "cut": "", "color": "", "clarity": ""}
LINES = [plot_weights, plot_sigmas, plot_raw_losses]
PLOTS = [*LINES, plot_shares]
QUANTITIES = dict(zip(PLOTS, ("precision", "sigma", "raw_loss", "share"), strict=True))


def task(weight, raw_loss, likelihood="gaussian", unit=""):
    log_var = -math.log(weight)
    return TaskSnapshot(likelihood, log_var, weight**-0.5, weight, 0.5 * weight, raw_loss, 0, None, True, unit=unit)


def snapshots(steps=20, names=tuple(UNITS)):
    """Weights of very different size, three of which end at almost the same value."""
    sizes = [1e-7, 1e4, 0.30, 0.29, 0.31, *(10.0 ** (k % 9 - 4.0 + 0.001 * k) for k in range(len(names)))]
    return [
        Snapshot(
            step,
            {
                name: task(sizes[i] * (1 + step), (1 + i % 3) / sizes[i] / (1 + step), unit=UNITS.get(name, ""))
                for i, name in enumerate(names)
            },
        )
        for step in range(1, steps + 1)
    ]


def named(count):
    return tuple(f"task_{index:03d}" for index in range(count))


def axis():
    return Figure(layout="constrained").subplots()


def texts(drawn):
    return [text.get_text() for text in drawn.get_legend().get_texts()]


# ---------------------------------------------------------------------------------------------------- few tasks


@pytest.mark.parametrize("plot", LINES)
def test_a_plot_gives_back_its_axis_with_a_line_per_task_and_named_log_axes(plot):
    given = axis()
    drawn = plot(given, snapshots())
    assert drawn is given
    assert [line.get_label() for line in drawn.lines] == list(UNITS)
    assert drawn.get_yscale() == "log"
    assert drawn.get_xlabel() == "optimizer step"
    assert drawn.get_ylabel()


@pytest.mark.parametrize(
    ("plot", "of"),
    [(plot_weights, lambda t: t.precision), (plot_sigmas, lambda t: t.sigma), (plot_raw_losses, lambda t: t.raw_loss)],
    ids=["weights", "sigmas", "raw losses"],
)
def test_the_lines_show_the_values_of_the_snapshots(plot, of):
    given = snapshots(steps=3, names=("price",))
    (line,) = plot(axis(), given).lines
    expected = [[s.step, pytest.approx(of(s.tasks["price"]), rel=1e-6)] for s in given]
    assert line.get_xydata().tolist() == expected


def test_the_areas_add_up_to_one_and_have_the_height_of_the_shares():
    given = snapshots(steps=5)
    drawn = plot_shares(axis(), given)
    assert [area.get_label() for area in drawn.collections] == list(UNITS)
    floor = 0.0
    for area, (name, share) in zip(drawn.collections, given[-1].shares.items(), strict=True):
        heights = [y for x, y in area.get_paths()[0].vertices.tolist() if x == 5.0]
        assert (min(heights), max(heights)) == pytest.approx((floor, floor + share), abs=1e-6), name
        floor += share
    assert floor == pytest.approx(1.0)
    means = {name: statistics.fmean(snapshot.shares[name] for snapshot in given[-2:]) for name in UNITS}
    assert texts(drawn) == [f"{name} {mean:.0%}" for name, mean in reversed(means.items())]  # as they lie on each other


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("names", [tuple(UNITS), named(FEW), named(30), named(300)], ids=lambda names: str(len(names)))
def test_no_two_labels_overlap_and_all_lie_on_the_picture(names, plot):
    figure = Figure(figsize=(6.5, 4.0), layout="constrained")
    drawn = plot(figure.subplots(), snapshots(names=names))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent() for text in drawn.get_legend().get_texts()]
    assert len(boxes) == (len(names) if len(names) <= FEW else 5 if plot is plot_shares else 6)
    assert all(box.x0 > drawn.bbox.x1 for box in boxes)  # beside the axis
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) for box in boxes)
    assert all(figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1) for box in boxes)


def test_a_label_has_the_look_of_its_line_and_the_unit_and_labels_are_in_the_order_of_the_ends():
    given = snapshots()
    drawn = plot_raw_losses(axis(), given)
    lines = {line.get_label(): line for line in drawn.lines}
    said = {"price": "price [$²]", "carat": "carat [ct²]", "cut": "cut", "color": "color", "clarity": "clarity"}
    ordered = sorted(UNITS, key=lambda name: -given[-1].tasks[name].raw_loss)
    assert texts(drawn) == [said[name] for name in ordered]
    for name, key in zip(ordered, drawn.get_legend().legend_handles, strict=True):
        assert (key.get_color(), key.get_linestyle()) == (lines[name].get_color(), lines[name].get_linestyle())
    assert {"price [$⁻²]", "carat [ct⁻²]"} < {*texts(plot_weights(axis(), snapshots()))}


def test_of_two_lines_in_one_place_both_are_seen():
    """Neighbours differ in style, and the dashes are on top."""
    lines = plot_weights(axis(), snapshots(names=named(FEW))).lines
    for one, other in pairwise(lines):
        assert one.get_linestyle() != other.get_linestyle()
        assert max(one, other, key=lambda line: line.get_zorder()).get_linestyle() == "--"
    assert len({(line.get_color(), line.get_linestyle()) for line in lines[: len(COLOURS)]}) == len(COLOURS)


# ---------------------------------------------------------------------------------------------------- colours


def luminance(colour):
    """WCAG 2, relative luminance of sRGB."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [*COLOURS, GREY])
@pytest.mark.parametrize("paper", ["#ffffff", "#16181d"], ids=["light", "dark"])
def test_every_colour_can_be_seen_on_light_and_on_dark_paper(colour, paper):
    """WCAG 2.1, 1.4.11: graphics need 3 to 1."""
    assert contrast(colour, paper) >= 3.0


# Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009,
# severity 1.0, for linear RGB.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen_by(colour, matrix):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    mixed = [min(max(sum(m * c for m, c in zip(row, linear, strict=True)), 0.0), 1.0) for row in matrix]
    return [12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055 for c in mixed]


@pytest.mark.parametrize("matrix", BLINDNESS.values(), ids=BLINDNESS)
def test_neighbours_differ_for_the_colour_blind(matrix):
    """Those next to each other in the order of tasks, which is where areas touch."""
    colours = [seen_by(colour, matrix) for colour in COLOURS]
    for one, other in pairwise(colours):
        assert math.dist(one, other) > 0.15


# ---------------------------------------------------------------------------------------------------- many tasks


@pytest.mark.parametrize("count", [30, 300])
def test_of_many_tasks_all_are_drawn_and_the_extremes_are_named(count):
    given = snapshots(names=named(count))
    drawn = plot_weights(axis(), given)
    ends = sorted(line.get_ydata()[-1] for line in drawn.lines)
    assert ends == pytest.approx(sorted(task.precision for task in given[-1].tasks.values()), rel=1e-6)
    ordered = sorted(given[-1].tasks, key=lambda name: given[-1].tasks[name].precision)
    assert texts(drawn) == [*ordered[:-4:-1], *ordered[2::-1]]
    assert sum(line.get_color() == GREY for line in drawn.lines) == count - 6


@pytest.mark.parametrize("plot", PLOTS)
def test_of_very_many_tasks_a_band_shows_where_they_are_and_the_extremes_are_named(plot):
    given = snapshots(names=named(600))
    figure = Figure(figsize=(6.5, 4.0), layout="constrained")
    drawn = plot(figure.subplots(), given)
    FigureCanvasAgg(figure).draw()
    assert [line.get_color() == GREY for line in drawn.lines] == [True] + 6 * [False]
    history = History.of(given)
    series = {name: history.series(QUANTITIES[plot], name) for name in history.tasks}
    ordered = sorted(series, key=lambda name: series[name][-1])
    assert {*texts(drawn)[:6]} <= {*ordered[:4], *ordered[-4:]}
    assert texts(drawn)[6:] == ["median of 600", "80% of the tasks"]
    boxes = [text.get_window_extent() for text in drawn.get_legend().get_texts()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    ends = sorted(row[-1] for row in series.values())
    assert drawn.lines[0].get_ydata()[-1] == pytest.approx(statistics.median(ends), rel=0.05)
    for band, (low, high) in zip(drawn.collections, ((0, 599), (60, 539)), strict=True):
        heights = [y for x, y in band.get_paths()[0].vertices.tolist() if x == 20.0]
        assert (min(heights), max(heights)) == pytest.approx((ends[low], ends[high]))


def test_of_many_tasks_the_largest_shares_are_named_and_the_others_are_summed():
    given = snapshots(names=named(30))
    drawn = plot_shares(axis(), given)
    *largest, others = [area.get_label() for area in drawn.collections]
    assert others == "26 others"
    shares = given[-1].shares
    assert min(shares[name] for name in largest) >= sorted(shares.values())[-4] - 1e-9
    heights = [y for x, y in drawn.collections[-1].get_paths()[0].vertices.tolist() if x == 20.0]
    assert max(heights) - min(heights) == pytest.approx(1.0 - sum(shares[name] for name in largest), abs=1e-6)


# ---------------------------------------------------------------------------------------------------- odd input


def test_tasks_that_were_never_seen_or_lost_nothing_do_no_harm():
    given = [Snapshot(step, {"a": task(1.0, math.nan), "b": task(2.0, 0.0), "c": task(3.0, 1.0)}) for step in (1, 2)]
    figure = Figure(layout="constrained")
    drawn = plot_raw_losses(figure.subplots(), given)
    FigureCanvasAgg(figure).draw()
    assert texts(drawn) == ["c"]


ODD = {
    "before the first step": [UncertaintyWeighting({"depth": "laplace", "class": "softmax"}).snapshot()],
    "a negative loss": [Snapshot(step, {"a": task(1.0, -1.0), "b": task(1.0, 3.0)}) for step in (1, 2)],
    "all zero": [Snapshot(step, {"a": task(1.0, 0.0), "b": task(1.0, 0.0)}) for step in (1, 2)],
    "one point": snapshots(steps=1),
    "infinite": [Snapshot(step, {"a": task(1.0, math.inf), "b": task(1e30, 1e-30)}) for step in (1, 2)],
    "30 tasks never seen": [Snapshot(1, {name: task(1.0, math.nan) for name in named(30)})],
    "400 tasks of which half were seen": [
        Snapshot(1, {name: task(1.0, math.nan if i % 2 else 1.0) for i, name in enumerate(named(400))})
    ],
    "300 tasks never seen": [Snapshot(1, {name: task(1.0, math.nan) for name in named(300)})],
}


@pytest.mark.parametrize("given", ODD.values(), ids=ODD)
def test_the_overview_takes_whatever_the_engine_gives(given):
    FigureCanvasAgg(overview(given)).draw()


@pytest.mark.parametrize("plot", PLOTS)
def test_nothing_to_plot_says_what_to_pass(plot):
    with pytest.raises(ValueError, match="at least one snapshot"):
        plot(axis(), [])


@pytest.mark.parametrize("count", [3, 30, 300, 600])
def test_the_saved_overview_opens_and_has_the_colours_of_its_lines(tmp_path, count):
    overview(snapshots(steps=120, names=named(count))).savefig(tmp_path / "overview.png")
    picture = imread(tmp_path / "overview.png")
    assert picture.shape == (946, 1430, 4)
    for colour in COLOURS[:3]:
        close = abs(picture[..., :3] - to_rgb(colour)).max(axis=-1) < 0.02
        assert close.sum() > 100


def test_plotting_leaves_pyplot_and_the_users_settings_alone(tmp_path):
    code = f"""
import sys, json, pathlib, matplotlib
before = matplotlib.rcParams.copy()  # which does not choose a backend, as dict() does
from lightning_uncertainty import UncertaintyWeighting
from lightning_uncertainty.reporting.figures import overview
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.files import ReportContent
from lightning_uncertainty.reporting.page import build_page
snapshot = UncertaintyWeighting({{"a": "gaussian"}}, init=0.0).snapshot()
overview([snapshot]).savefig(pathlib.Path({str(tmp_path)!r}) / "a.png")
build_page(ReportContent(History.of([snapshot])))
print(json.dumps(["matplotlib.pyplot" in sys.modules, before == matplotlib.rcParams.copy()]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [False, True]


def test_the_names_of_the_plots_are_exported():
    assert set(figures.__all__) >= {plot.__name__ for plot in PLOTS}
