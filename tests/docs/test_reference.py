"""The site builds without a warning, has all that is public, leads nowhere else than it says, and needs no network."""

import importlib
import inspect
import re
import subprocess
import sys
from enum import Enum
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from sphinx.util.inventory import InventoryFile

import lightning_uncertainty
from tests.workers.processes import ROOT

PACKAGE = "lightning_uncertainty"
MODULES = re.findall(
    rf"automodule:: {PACKAGE}\.([\w.]+)",
    "".join(page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.rst"))),
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]


class Page(HTMLParser):
    """What a page can be linked to by, what it links to, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs.get("id"), attrs.get("name") if tag == "a" else None}
        self.links |= {attrs.get("href")} if tag == "a" else set()
        self.loads |= {attrs.get("src"), attrs.get("href") if tag == "link" else None}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (command,) = re.findall(r"-m (sphinx .*) docs docs_output$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "-W" in command
    built = subprocess.run(
        [sys.executable, "-m", *command.split(), "docs", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    assert not built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_public_name_has_its_entry(site):
    there = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    names = {name for kind, entries in there.items() if kind.startswith("py:") for name in entries}
    public = [f"{PACKAGE}.{name}" for name in lightning_uncertainty.__all__]
    for module in MODULES:
        public += [f"{PACKAGE}.{module}.{name}" for name, _ in members(module)]
    elsewhere = {name.rpartition(".")[2] for name in names}  # by the name under which users import it
    assert not [name for name in public if name not in names and name.rpartition(".")[2] not in elsewhere]
    assert {f"{PACKAGE}.UncertaintyWeighting.{name}" for name in ("__call__", "sigmas", "step")} <= names


def members(module):
    """Return the classes and functions that a module calls public."""
    module = importlib.import_module(f"{PACKAGE}.{module}")
    pairs = [(name, getattr(module, name)) for name in module.__all__]
    return [(name, item) for name, item in pairs if inspect.isclass(item) or inspect.isfunction(item)]


def test_no_markup_is_left_as_text_and_formulas_are_drawn(site):
    texts = [re.sub(r"(?s)<pre>.*?</pre>", "", page.read_text()) for page in site.rglob("*.html")]
    for text in texts:
        assert not re.search(r":(?:class|func|meth|mod|attr|data):|\.\. \w+::|={5}|\$\\|\$\$", text)
    assert sum(text.count("<math ") for text in texts) >= 40
    theory = (site / "notebooks" / "02_theory.html").read_text()
    assert re.search(r"<mfrac[^>]*>\s*<mn>1</mn>\s*<mn>2</mn>\s*</mfrac>", theory)  # not 12 of something


def test_every_link_inside_the_site_leads_somewhere_and_every_guide_is_there(site, pages):
    for path, page in pages.items():
        for link in filter(None, page.links):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = unquote(link).partition("#")
            there = (path.parent / file).resolve() if file else path
            assert there.is_file(), f"{path.name}: {link}"
            assert not anchor or there.suffix != ".html" or anchor in pages[there].ids, f"{path.name}: {link}"
    for guide in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]:
        assert site / guide.relative_to(ROOT / "docs").with_suffix(".html") in pages
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{notebook.stem}.html" in pages[site / "index.html"].links


def test_the_site_needs_no_network(pages):
    loads = set().union(*(page.loads for page in pages.values())) - {None}
    assert not [load for load in loads if re.match(r"(https?:)?//", load)]


def test_what_the_pages_and_notebooks_import_is_in_the_reference():
    imported = {name for page in PAGES for name in re.findall(rf"from {PACKAGE}\.([\w.]+) import", page.read_text())}
    assert {name for name in imported if not name.startswith("demo.")} <= {*MODULES}
    assert "reporting.figures" in imported


def test_every_page_with_code_is_run_by_a_test():
    with_code = {page.name for page in (ROOT / "docs").rglob("*.md") if re.search("```py", page.read_text())}
    run = {"compare.md": "docs/test_compare_page.py", "questions.md": "docs/test_questions.py"}
    run |= {"report.md": "docs/test_report_page.py", "libraries.md": "docs/test_libraries_page.py"}
    run |= {"when-not.md": "docs/test_when_not_page.py", "strategies.md": "docs/test_strategies_page.py"}
    run |= {"predictive.md": "docs/test_predictive_page.py", "loggers.md": "trainer/test_loggers.py"}
    assert with_code == set(run)
    for page, test in run.items():
        assert re.search(rf'"{page}".*exec\(|"{page}".*subprocess', (ROOT / "tests" / test).read_text(), re.DOTALL), (
            page
        )


# ------------------------------------------------------------------------------------------ docstrings are complete


def complaints(item, where):
    """Yield public names without a docstring, and arguments that it leaves out."""
    text = inspect.getdoc(item) or ""
    if not text:
        yield f"{where} has no docstring."
    made = inspect.isclass(item) and not issubclass(item, (Enum, BaseException, dict, list))
    if made or (inspect.isfunction(item) and "Args:\n" in text):
        for each in inspect.signature(item).parameters.values():
            counts = each.name not in ("self", "cls") and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            if counts and not re.search(rf"\b{each.name}\b", text):
                yield f"{where} does not say what {each.name!r} is."
    if inspect.isclass(item):
        for name, member in vars(item).items():
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                yield from complaints(getattr(item, name), f"{where}.{name}")


def test_every_public_name_has_a_docstring_that_says_what_its_arguments_are():
    public = [(name, getattr(lightning_uncertainty, name)) for name in lightning_uncertainty.__all__]
    public += [pair for module in MODULES for pair in members(module)]
    assert not [text for name, item in public for text in complaints(item, name)]


@pytest.mark.parametrize(
    ("docstring", "complaint"),
    [
        ("", "f has no docstring."),
        ("One.\n\nArgs:\n    a: First.", "f does not say what 'b' is."),
        ("One.\n\nArgs:\n    a: First.\n    b: Second.", None),
        ("One.", None),
    ],
    ids=["no docstring", "an argument left out", "all arguments", "no arguments"],
)
def test_a_docstring_that_is_missing_or_leaves_an_argument_out_is_found(docstring, complaint):
    def f(a, b): ...

    f.__doc__ = docstring
    assert [*complaints(f, "f")] == ([complaint] if complaint else [])
