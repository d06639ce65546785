"""Tables of text: the only place that writes them as plain text, through rich, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Any

from lightning_uncertainty.reporting.markup import for_notebook

if TYPE_CHECKING:
    from rich.table import Table as RichTable

COLOURS = {"fault": "bold red", "look": "yellow", "fine": "green"}  # of rich

WIDTH = 80  # of a terminal that nobody has made wider
_GAP = 2  # characters between columns

# The signs of this package that are not ASCII. Powers in the first column belong to the user's names.
_ARROWS = {"↓ ": "min ", "↑ ": "max "}
_SIGNS = {"±": "+-", "⁻²": "^-2", "⁻¹": "^-1", "²": "^2"}


@dataclass(frozen=True)
class Table:
    """A table of text that can be written in several forms. ``print`` shows it in columns.

    Attributes:
        header: Titles of the columns.
        rows: Cells of each row, as many as the header has.
        left: Indices of the columns that are aligned left. All others are aligned right.
        caption: A line below the table, or "".
        sums: Indices of the rows that sum up those above: a rule is drawn above them, and rich prints them in bold.
        styles: Styles of single cells, by row and column: ``"fault"``, ``"look"``, ``"fine"``, or one of rich.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[int] = (0,)
    caption: str = ""
    sums: Collection[int] = ()
    styles: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the table in columns of spaces, for any terminal and log: signs of this package are in ASCII."""
        forms = [f"{{:{'<' if column in self.left else '>'}{width}}}" for column, width in enumerate(self.widths)]
        rows = [zip_longest(*(cell.split("\n") for cell in row), fillvalue="") for row in self._plain_rows()]
        first, *others = [[(" " * _GAP).join(forms).format(*cells).rstrip() for cells in lines] for lines in rows]
        rule = "-" * max(len(line) for lines in (first, *others) for line in lines)
        for index in sorted([0, *self.sums], reverse=True):
            others.insert(index, [rule])
        lines = list(chain(first, *others))
        return "\n".join([*lines, _plain(self.caption, _SIGNS)] if self.caption else lines)

    @property
    def widths(self) -> list[int]:
        """The number of characters of each column."""
        columns = zip(*self._plain_rows(), strict=True)
        return [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]

    @property
    def width(self) -> int:
        """The number of characters of a line."""
        return sum(self.widths) + _GAP * (len(self.header) - 1)

    def _plain_rows(self) -> list[list[str]]:
        return [
            [_plain(first, _ARROWS), *(_plain(cell, _SIGNS) for cell in others)]
            for first, *others in (self.header, *self.rows)
        ]

    def only(self, columns: Sequence[int]) -> Table:
        """Return the table with some of its columns."""
        styles = {(row, columns.index(c)): style for (row, c), style in self.styles.items() if c in columns}
        left = [place for place, column in enumerate(columns) if column in self.left]
        header, *rows = ([row[column] for column in columns] for row in (self.header, *self.rows))
        return replace(self, header=header, rows=rows, left=left, styles=styles)

    def wrapped(self, column: int, width: int) -> Table:
        """Return the table with the cells of a column in lines of up to ``width`` characters; no word is broken."""
        fill = TextWrapper(width, break_long_words=False, break_on_hyphens=False).fill
        place = range(len(self.header))[column]
        rows = [[fill(cell) if at == place else cell for at, cell in enumerate(row)] for row in self.rows]
        return replace(self, rows=rows)

    def folded(self, width: int = WIDTH) -> list[Table]:
        """Return tables of up to ``width`` characters, each led by the first column.

        They are as few as can be, and then as narrow as can be.

        >>> for part in Table(["task", "loss", "weight"], [["depth", "0.25 m", "4"]]).folded(14):
        ...     print(part)
        task     loss
        -------------
        depth  0.25 m
        task   weight
        -------------
        depth       4
        """
        parts = min((_parts(self.widths, limit) for limit in range(1, width + 1)), key=len)
        tables = [self.only(part) for part in parts]
        return [*(replace(table, caption="") for table in tables[:-1]), tables[-1]]

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return for_notebook([self])

    def markdown(self) -> str:
        """Return the table in Markdown. A bar inside a cell is escaped."""
        header, *body = [[cell.replace("|", "\\|") for cell in row] for row in (self.header, *self.rows)]
        rule = ["---" if column in self.left else "---:" for column in range(len(header))]
        lines = [f"| {' | '.join(line)} |\n" for line in (header, rule, *body)]
        return "".join(lines) + (f"\n{self.caption}\n" if self.caption else "")

    def rich(self, *, fixed: Collection[int] = ()) -> RichTable:
        """Return the table for a console of rich.

        Args:
            fixed: Indices of the columns that are never wrapped, however narrow the console is.
        """
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        look: Any = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "collapse_padding": True}
        table = RichTable(**look, caption=self.caption or None)
        for column, title in enumerate(self.header):
            table.add_column(Text(title), justify="left" if column in self.left else "right", no_wrap=column in fixed)
        for index, row in enumerate(self.rows):
            if index in self.sums:
                table.add_section()
            styles = [self.styles.get((index, column), "") for column in range(len(row))]
            cells = [Text(cell, COLOURS.get(style, style)) for cell, style in zip(row, styles, strict=True)]
            table.add_row(*cells, style="bold" if index in self.sums else None)
        return table


def _parts(widths: Sequence[int], limit: int) -> list[list[int]]:
    """Return the columns of tables of up to that width, if two columns are not wider; the first is in each."""
    parts = [[0]]
    for column in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[c] + _GAP for c in (*parts[-1], column)) - _GAP > limit:
            parts.append([0])
        parts[-1].append(column)
    return parts


def _plain(text: str, signs: Mapping[str, str]) -> str:
    for sign, letters in signs.items():
        text = text.replace(sign, letters)
    return text


def csv_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    r"""Return rows of numbers and words as CSV. An unknown value, None or NaN, is an empty field.

    >>> csv_text(["task", "loss"], [["depth", 0.25], ["normals", float("nan")]])
    'task,loss\ndepth,0.25\nnormals,\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in row])
    return text.getvalue()
