"""Nothing of Lightning or torch that is not public is used outside two files, where each use has its reason."""

import ast
import re
from pathlib import Path

import lightning as L
import pytest
import torch

import lightning_uncertainty

PACKAGE = Path(lightning_uncertainty.__file__).parent
OWN = [PACKAGE, PACKAGE.parent / "experiments"]  # not the benchmarks, which look into torch to count what it does
ALLOWED = {PACKAGE / "trainer" / name for name in ("packages.py", "attachment.py")}
FOREIGN = r"(torch|lightning|lightning_fabric|pytorch_lightning|torchmetrics)"
STANDARD = {
    "_asdict",
    "_fields",
    "_make",
    "_replace",
    "_exit",
    "_repr_png_",
}  # documented: of tuples, os._exit, IPython
GETTERS = {"getattr", "hasattr", "setattr", "delattr", "__setattr__", "__getattribute__", "__delattr__", "get", "pop"}


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def foreign_names():
    """Private attributes of the objects of Lightning and torch that a plugin meets."""
    net = torch.nn.Linear(1, 1)
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    objects = (
        *(torch, net, net.weight, torch.optim.SGD(net.parameters(), lr=1.0)),
        *(L.LightningModule(), L.LightningDataModule(), L.Callback(), trainer),
        *(trainer.strategy, trainer.fit_loop, trainer.fit_loop.epoch_loop, trainer.precision_plugin),
    )
    return {name for thing in objects for name in dir(thing) if is_private(name)}


def classes_of(trees):
    """Private names that each class defines, its own bases' included."""
    own, bases = {}, {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                own.setdefault(node.name, set()).update(_defined_in(node))
                bases.setdefault(node.name, set()).update(ast.unparse(base).split(".")[-1] for base in node.bases)
    for _ in own:  # until all are inherited, whatever the order of the files
        for name in own:
            own[name] |= {inherited for base in bases[name] for inherited in own.get(base, ())}
    return own


def _defined_in(cls):
    for node in ast.walk(cls):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            yield node.attr


def _is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def trespasses(tree, classes, foreign):
    """Line and text of each use of a private name that is not this package's own.

    A name on ``self`` is own if the class, or a base of this package, defines it. A name on anything else is own if a
    class or a file of this package has it and nothing of Lightning or torch does.
    """
    ours = set().union(*classes.values()) | {path.stem for path in PACKAGE.rglob("_*.py")} | STANDARD
    ours -= foreign

    def visit(node, inside):
        if isinstance(node, ast.ClassDef):
            inside = classes[node.name]
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            names = [f"{module}.{alias.name}".strip(".") for alias in node.names]
            found = any(re.match(rf"{FOREIGN}\b", name) and re.search(r"(^|\.)_", name) for name in names)
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            found = node.attr not in ((inside | STANDARD) if _is_self(node.value) else ours)
        elif isinstance(node, (ast.Call, ast.Subscript)):
            found = any(is_private(name) and name not in ours for name in _names_by_string(node))
        else:
            found = isinstance(node, ast.Constant) and re.fullmatch(rf"{FOREIGN}[\w.]*\._\w[\w.]*", str(node.value))
        if found:
            yield node.lineno, ast.unparse(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return list(visit(tree, set()))


def _names_by_string(node):
    """Names of attributes that are given as strings: to ``getattr`` and the like, and to what ``vars`` returns."""
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        strings = node.args if called in GETTERS else []
    else:
        of_object = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "vars"
        strings = [node.slice] if of_object or getattr(node.value, "attr", "") == "__dict__" else []
    return [each.value for each in strings if isinstance(each, ast.Constant) and isinstance(each.value, str)]


@pytest.fixture(scope="module")
def trees():
    paths = sorted(path for folder in OWN for path in folder.rglob("*.py"))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@pytest.fixture(scope="module")
def foreign():
    return foreign_names()


def test_no_file_but_two_uses_what_is_not_public(trees, foreign):
    classes = classes_of(trees.values())
    found = {
        f"{path.relative_to(PACKAGE.parent)}:{line}: {text}"
        for path, tree in trees.items()
        if path not in ALLOWED
        for line, text in trespasses(tree, classes, foreign)
    }
    assert not found


def test_no_file_but_two_hides_an_attribute_from_the_type_checker(trees):
    hidden = {path for path in trees if "ignore[attr-defined]" in path.read_text(encoding="utf-8")}
    assert hidden <= ALLOWED


def test_the_two_files_do_use_it(trees, foreign):
    """Or they need not be excepted."""
    classes = classes_of(tree for path, tree in trees.items() if path not in ALLOWED)
    for path in ALLOWED:
        assert trespasses(trees[path], {**classes_of([trees[path]]), **classes}, foreign), path


WRONG = {
    "module": "def f(module):\n    return module._trainer",
    "chain": "import torch\nx = torch._dynamo.config.recompile_limit",
    "import": "import torch._dynamo",
    "name in an import": "from lightning.pytorch.utilities import _private",
    "file in an import": "from torch.nn.modules._functions import SyncBatchNorm",
    "by string": "def f(module):\n    return getattr(module, '_compiler_ctx', None)",
    "in vars": "def f(module):\n    return vars(module)['_trainer']",
    "get of vars": "def f(module):\n    return vars(module).get('_trainer')",
    "past nn.Module": "def f(module):\n    object.__setattr__(module, '_trainer', None)",
    "module by string": "from importlib import import_module\nx = import_module('torch._dynamo.config')",
    "inherited": "class Net(LightningModule):\n    def f(self):\n        return self._trainer",
    "own on self, Lightning's on another": (
        "class Own:\n    def __init__(self, other):\n        self._trainer = other._trainer"
    ),
    "own of another class, on self": (
        "class One:\n    _mine = 1\nclass Two(Module):\n    def f(self):\n        return self._mine"
    ),
    "not known to anybody": "def f(tensor):\n    return tensor._some_new_thing",
}

RIGHT = {
    "own": "class Own:\n    def __init__(self):\n        self._x = 1\n    def f(self):\n        return self._x",
    "inherited": "class A:\n    _mine = 1\nclass B(A):\n    def f(self):\n        return self._mine",
    "of another of the same class": "class A:\n    _mine = 1\n    def f(self, other):\n        return other._mine",
    "method": "class A:\n    def _go(self): ...\n    @classmethod\n    def f(cls):\n        cls()._go()",
    "named tuple": "def f(row):\n    return row._replace(x=1)._asdict()",
    "public": "import torch\nx = torch.compiler.config, torch.nn.Module.__init__, torch.__version__",
    "variable": "_limit = 3\nx = _limit",
    "own module": "from lightning_uncertainty import _warnings",
}


@pytest.mark.parametrize("case", WRONG)
def test_the_check_finds_what_is_not_public(case, foreign):
    tree = ast.parse(WRONG[case])
    assert trespasses(tree, classes_of([tree]), foreign)


@pytest.mark.parametrize("case", RIGHT)
def test_the_check_lets_pass_what_is(case, foreign):
    tree = ast.parse(RIGHT[case])
    assert not trespasses(tree, classes_of([tree]), foreign)
