"""The house keeps its plan: few rooms, small files, imports that go one way, and one of each tool."""

import ast
import graphlib
import re
import zipfile
from pathlib import Path

import grimp
import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_uncertainty"
OWN = [PACKAGE, ROOT / "experiments"]
FILES, FOLDERS, LAYERS = 12, 7, 8
LINES_OF_A_FILE, LINES_OF_THE_DEMO, LINES_OF_THE_PACKAGE = 400, 350, 7_500

COMING = pytest.mark.xfail(strict=True, reason="the package still has more; this mark goes with the last of it")


def python_files(*folders):
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def lines(path):
    return len(path.read_text().splitlines())


def test_the_root_has_few_files_and_folders():
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len([path for path in entries if path.is_file()]) <= FILES
    assert len([path for path in entries if path.is_dir()]) <= FOLDERS


def test_no_file_is_long():
    found = {str(path.relative_to(ROOT)): lines(path) for path in python_files(*OWN)}
    assert len(found) > 50
    assert {name: count for name, count in found.items() if count > LINES_OF_A_FILE} == {}


@COMING
def test_the_package_is_small():
    assert sum(map(lines, python_files(PACKAGE))) < LINES_OF_THE_PACKAGE


def test_the_demo_is_small():
    assert 0 < sum(map(lines, python_files(PACKAGE / "demo"))) <= LINES_OF_THE_DEMO


# ---------------------------------------------------------------------------------------------------- imports


def layers_of(text):
    """The layers of the import contract, from the top, each with its modules."""
    (block,) = re.findall(r"^layers = \[(.*?)^\]", text, flags=re.MULTILINE | re.DOTALL)
    return [layer.split(" : ") for layer in re.findall(r'"(.+?)"', block)]


def test_the_contract_has_few_layers_and_names_every_room():
    layers = layers_of((ROOT / "pyproject.toml").read_text())
    assert 4 < len(layers) <= LAYERS
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert {name for layer in layers for name in layer} == rooms - {"__init__", "__pycache__"}


def circle(imports):
    """Modules that import each other, from one back to itself; None if there are none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def imports_of(package):
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


@pytest.mark.parametrize("package", ["lightning_uncertainty", "experiments", "benchmarks"])
def test_no_file_imports_itself_by_way_of_others(package):
    assert circle(imports_of(package)) is None


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
    assert circle({"a": {"b", "c"}, "b": {"c"}}) is None


# ---------------------------------------------------------------------------------------------------- the wheel


def test_the_wheel_holds_the_package_and_no_experiment(tmp_path):
    built = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    names = {name for name in zipfile.ZipFile(built).namelist() if ".dist-info/" not in name}
    # What the checkout holds besides is not of the package: `git` ignores it, and so does the wheel.
    kinds = (".py", ".css", ".html", "py.typed")
    mine = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.name.endswith(kinds)}
    assert names == mine
    assert not [name for name in names if re.search("experiment|scene|cityscapes|flights", name)]


# ---------------------------------------------------------------------------------------------------- one of each


def imported(tree):
    """All modules that a file imports, and all names that it takes from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def used(tree):
    """All attributes that a file reads of a plain name, such as ``os.replace``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def defined(tree):
    """The names of all functions and classes of a file that are no methods."""
    for node in ast.walk(tree):
        body = [] if isinstance(node, ast.ClassDef) else getattr(node, "body", [])
        for child in body if isinstance(body, list) else []:
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                yield child.name


# What only one file may do, and by what it is known.
TOOLS = {
    "table writer": ("reporting/tables.py", r"(import|use) (rich\.table|csv\.(DictWriter|writer))"),
    "atomic writer": ("reporting/files.py", r"use (os\.(replace|rename|renames)|shutil\.move)|import os\.replace"),
    "mean relative gain": ("comparison/statistics.py", r"define \w*(relative_?(gain|change)|mean_gain)\w*"),
    "progress bar": ("comparison/progress.py", r"import (rich\.progress|tqdm)"),
}


def deeds(text):
    """What a file does, a line for each: ``import rich.table``, ``use os.replace``, ``define relative_gain``."""
    tree = ast.parse(text)
    found = {"import": imported(tree), "use": used(tree), "define": defined(tree)}
    return {f"{deed} {name}" for deed, names in found.items() for name in names}


def who(pattern, folders):
    """The files that do what the pattern says."""
    doing = re.compile(pattern, re.IGNORECASE)
    return [path for path in python_files(*folders) if any(map(doing.match, deeds(path.read_text())))]


@pytest.mark.parametrize("tool", TOOLS)
def test_the_package_has_one(tool):
    file, pattern = TOOLS[tool]
    assert who(pattern, [PACKAGE]) == [PACKAGE / file]


@pytest.mark.parametrize("tool", TOOLS)
def test_the_experiments_bring_no_second_one(tool):
    assert who(TOOLS[tool][1], [ROOT / "experiments"]) == []


SECONDS = {
    "table writer": ["from rich.table import Table", "def f():\n    import rich.table", "csv.writer(file)"],
    "atomic writer": ["os.replace(a, b)", "from os import replace", "shutil.move(a, b)"],
    "mean relative gain": ["def relative_gain(a, b): ...", "if True:\n    class MeanRelativeGain: ..."],
    "progress bar": ["from rich import progress", "import rich.progress", "from tqdm.auto import tqdm"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_second_one_is_found(tool, tmp_path):
    """The check of the check."""
    (tmp_path / "harmless.py").write_text("import os, csv, rich\n'a'.replace('b', 'c')\ncsv.reader(())\ngain = 1\n")
    for text in SECONDS[tool]:
        (tmp_path / "second.py").write_text(text)
        assert who(TOOLS[tool][1], [tmp_path]) == [tmp_path / "second.py"], text
