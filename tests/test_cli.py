import re
import subprocess
import sys

import pytest

import lightning_uncertainty._arguments as extras
from lightning_uncertainty import __main__ as cli
from lightning_uncertainty import __version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "499"], "'--rows': .*500"),
        (["--rows", "many"], "'--rows': "),
        (["--epochs", "0"], "'--epochs': .*1"),
        (["--seed", "-1"], "'--seed': .*0"),
        (["--seed", "4294967296"], "'--seed': .*4294967295"),
        (["--colour", "blue"], "No such option"),
        (["surplus"], "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_option_gets_one_line_and_exit_code_2(arguments, said, capsys, tmp_path):
    output = tmp_path / "demo_output"
    assert cli.main(["demo", "--output", str(output), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Error: ")
    assert re.search(said, printed.err)
    assert printed.err.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize("below", ["", "folder/deeper"], ids=["itself", "a parent"])
def test_an_output_that_is_a_file_gets_one_line(below, capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["demo", "--output", str(tmp_path / "notes.txt" / below)]) == 2
    error = capsys.readouterr().err
    assert "must be a folder" in error
    assert error.count("\n") == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_unknown_command_gets_one_line(capsys):
    assert cli.main(["dmeo"]) == 2
    assert "No such command 'dmeo'" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("package", "extra"),
    [(package, "demo") for package in ("typer", "pandas", "matplotlib", "rich", "tensorboard", "plotnine", "scipy")],
)
def test_a_missing_package_gets_one_line_with_the_command_that_installs_it(
    package, extra, capsys, monkeypatch, tmp_path
):
    """One extra for all that the command needs, and not one after the other."""
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == package else found(name))
    assert cli.main(["demo", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert repr(package) in error
    assert f'pip install "lightning-uncertainty[{extra}]"' in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("words", "extra"), [([], "report"), (["report"], "report"), (["compare"], "compare")])
def test_without_typer_the_extra_is_that_of_the_command(words, extra, capsys, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    assert cli.main(words) == 2
    assert f'pip install "lightning-uncertainty[{extra}]"' in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["nothing", "--help"])
def test_help_lists_the_commands(arguments, capsys):
    assert cli.main(arguments) == 0
    assert "demo" in capsys.readouterr().out


def test_python_m_runs_it_and_it_says_its_version():
    for words, said in ((["--version"], f"lightning-uncertainty {__version__}\n"), (["report", "nowhere"], "")):
        command = [sys.executable, "-m", "lightning_uncertainty", *words]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout) == (0 if said else 2, said)


def test_help_of_the_demo_lists_its_options(capsys):
    assert cli.main(["demo", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--rows", "--epochs", "--seed", "--output"))


def test_importing_the_command_line_imports_none_of_what_it_may_need():
    heavy = "typer", "rich", "pandas", "matplotlib", "tensorboard"
    code = f"import sys, lightning_uncertainty.__main__; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_the_help_says_what_an_option_that_is_left_out_means(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["demo", "--help"]) == 0
    assert "[default: (all)]" in capsys.readouterr().out
