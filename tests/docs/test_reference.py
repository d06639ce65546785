"""The API reference has all that is public, readable, and its docstrings lead where they point."""

import re
import runpy
import sys
import types

import pdoc
import pytest

import lightning_uncertainty
from tests.workers.processes import ROOT

BUILDER = runpy.run_path(str(ROOT / "docs" / "build_reference.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    BUILDER["build"](folder)
    return folder


def test_every_public_name_has_its_place_on_the_first_page(reference):
    page = (reference / "lightning_uncertainty.html").read_text()
    for name in (*lightning_uncertainty.__all__, "UncertaintyWeighting.__call__", "UncertaintyWeighting.sigmas"):
        assert f'id="{name}"' in page
    for module in BUILDER["MODULES"]:
        assert f">{module}</a>" in page


def test_no_markup_is_left_as_text(reference):
    pages = [page.read_text() for page in reference.rglob("*.html")]
    assert len(pages) == len(BUILDER["MODULES"]) + 2  # the package and the index
    texts = [
        re.sub(r'(?s)<div class="pdoc-code codehilite">.*?</div>|<label class="view-source.*?', "", p) for p in pages
    ]
    for text in texts:
        assert not re.search(r":(?:class|func|meth|mod|attr|data):|\.\. \w+::|={5}", text)
    assert sum(text.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') for text in texts) >= 4


def test_tables_formulas_and_roles_are_made_readable():
    table = "=====  ======\n``a``  first,\n       and on\n``b``  second\n=====  ======\n"
    shown = BUILDER["to_markdown"](f"Keys:\n\n{table}\n.. math:: a =\n    b\n\nsee :meth:`~x.y`")
    before, formula, after = re.split("(<math.*</math>)", shown)
    assert before == "Keys:\n\n| | |\n|---|---|\n| ``a`` | first, and on |\n| ``b`` | second |\n\n"
    assert re.sub("<.*?>|&#x0003D;", "", formula) == "ab"
    assert after == "\n\nsee :meth:`x.y`"


def test_what_the_pages_and_notebooks_import_is_in_the_reference():
    imported = {
        name for page in PAGES for name in re.findall(r"from lightning_uncertainty\.([\w.]+) import", page.read_text())
    }
    assert {name for name in imported if not name.startswith("demo.")} <= {*BUILDER["MODULES"]}
    assert "reporting.figures" in imported


@pytest.mark.parametrize(
    ("docstring", "complaint"),
    [
        ("", "made_up.f has no docstring."),
        ("As :func:`g`.", "made_up.f refers to 'g', which is not there."),
        ("As :meth:`~made_up.C.nothing`.", "made_up.f refers to 'made_up.C.nothing', which is not there."),
        ("One.\n\nArgs:\n    a: first.", "made_up.f does not say what 'b' is."),
        ("One.\n\nArgs:\n    a: first.\n    b: second.", None),
        ("As :class:`C`, :meth:`C.m`, :func:`torch.nn.functional.relu` and :class:`~made_up.C`.", None),
    ],
    ids=["no docstring", "no such function", "no such method", "an argument left out", "all arguments", "all there"],
)
def test_a_docstring_that_is_missing_or_leads_nowhere_is_said_by_name(docstring, complaint, monkeypatch):
    made_up = types.ModuleType("made_up", "A module.")
    exec("class C:\n    'One.'\n    def m(self):\n        'Two.'\n\ndef f(a, b): ...", vars(made_up))
    made_up.f.__doc__ = docstring
    monkeypatch.setitem(sys.modules, "made_up", made_up)
    assert [*BUILDER["complaints_about"](pdoc.doc.Module(made_up))] == ([complaint] if complaint else [])
