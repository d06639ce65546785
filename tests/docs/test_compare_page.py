"""The page about comparisons does what it says, word for word."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_uncertainty.comparison.arms import parse_arms
from lightning_uncertainty.strategies import Fixed
from tests.workers.processes import ROOT

GAIN = re.compile(r"learned against equal, 3 seeds: mean relative gain ([+-][\d.]+) %")
PAGE = Path(__file__).parents[2] / "docs" / "compare.md"


def test_the_code_and_the_command_of_the_page_run_as_they_stand(tmp_path):
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "python", "text", "yaml", "sh"]
    project, script, printed, config, command = (text for _, text in blocks)
    for name, text in (("project.py", project), ("script.py", script), ("config.yaml", config)):
        (tmp_path / name).write_text(text)
    program, *arguments = shlex.split(command)
    assert program == "lightning-uncertainty"
    for what in (["script.py"], [program, *arguments]):
        shown = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.workers.without_pictures", *what],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        said = " ".join(shown.stdout.split())
        assert "The difference is larger than the noise between seeds: learned is better." in said
        gains = [float(GAIN.search(text)[1]) for text in (said, " ".join(printed.split()))]
        assert gains[0] == pytest.approx(gains[1], abs=10.0)  # machines add up in other orders
    assert len(list(tmp_path.glob("comparison/*/run.json"))) == 9 + 6


def test_the_arms_of_the_page_are_arms():
    examples = re.findall(r"^\|[^|]+\| `(\{.*?\})`", PAGE.read_text(), flags=re.MULTILINE)
    assert len(examples) == 6
    for example in examples:
        given = eval(example, {"MyStrategy": Fixed, "draw_weights": lambda seed: {"price": seed}})
        names = {arm.name for arm in parse_arms(given, {}, "learned")}
        assert names == {"equal", "learned"} ^ ({"equal"} if given == {"equal": None} else given.keys())
