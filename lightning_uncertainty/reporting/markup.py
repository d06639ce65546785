"""HTML by Jinja2: the templates of the page, and of what a notebook shows."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from lightning_uncertainty.reporting.tables import Table

__all__ = ["for_notebook", "render"]


def render(template: str, **values: Any) -> str:
    """Return a template of the folder ``templates`` with its values filled in; all text in them is escaped."""
    return _environment().get_template(template).render(values)


def for_notebook(
    tables: Iterable[Table],
    *,
    title: str = "",
    found: Iterable[tuple[str, str]] = (),
    notes: Iterable[str] = (),
    about: Mapping[str, str] = MappingProxyType({}),
    closing: str = "",
) -> str:
    """Return tables and texts as HTML for a cell of a notebook.

    Args:
        tables: The tables, in their order.
        title: The line above them.
        found: Severity and text of each finding.
        notes: Small lines below.
        about: Facts about the run, by name.
        closing: The last line.
    """
    texts = {"title": title, "notes": notes, "closing": closing}
    return render("notebook.html", tables=tables, found=found, about=about, **texts)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here, because training does not need it

    environment = Environment(
        loader=PackageLoader("lightning_uncertainty.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"text": _text, "prose": _prose}
    return environment


def _text(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(html.escape(text.replace("->", "→")))


def _prose(text: str) -> Markup:
    """Return the text as HTML, with the words between backticks as code."""
    from markupsafe import Markup

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(_text(text))))
