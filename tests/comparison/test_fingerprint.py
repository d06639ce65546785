"""What counts as the code of a run: found by names, as far as the user's own files reach."""

import importlib
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from lightning_uncertainty.comparison.fingerprint import code_of

FILES = {
    "project/__init__.py": "",
    "project/net.py": """
        import torch
        import project.settings as settings
        from project.layers import Base, sizes
        from project import losses

        RATES = {"a": 0.1}
        WIDTH = 2 * settings.BASE
        unused = 1

        class Net(Base):
            def step(self, x):
                from project.late import late
                return losses.loss(x, RATES, WIDTH) + settings.scale() + late(x)

        make = lambda: Net(sizes())
    """,
    "project/layers.py": """
        from project.helpers import widths

        class Root:
            pass

        class Base(Root):
            pass

        def sizes():
            return widths
    """,
    "project/helpers.py": "widths = tuple(x for x in (1, 2))\nother = 3\n",
    "project/losses.py": "def inner(x): return x\ndef loss(x, *_): return inner(x)\n",
    "project/settings.py": "BASE = 8\ndef scale(): return 1.0\ndef nobody(): return 2.0\n",
    "project/late.py": "def late(x): return x\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Codes of the class and of the lambda, after an edit of one file."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two edits within a second have the same date

    def codes(file=None, old=None, new=None):
        for name, text in FILES.items():
            text = textwrap.dedent(text)
            if name == file:
                assert old in text
                text = text.replace(old, new)
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        for name in [name for name in sys.modules if name.partition(".")[0] == "project"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        net = importlib.import_module("project.net")
        return code_of(net.Net), code_of(net.make)

    yield codes
    for name in [name for name in sys.modules if name.partition(".")[0] == "project"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("project/net.py", "losses.loss(x,", "losses.loss(2 * x,"),
        ("project/net.py", '{"a": 0.1}', '{"a": 0.2}'),
        ("project/net.py", "WIDTH = 2", "WIDTH = 3"),
        ("project/settings.py", "BASE = 8", "BASE = 16"),
        ("project/layers.py", "class Root:\n    pass", "class Root:\n    lr = 2"),
        ("project/losses.py", "def inner(x): return x", "def inner(x): return -x"),
        ("project/settings.py", "1.0", "3.0"),
        ("project/late.py", "return x", "return -x"),
    ],
    ids=[
        "own",
        "dictionary",
        "number",
        "number of a number",
        "base",
        "helper of a helper",
        "module",
        "imported when called",
    ],
)
def test_a_change_of_anything_the_class_refers_to_is_seen(project, file, old, new):
    assert project()[0] == project()[0] != project(file, old, new)[0]


def test_a_lambda_is_followed_to_the_classes_and_constants_it_names(project):
    assert project()[1] != project("project/layers.py", "return widths", "return 2 * widths")[1]
    assert project()[1] != project("project/helpers.py", "(1, 2)", "(3,)")[1]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("project/net.py", "unused = 1", "unused = 2"),
        ("project/settings.py", "2.0", "4.0"),
        ("project/helpers.py", "other = 3", "other = 4"),
    ],
)
def test_what_it_does_not_refer_to_does_not_count(project, file, old, new):
    assert project() == project(file, old, new)


COUNTER, CLOCK = 0, time.time()
if COUNTER == 0:
    SCALE = 2.0


def test_what_changes_by_itself_does_not_count():
    def reads():
        return COUNTER, CLOCK

    global COUNTER
    before = code_of(reads)
    COUNTER += 1
    assert code_of(reads) == before
    assert any("CLOCK = (0, time.time())" in text for text in before)


def test_variables_that_are_assigned_under_a_condition_are_found():
    assert "SCALE = 2.0" in code_of(lambda: SCALE)


def test_a_lambda_does_not_depend_on_the_line_it_stands_in():
    one, *_ = (lambda: len([1, 2]), "more of the line")
    assert code_of(one) == code_of(lambda: len([1, 2])) != code_of(lambda: len([1, 3]))


def test_installed_packages_and_python_itself_are_not_followed():
    assert code_of(torch.nn.Linear, Path, len, None) == []
    text = "".join(code_of(pytest.Item))  # its own source, and no more
    assert "class Item" in text
    assert "class Session" not in text


def test_describing_imports_nothing_that_a_function_would_import_later(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "costly").mkdir()
    (tmp_path / "costly" / "__init__.py").write_text("raise RuntimeError('not now')")
    part = tmp_path / "costly" / "part.py"

    def later():
        from costly.part import value

        return value

    texts = []
    for text in ("value = 1", "value = 2"):
        part.write_text(text)
        texts.append(code_of(later))
    assert texts[0] != texts[1]
    assert "costly" not in sys.modules
