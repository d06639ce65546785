"""The API reference, made from the docstrings of all that is public: ``make docs`` writes it to ``docs_output/``.

pdoc reads Google style and the roles; formulas and tables are made here, formulas as MathML, which needs no network.
A warning of pdoc is an error, and so are a role that leads nowhere and a formula or table that cannot be read.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from textwrap import dedent

import pdoc
import pdoc.docstrings
from latex2mathml.converter import convert as to_mathml

ROOT = Path(__file__).parents[1]
STYLE = Path(__file__).parent / "reference_style"
PACKAGE = "lightning_uncertainty"
MODULES = (  # what users import, and what they are given; the package itself has the names that all need
    "comparison",
    "likelihoods",
    "regularizers",
    "reporting.diagnosis",
    "reporting.figures",
    "reporting.gradients",
    "reporting.history",
    "reporting.page",
    "reporting.run_folder",
    "reporting.summary",
)
_ROLE = re.compile(r":(?:mod|func|data|class|meth|attr|exc):`~?([\w.]+)`")
_MATH = re.compile(r"^\.\. math:: *(.+(?:\n[ \t]+\S.*)*)$", re.MULTILINE)
_RULE = r"=+(?: +=+)+"
_TABLE = re.compile(rf"^({_RULE})\n((?:.+\n)+?)({_RULE})$", re.MULTILINE)


def build(output: Path) -> None:
    """Write the reference.

    Args:
        output: the folder; pages of an earlier build in it are overwritten.

    Raises:
        Warning: whatever pdoc warns of.
        ValueError: if a role leads nowhere, or a public name has no docstring.
    """
    names = [PACKAGE, *(f"{PACKAGE}.{name}" for name in MODULES)]
    for name in names:
        public = importlib.import_module(name)  # before warnings are errors: what others say on import is not ours
        for lazy in public.__all__:
            setattr(public, lazy, getattr(public, lazy))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        modules = {name: pdoc.doc.Module.from_name(name) for name in names}
        modules[PACKAGE].submodules = [modules[name] for name in names[1:]]
        for module in modules.values():
            _show_what_matters(module)
        for name, short in zip(names[1:], MODULES, strict=True):
            modules[name].name = short  # in the list beside the text
        if complaints := [text for module in modules.values() for text in complaints_about(module)]:
            raise ValueError("\n".join(complaints))
        _write(modules, output)


def _write(modules: dict[str, pdoc.doc.Module], output: Path) -> None:
    convert = pdoc.docstrings.convert
    pdoc.docstrings.convert = lambda docstring, *rest: convert(to_markdown(docstring), *rest)
    pdoc.render.configure(docformat="google", template_directory=STYLE)
    try:
        pages = {f"{name.replace('.', '/')}.html": pdoc.render.html_module(m, modules) for name, m in modules.items()}
        pages |= {"index.html": pdoc.render.html_index(modules), "search.js": pdoc.render.search_index(modules)}
    finally:
        pdoc.docstrings.convert = convert
    for name, page in pages.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")


def to_markdown(docstring: str) -> str:
    """What pdoc does not read: formulas, simple tables, and the ``~`` in a role.

    >>> print(to_markdown('''
    ... =====  ======
    ... ``a``  first,
    ...        and on
    ... =====  ======
    ... see :meth:`~x.y`'''.strip()))
    | | |
    |---|---|
    | ``a`` | first, and on |
    see :meth:`x.y`
    """
    text = dedent(docstring)
    text = _MATH.sub(lambda found: to_mathml(" ".join(found[1].split()), display="block"), text)
    text = _TABLE.sub(lambda found: "\n".join(_markdown_table(found[1], found[2])), text)
    return text.replace(":`~", ":`")


def _markdown_table(rule: str, body: str) -> Iterator[str]:
    second = re.match(r"=+ +", rule).end()
    rows: list[list[str]] = []
    for line in body.splitlines():
        left, right = line[:second].strip(), line[second:].strip()
        if left:
            rows.append([left, right])
        else:
            rows[-1][1] += f" {right}"
    yield "| | |\n|---|---|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _show_what_matters(module: pdoc.doc.Module) -> None:
    """Show what a class can be called with and has from a base that has no page of its own.

    What overrides a method of another package has that package's docstring, which is in its own format: it is named
    instead.
    """
    for item in _public(module):
        if not isinstance(item, pdoc.doc.Class):
            continue
        for origin in [origin for origin in item.inherited_members if _is_hidden(origin[0])]:
            item.own_members.extend(item.inherited_members.pop(origin))
        for member in item.own_members:
            owners = [base for base in item.obj.__mro__ if getattr(vars(base).get(member.name), "__doc__", None)]
            if member.name == "__call__":
                member.docstring += "\n\n@public"
            elif owners and not owners[0].__module__.startswith(PACKAGE):
                package = owners[0].__module__.partition(".")[0]
                said = "" if member.name == "__init__" else f"As in `{owners[0].__name__}` of `{package}`."
                member.docstring = said


def _is_hidden(module: str) -> bool:
    return module.startswith(PACKAGE) and module.removeprefix(f"{PACKAGE}.") not in (PACKAGE, *MODULES)


def complaints_about(module: pdoc.doc.Module) -> Iterator[str]:
    """Public names without a docstring, arguments that theirs leaves out, and roles that lead nowhere."""
    for item in _public(module):
        if not item.docstring and item.kind != "variable":
            yield f"{item.fullname} has no docstring."
        for name in _arguments_to_explain(item):
            if not re.search(rf"\b{name}\b", item.docstring):
                yield f"{item.fullname} does not say what {name!r} is."
        for role in _ROLE.findall(item.docstring):
            if not any(_leads_somewhere(f"{prefix}{role}") for prefix in _prefixes(item)):
                yield f"{item.fullname} refers to {role!r}, which is not there."


def _arguments_to_explain(item: pdoc.doc.Doc) -> list[str]:
    """Those with which an object is made, and those of a function that explains any."""
    made = isinstance(item, pdoc.doc.Class) and not issubclass(item.obj, (Enum, BaseException, dict))
    if not made and not (isinstance(item, pdoc.doc.Function) and "Args:\n" in item.docstring):
        return []
    parameters = inspect.signature(item.obj).parameters.values()
    return [
        each.name
        for each in parameters
        if each.name not in ("self", "cls") and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]


def _public(item: pdoc.doc.Module | pdoc.doc.Class) -> Iterator[pdoc.doc.Doc]:
    yield item
    for member in item.own_members:
        if member.name.startswith("_"):
            continue
        if isinstance(member, pdoc.doc.Class):
            yield from _public(member)
        else:
            yield member


def _prefixes(item: pdoc.doc.Doc) -> list[str]:
    """Where a short name may stand: in the module of the docstring, in its class, or anywhere."""
    module, qualname = item.taken_from
    return ["", f"{module}.", *(f"{module}.{part}." for part in (qualname, qualname.rpartition(".")[0]) if part)]


def _leads_somewhere(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            found = (
                getattr(found, part, None) if hasattr(found, part) else getattr(found, "__annotations__", {}).get(part)
            )
            if found is None:
                return False
        return True
    return False


if __name__ == "__main__":
    folder = Path(*sys.argv[1:]) if sys.argv[1:] else ROOT / "docs_output"
    build(folder)
    print(folder / "index.html")
