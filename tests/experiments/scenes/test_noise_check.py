import itertools
import math

import pytest

from experiments.scenes.data.generator import SceneGenerator
from experiments.scenes.data.label_noise import EXACT, LabelNoise
from experiments.scenes.figures import save_noise
from experiments.scenes.noise_check import check_noise

NOISE = LabelNoise(0.2, 4.0, 1.0)


@pytest.fixture(scope="module")
def found():
    return {result.task: result for result in check_noise([NOISE], steps=700)}


def test_expected_sigmas_follow_from_the_noise_by_hand(found):
    truth, label = (SceneGenerator(noise=noise).make(64, seed=0)["classes"].numpy() for noise in (EXACT, NOISE))
    surprise = 0.0
    for number, other in itertools.product(range(8), repeat=2):
        pairs = ((truth == number) & (label == other)).sum()
        surprise -= pairs * math.log(pairs / (truth == number).sum()) if pairs else 0.0
    expected = {
        "semantic": math.sqrt(2 * surprise / truth.size),
        "instance": 4.0 * 0.7978845608,
        "instance squared": 4.0,
        "depth": 0.7978845608,
        "depth squared": 1.0,
    }
    assert {task: result.expected for task, result in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("task", ["semantic", "instance", "instance squared", "depth", "depth squared"])
def test_learned_sigma_is_the_noise_of_the_labels(found, task):
    assert found[task].learned == pytest.approx(found[task].expected, rel=0.03)


def test_the_figure_is_written(found, tmp_path):
    assert save_noise(tmp_path / "noise.png", list(found.values())).stat().st_size > 10_000
