"""The summary in 80 columns: what goes, what is wrapped, what is folded, and units and notes that fit the columns."""

import contextlib
import re
from dataclasses import replace

import pytest

from lightning_uncertainty import Snapshot
from lightning_uncertainty.reporting.files import ReportContent
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.page import build_page
from lightning_uncertainty.reporting.summary import (
    WIDTH,
    as_html,
    as_text,
    loss_unit,
    print_summary,
    summarize,
    weight_unit,
)
from lightning_uncertainty.snapshot import TaskSnapshot
from tests.pages import Page
from tests.trainer.test_run_report import Terminal

LONG = ["semantic segmentation of the left camera", "inverse depth of the right camera", "surface normals (unit)"]


def task(likelihood, raw_loss, unit="", *, at_bound=None, val_log_var=None):
    factor = 0.5 / raw_loss
    return TaskSnapshot(
        likelihood, -0.2, 0.9048, 1.221, factor, raw_loss, 0, at_bound, True, unit=unit, val_log_var=val_log_var
    )


def history(tasks, steps=300):
    """Of tasks whose loss fell to a ninth at once: nothing stands out but that they may be held by a bound."""
    first = {name: replace(task, raw_loss=9.0 * task.raw_loss) for name, task in tasks.items()}
    return History.of([Snapshot(1, first), *(Snapshot(step, tasks) for step in range(2, steps + 1))])


def tables(text):
    """The lines of each table of tasks."""
    found = re.findall(r"^(task .*\n-+\n(?:.*\n)+?)(?=\n|Raw loss)", text, flags=re.MULTILINE)
    return [part.splitlines() for part in found]


PAIR = {"segmentation": task("softmax", 0.0724, val_log_var=-0.1), "depth": task("laplace", 0.834, val_log_var=-0.1)}


def test_two_tasks_with_names_and_held_out_sigmas_are_one_table_of_80_columns():
    text = as_text(summarize(history(PAIR)))
    ((header, _, *rows),) = tables(text)
    assert header.split() == ["task", "raw", "loss", "sigma", "sigma_val", "weight", "share", "verdict"]
    assert [row.split()[-1] for row in rows] == ["fine", "fine"]
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_terminal_of_80_columns_has_them_in_one_table_too(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        print_summary(history(PAIR))
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.text).splitlines()
    assert any(line.startswith("─") for line in lines)  # by rich
    (header,) = [line for line in lines if line.startswith("task ")]
    assert header.split() == ["task", "raw", "loss", "sigma", "sigma_val", "weight", "share", "verdict"]
    assert max(map(len, lines)) <= WIDTH


def test_a_table_that_is_too_wide_comes_in_parts_of_even_width_with_long_names_and_verdicts_in_lines():
    named = {name: task("laplace", 0.834, "pixel", at_bound="lower") for name in LONG}
    text = as_text(summarize(history(named)))
    parts = tables(text)
    assert len(parts) == 2
    wide = [max(map(len, part)) for part in parts]
    assert max(wide) <= WIDTH
    assert min(wide) > 0.7 * max(wide)
    assert [title for part in parts for title in part[0].split()].count("task") == 2
    for part in parts:
        said = " ".join(" ".join(line[:26] for line in part).split())
        assert all(name in said for name in LONG)
    assert max(map(len, text.splitlines())) <= WIDTH


PHRASES = {
    "missing": "Missing: steps",
    "NaN": "NaN: calls",
    "sigma": "Sigma of a regression",
    "sigma_val": "Sigma_val: sigma on held-out",
    "share": "Share: of the weighted loss",
}


def test_the_note_explains_the_columns_that_are_shown_and_no_other():
    alone = {"depth": task("laplace", 0.834)}
    page = Page(build_page(ReportContent(history(alone), "", "uncertainty"))).text
    for said, unsaid in (
        (as_text(summarize(history(alone))), {"sigma_val"}),
        (as_html(summarize(history(alone))), {"sigma_val"}),
        (page, {"sigma_val"}),
        (as_text(summarize(history(PAIR))), {"missing", "NaN"}),
        (as_text(summarize(history({"total": replace(alone["depth"], sigma=None)}))), {"sigma_val", "sigma"}),
    ):
        text = " ".join(said.split())
        assert {column for column, phrase in PHRASES.items() if phrase not in text} == unsaid


@pytest.mark.parametrize(
    ("unit", "loss", "weight"),
    [
        ("m", "m²", "m⁻²"),
        ("$", "$²", "$⁻²"),
        ("°C", "°C²", "°C⁻²"),
        ("m/s", "(m/s)²", "(m/s)⁻²"),
        ("m²", "(m²)²", "(m²)⁻²"),
        ("s^-1", "(s^-1)²", "(s^-1)⁻²"),
        ("kg m", "(kg m)²", "(kg m)⁻²"),
        ("", "", ""),
    ],
)
def test_a_power_of_a_unit_that_is_no_word_has_brackets(unit, loss, weight):
    fact = history({"a": task("gaussian", 1.0, unit)}, 1).facts["a"]
    assert (loss_unit(fact), weight_unit(fact)) == (loss, weight)
    fact = history({"a": task("laplace", 1.0, unit)}, 1).facts["a"]
    assert (loss_unit(fact), weight_unit(fact)) == (unit, weight.replace("⁻²", "⁻¹"))
