"""Settings of Sphinx, which makes the site from the pages of this folder and from the docstrings: ``make docs``.

The site needs no network: its fonts are those of the reader's system, and its formulas are MathML.
"""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import NoUri
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.nodes import make_refnode

import lightning_uncertainty

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
# Sphinx reads from one folder only.
shutil.rmtree(DOCS / "notebooks", ignore_errors=True)
shutil.copytree(
    DOCS.parent / "notebooks", DOCS / "notebooks", ignore=shutil.ignore_patterns("*.py*"), dirs_exist_ok=True
)

project = "lightning_uncertainty"
release = lightning_uncertainty.__version__

extensions = [
    "myst_nb",  # pages in Markdown, and notebooks with the outputs that are in them
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["examples"]
nb_execution_mode = "off"
nitpicky = True  # a reference that leads nowhere is a warning
nitpick_ignore_regex = [("py:.*", r"(torch|torchmetrics|lightning)\..*")]  # their inventories would need the network

html_theme = "furo"
html_title = f"lightning-uncertainty {release}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {}  # while nobody has said where the repository is, the site does not lead there
if "/OWNER/" not in (home := re.search('^Homepage = "(.*)"$', (DOCS.parent / "pyproject.toml").read_text(), re.M)[1]):
    html_theme_options = {"source_repository": home, "source_branch": "main", "source_directory": "docs/"}
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
copybutton_exclude = ".linenos, .gp, .go"  # neither prompts nor output
myst_enable_extensions = ["dollarmath"]
myst_dmath_allow_digits = myst_dmath_allow_space = False  # a price is no formula
myst_heading_anchors = 4  # those that GitHub makes

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False  # those of other packages are in other formats
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

_PICTURES = "\n".join(  # one for each paper
    f"```{{image}} pictures/weights-{paper}.svg\n:alt: \\1\n:class: only-{paper}\n```" for paper in ("light", "dark")
)
_PICTURE = f"````{{container}} picture\n{_PICTURES}\n````"


def setup(app: Sphinx) -> None:
    """Connect the functions below."""
    app.add_html_math_renderer("mathml", (_write_inline_formula, None), (_write_formula, None))
    app.connect("source-read", _put_readme_on_first_page)
    app.connect("autodoc-skip-member", _skip_hooks)
    app.connect("missing-reference", _find_by_public_name)


# napoleon takes what stands before a colon in the first line of a property for its type; here types are annotations.
GoogleDocstring._consume_inline_attribute = lambda self: ("", self._dedent(self._consume_to_end()))


def _write_inline_formula(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _write_formula(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div style="font-size: 120%; margin: 1em 0">{_mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def _mathml(formula: str, *, as_block: bool) -> str:
    r"""Return a formula in MathML. Docutils knows no tags, and takes the 12 of ``\tfrac12`` for one number."""
    formula = re.sub(r"\\tag\{(\w+)\}", r"\\qquad (\1)", formula)
    return tex2mathml(re.sub(r"frac(\d)(\d)", r"frac{\1}{\2}", formula), as_block=as_block)


def _put_readme_on_first_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the README into the first page. Let links that leave this folder lead to a page or a download."""
    if name == "index":
        app.env.note_dependency(README)
        text = README.read_text().partition("<!-- The first page of the site begins here. -->")[2]
        text = re.sub(r'<picture>.*?alt="(.*?)">.*?</picture>', _PICTURE, text, flags=re.DOTALL)
        text = re.sub(r"\]\((?!docs/|notebooks/|#|https:)", "](../", text).replace("](docs/", "](")
        source[0] = source[0].replace("<!-- README -->", text)
    if name.startswith("notebooks/"):
        source[0] = source[0].replace("](../docs/", "](../")
    source[0] = source[0].replace("](../README.md", "](index.md")
    source[0] = re.sub(r"\]\((\.\./[^)#]+)", r"](path:\1", source[0])


def _skip_hooks(app: Sphinx, kind: str, name: str, item: object, skip: bool, options: object) -> bool | None:
    """Leave out the methods that only a Trainer calls."""
    return True if re.match(r"on_|(setup|teardown|configure_callbacks|state_key)$", name) else None


def _find_by_public_name(app: Sphinx, env: Any, node: nodes.Element, shown: nodes.Element) -> nodes.Element | None:
    """Resolve a name inside the package's files, where the reference has the same object by its public name.

    The type of an argument may be missing in the reference: it is then shown without a link. A role may not.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") == "py" and target.startswith(f"{project}."):
        wanted, last = _import(target), target.rpartition(".")[2]
        for name, entry in env.domains["py"].objects.items():
            if wanted is not None and name.rpartition(".")[2] == last and _import(name) is wanted:
                return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, shown, name)
    if node.get("refdomain") == "py" and "refwarn" not in node and re.fullmatch(r"[\w.]+", target):
        raise NoUri
    return None


def _import(path: str) -> Any:
    """Return the object with this import path, or None."""
    module, *names = path.split(".")
    found = importlib.import_module(module)
    for name in names:
        module = f"{module}.{name}"
        try:
            found = getattr(found, name) if hasattr(found, name) else importlib.import_module(module)
        except ImportError:
            return None
    return found
