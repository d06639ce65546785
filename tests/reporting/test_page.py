"""The page with long names and units: nothing leaves its picture, and nothing on a phone is broken."""

import re

import pytest

from lightning_uncertainty.reporting.files import ReportContent
from lightning_uncertainty.reporting.page import build_page
from tests.browser import FRAMES, PHONE, look_through_frames, needs_chromium
from tests.reporting.test_summary import LONG, history, task

VIEW = 360.0  # points: the width of a picture


@pytest.mark.parametrize("unit", ["pixel", "mm per second of it"])
def test_a_box_of_values_begins_in_its_picture_and_ends_there_if_it_has_room(unit):
    text = build_page(ReportContent(history({name: task("laplace", 0.834, unit) for name in LONG}, 60)))
    boxes = re.findall(r'<g><path[^>]*/><rect x="([-\d.]+)" y="[-\d.]+" width="([\d.]+)"', text)
    assert len(boxes) == 4 * 60
    assert all(float(x) >= 2.0 for x, _ in boxes)
    assert all(float(x) + float(wide) <= VIEW for x, wide in boxes if float(wide) < VIEW - 4.0)


@needs_chromium
@pytest.mark.parametrize("unit", ["pixel", "m/s"])
def test_a_phone_shows_each_number_with_its_label_in_one_line(tmp_path, unit):
    tasks = {name: task("gaussian", 0.834, unit, val_log_var=-0.1) for name in LONG}
    seen = look_through_frames(build_page(ReportContent(history(tasks, 60))), tmp_path)
    for measured, (width, _) in zip(seen.measured, FRAMES, strict=True):
        assert measured["room"] == measured["needed"] == width
        if width == PHONE:
            assert {round(height) for _, _, height in measured["numbers"] if height} <= {23, 24}
