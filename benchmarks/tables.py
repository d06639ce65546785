"""A table that is printed and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Section", "Table", "number"]


@dataclass
class Table:
    """Rows of text under a header."""

    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        """One more row; floats are rounded to what the measurement supports."""
        self.rows.append([number(cell) if isinstance(cell, float) else str(cell) for cell in cells])

    def markdown(self) -> str:
        """As it stands in RESULTS.md."""
        lines = [self.header, ["---"] + ["---:"] * (len(self.header) - 1), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def rich(self) -> object:
        """As it is printed."""
        from rich.table import Table as RichTable

        table = RichTable(title=self.title, title_justify="left")
        for index, column in enumerate(self.header):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


@dataclass
class Section:
    """A part of RESULTS.md.

    Attributes:
        title: its heading.
        text: what was done, before the tables.
        tables: what came out.
        verdicts: aims beside results, with the reason where one is missed.
    """

    title: str
    text: str
    tables: list[Table] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)

    def judge(self, aim: str, *, result: str, met: bool, reason: str = "") -> None:
        """Put an aim beside the result."""
        why = f" {reason}" if reason and not met else ""
        self.verdicts.append(f"{'met' if met else '**missed**'}: {aim}. Found: {result}.{why}")

    def markdown(self) -> str:
        """As it stands in RESULTS.md."""
        parts = [f"## {self.title}", self.text, *(table.markdown() for table in self.tables)]
        if self.verdicts:
            parts.append("\n".join(f"- {verdict}" for verdict in self.verdicts))
        return "\n\n".join(part for part in parts if part)


def number(value: float) -> str:
    """Three digits, no exponent where one can do without."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}" if size >= 0.0995 else f"{value:.3f}"
