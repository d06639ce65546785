"""The picture of the README comes from a run, and can be read on light and on dark pages."""

import re
import runpy
from xml.etree import ElementTree

import pytest

from lightning_uncertainty.demo.diamonds import TASKS
from tests.workers.processes import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "examples" / "readme_picture.py"))
NAMES = [f"weights-{paper}.svg" for paper in SCRIPT["INKS"]]


def described(path):
    tree = ElementTree.parse(path)
    (text,) = (element.text for element in tree.iter() if element.tag.endswith("}description"))
    steps, _, weights = text.removeprefix("Weights after ").removesuffix(".").partition(" steps: ")
    return int(steps), dict(weight.split(" ") for weight in weights.split(", "))


def test_the_script_draws_what_a_run_has_learned_in_the_ink_that_is_asked_for(tmp_path):
    history = SCRIPT["learned_history"](rows=500, epochs=4)
    first, second = (
        SCRIPT["draw"](history, tmp_path / "weights.svg", ink).read_text() for ink in ("#123456", "#fedcba")
    )
    steps, weights = described(tmp_path / "weights.svg")
    assert steps == history.steps[-1] > 0
    assert weights == {name: f"{history.series('precision', name)[-1]:.3g}" for name in TASKS}
    assert first.count("#123456") == second.count("#fedcba") > 20  # axes, ticks and letters
    assert not {"#000000", "#123456"} & set(re.findall("#[0-9a-f]{6}", second))  # nothing is left in another ink


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_the_readme_in_place_of_the_picture_has_its_numbers(name):
    (said,) = re.findall('alt="(.*?)"', (ROOT / "README.md").read_text())
    path = ROOT / "docs" / "pictures" / name
    steps, weights = described(path)
    values = sorted(map(float, weights.values()))
    shares = {task: int(share) for task, share in re.findall(r"<!-- (\w+) (\d+)% -->", path.read_text())}
    smallest = min(shares, key=shares.get)
    assert shares.keys() == weights.keys()
    assert f"{steps:,} steps, end between {values[0]:.1e} and {values[-1]:.1e};" in said
    assert said.endswith(f"each a fifth of the weighted loss, and {smallest} is {shares.pop(smallest)} %.")
    assert {round(share / 20.0, 1) for share in shares.values()} <= {1.0, 1.1}


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_of_the_readme_are_small_and_lie_on_the_paper_of_the_page(name):
    path = ROOT / "docs" / "pictures" / name
    assert f"docs/pictures/{name}" in (ROOT / "README.md").read_text()
    assert path.stat().st_size < 150_000
    assert list(described(path)[1]) == list(TASKS)
    ground = next(each for each in ElementTree.parse(path).iter() if each.get("id") == "patch_1")
    assert [part.get("style") for part in ground] == ["fill: none"]
