"""What counts as the code of a run: the user's own files that are imported when it ends."""

import importlib
import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
import torch

import lightning_uncertainty
from lightning_uncertainty.comparison.fingerprint import code_of, own_files
from lightning_uncertainty.comparison.result import FinishedRun
from lightning_uncertainty.comparison.runs import RunFolder

FILES = {
    "project/__init__.py": "",
    "project/net.py": """
        import importlib
        import project.settings as settings
        from project.layers import Base, sizes
        from project import losses

        RATES = {"a": 0.1}
        WIDTH = 2 * settings.BASE

        class Net(Base):
            def step(self, x, how="chosen"):
                from project.late import late
                return importlib.import_module(f"project.{how}").use(losses.loss(x, RATES, WIDTH) + late(x))
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
    "project/helpers.py": "widths = tuple(x for x in (1, 2))\n",
    "project/losses.py": "def inner(x): return x\ndef loss(x, *_): return inner(x)\n",
    "project/settings.py": "import os\nBASE = 8\nSTARTED = os.times()\n",
    "project/late.py": "def late(x): return x\n",
    "project/chosen.py": "def use(x): return x\n",
    "project/figures.py": "def draw(): pass\n",
}
RUN = FinishedRun("learned", 0, {"val/a": 1.0}, 1.0, {}, {"a": 1.0}, {"a": 0.5})


def forget_project():
    for name in [name for name in sys.modules if name.partition(".")[0] == "project"]:
        del sys.modules[name]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The folder of a package that is written there; nothing of it is imported yet."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two edits within a second have the same date
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    importlib.invalidate_caches()
    forget_project()
    yield tmp_path
    forget_project()


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def finished(folder, definition="settings"):
    """The folder of a run that has imported the project, used all of it, and ended."""
    run_folder = RunFolder(folder / "runs", "learned", 0, {"class": definition})
    run_folder.begin()
    net = importlib.import_module("project.net")
    net.Net().step(1)
    run_folder.write(RUN)
    return run_folder


EDITS = {
    "own": ("net.py", "losses.loss(x,", "losses.loss(2 * x,"),
    "dictionary": ("net.py", '{"a": 0.1}', '{"a": 0.2}'),
    "number": ("net.py", "WIDTH = 2", "WIDTH = 3"),
    "number of a number": ("settings.py", "BASE = 8", "BASE = 16"),
    "base": ("layers.py", "class Root:\n    pass", "class Root:\n    lr = 2"),
    "function": ("layers.py", "return widths", "return 2 * widths"),
    "constant of a function": ("helpers.py", "(1, 2)", "(3,)"),
    "helper of a helper": ("losses.py", "def inner(x): return x", "def inner(x): return -x"),
    "imported when called": ("late.py", "return x", "return -x"),
    "name made at run time": ("chosen.py", "return x", "return -x"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_run_is_trained_anew_if_a_file_that_it_imported_has_changed(project, what):
    run_folder = finished(project)
    assert run_folder.read() == RUN
    file, old, new = EDITS[what]
    edit(project / "project" / file, old, new)
    assert run_folder.read() is None
    edit(project / "project" / file, new, old)
    assert run_folder.read() == RUN


def test_a_file_that_is_gone_counts_as_changed(project):
    run_folder = finished(project)
    (project / "project" / "late.py").unlink()
    assert run_folder.read() is None


def test_what_no_run_has_imported_does_not_count(project):
    run_folder = finished(project)
    edit(project / "project" / "figures.py", "pass", "print()")
    assert run_folder.read() == RUN


def test_what_changes_by_itself_does_not_count(project):
    run_folder = finished(project)
    importlib.import_module("project.settings").STARTED = None
    assert run_folder.read() == RUN


def test_project_and_runs_may_move_together(project):
    run_folder = finished(project)
    elsewhere = project.with_name("elsewhere")
    os.rename(project, elsewhere)
    moved = RunFolder(elsewhere / "runs", "learned", 0, run_folder.definition)
    assert moved.read() == RUN
    edit(elsewhere / "project" / "late.py", "return x", "return -x")
    assert moved.read() is None
    os.rename(elsewhere, project)


def test_a_file_counts_as_it_was_when_it_was_imported(project):
    """An edit while a run goes on is not what was run; a new import is."""
    importlib.import_module("project.net")
    own_files(script=False)
    edit(project / "project" / "losses.py", "return x", "return -x")
    assert finished(project).read() is None
    importlib.reload(sys.modules["project.losses"])
    assert finished(project).read() == RUN


def test_the_script_counts_if_it_defines_a_part_of_the_run(project, monkeypatch):
    script = types.ModuleType("__main__")
    script.__file__ = str(project / "script.py")
    Path(script.__file__).write_text("seeds = (0, 1)")
    monkeypatch.setitem(sys.modules, "__main__", script)
    only_calls, defines = finished(project), finished(project, "__main__.Net")
    assert only_calls.read() == defines.read() == RUN
    edit(Path(script.__file__), "(0, 1)", "(0, 1, 2)")
    assert only_calls.read() == RUN
    assert defines.read() is None


def test_installed_packages_python_and_this_package_do_not_count(monkeypatch):
    class Lazy(types.ModuleType):
        def __getattr__(self, name):
            raise AssertionError("this would import what is lazy")

    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    files = own_files(script=True)
    assert str(Path(__file__).resolve()) in files
    for module in (torch, pytest, os, importlib, lightning_uncertainty):
        assert str(Path(module.__file__).resolve()) not in files
    assert not any("site-packages" in path for path in files)


# ------------------------------------------------------------------------------------------------ without a file


def typed(text):
    """What a notebook or an interpreter holds after this text."""
    names = {"__name__": "__main__"}
    exec(textwrap.dedent(text), names)
    return names


@pytest.mark.parametrize(
    "text", ["def part(x): return {}", "class part:\n    def step(self, x): return {}"], ids=["function", "class"]
)
def test_what_was_typed_counts_with_its_bytecode(text):
    one, same, other = (code_of(typed(text.format(value))["part"]) for value in (1, 1, 2))
    assert one == same != other
    assert list(one) == ["__main__.part"]


def test_a_lambda_does_not_depend_on_the_line_it_stands_in():
    one, *_ = (lambda: len([1, 2]), "more of the line")
    other = lambda: len([1, 2])  # noqa: E731
    changed = lambda: len([1, 3])  # noqa: E731
    assert [*code_of(one).values()] == [*code_of(other).values()] != [*code_of(changed).values()]


def test_a_class_counts_with_its_own_bases_and_installed_ones_do_not():
    class Base(torch.nn.Module):
        pass

    class Net(Base):
        pass

    assert [name.rpartition(".")[2] for name in code_of(Net)] == ["Net", "Base"]
    assert code_of(torch.nn.Linear, Path, len, None, lightning_uncertainty.UncertaintyCallback) == {}
    assert code_of(pytest.Item) == {}  # installed


def test_callbacks_are_the_same_in_another_process_at_another_time(capsys):
    code = textwrap.dedent("""
        import lightning, lightning_uncertainty
        from lightning_uncertainty.comparison.fingerprint import describe, digest
        print(digest(describe(lightning.pytorch.callbacks.ModelCheckpoint('folder', monitor='loss'))))
        print(digest(describe(lightning_uncertainty.UncertaintyCallback({'depth': 'laplace'}))))
    """)
    exec(code)
    here = capsys.readouterr().out
    assert here == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert len(set(here.splitlines())) == 2
