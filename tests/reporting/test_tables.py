import csv
import io

import pytest
from rich.console import Console

from lightning_uncertainty.reporting.tables import Table, csv_text

TABLE = Table(
    ["task", "loss", "verdict"],
    [["depth [m]", "0.25", "learned"], ["a|b", "10", ""], ["mean", "5.125", "fine"]],
    left=(0, 2),
    caption="raw, not weighted",
    sums=[2],
    styles={(0, 2): "red"},
)


def test_plain_text_aligns_columns_and_draws_a_rule_above_each_sum():
    assert str(TABLE).split("\n") == [
        "task        loss  verdict",
        "-------------------------",
        "depth [m]   0.25  learned",
        "a|b           10",
        "-------------------------",
        "mean       5.125  fine",
        "raw, not weighted",
    ]


def test_plain_text_is_ascii_but_for_the_names_that_users_give():
    table = Table(["metric", "equal", "r²"], [["↓ z²", "1 ± 2 m⁻²", "3⁻¹"], ["↑ y", "4 ± 5 m²", "6"]], caption="±")
    assert str(table).split("\n") == [
        "metric        equal   r^2",
        "-------------------------",
        "min z²  1 +- 2 m^-2  3^-1",
        "max y    4 +- 5 m^2     6",
        "+-",
    ]
    assert "| ↓ z² | 1 ± 2 m⁻² | 3⁻¹ |" in table.markdown()


def test_markdown_aligns_and_escapes():
    assert TABLE.markdown() == (
        "| task | loss | verdict |\n| --- | ---: | --- |\n| depth [m] | 0.25 | learned |\n| a\\|b | 10 |  |\n"
        "| mean | 5.125 | fine |\n"
        "\nraw, not weighted\n"
    )


def test_csv_is_read_back_as_it_was():
    assert list(csv.reader(io.StringIO(csv_text(TABLE.header, TABLE.rows)))) == [TABLE.header, *TABLE.rows]
    assert csv_text(["a", "b"], [[float("nan"), None], ['"', "x,y"]]) == 'a,b\n,\n"""","x,y"\n'


def test_rich_shows_brackets_as_they_are_and_the_styles_that_were_asked_for():
    console = Console(record=True, width=60, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(TABLE.rich())
    text = console.export_text(styles=True)
    assert "depth [m]" in text
    assert "\x1b[31mlearned\x1b[0m" in text
    assert "\x1b[1mmean" in text
    assert "raw, not weighted" in text


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        str(Table(["task", "loss"], [["depth"]]))
