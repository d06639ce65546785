"""The file of a run as text: whole, and equal when it is read back."""

import json
import math

import pytest

from lightning_uncertainty.reporting.files import NothingToReportError, RunFile
from lightning_uncertainty.reporting.history import History
from tests.reporting.test_history import grown, same, snapshot
from tests.trainer.test_gradient_view import snapshots as gradients_of


def read_back(tmp_path, file):
    (tmp_path / "run.json").write_text(file.to_text(), encoding="utf-8")
    return RunFile.read(tmp_path / "run.json")


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_a_history_comes_back_as_it_was_and_goes_on(tmp_path, count):
    history = grown(count, names=("a", "b"))
    back = read_back(tmp_path, RunFile("train/mtl", history, {}, False, "noon"))
    assert (back.prefix, back.finished, back.written) == ("train/mtl", False, "noon")
    assert same(history, back.history)
    for step in range(count + 1, count + 50):
        for each in (history, back.history):
            each.add(snapshot(step, ("a", "b")))
    assert same(grown(count + 49, names=("a", "b")), history)
    assert back.history.steps[-1] == count + 49


def test_gradients_come_back_with_their_pairs(tmp_path):
    seen = gradients_of(3)
    back = read_back(tmp_path, RunFile("uncertainty", grown(3), {"encoder": seen, "trunk": seen[:1]}))
    assert list(back.gradients) == ["encoder", "trunk"]
    for one, other in zip(seen, back.gradients["encoder"], strict=True):
        assert one.step == other.step
        assert list(one.cosines) == list(other.cosines)
        assert one.norms == pytest.approx(other.norms, rel=1e-6, nan_ok=True)
        assert one.weighted_norms == pytest.approx(other.weighted_norms, rel=1e-6, nan_ok=True)


def test_what_is_not_finite_is_null_and_comes_back_as_nan(tmp_path):
    history = History()
    history.add(snapshot(1, loss=math.nan))
    history.add(snapshot(2, loss=1e300))  # beyond single precision
    back = read_back(tmp_path, RunFile("uncertainty", history))
    assert "NaN" not in (text := (tmp_path / "run.json").read_text())
    assert "Infinity" not in text
    assert all(map(math.isnan, back.history.series("raw_loss", "a")))
    assert back.history.series("precision", "a") == [2.0, 2.0]


DAMAGES = {
    "cut off": (lambda text: text[:100], "JSONDecodeError"),
    "of a newer version": (lambda text: text.replace('"version": 1', '"version": 2', 1), "it has version 2"),
    "without its history": (lambda text: json.dumps({**json.loads(text), "history": {}}), "KeyError"),
    "without gradients": (lambda text: text.replace('"gradients"', '"others"'), "KeyError"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_with_the_reason(tmp_path, damage, said):
    (tmp_path / "run.json").write_text(damage(RunFile("uncertainty", grown(5)).to_text()))
    with pytest.raises(NothingToReportError, match=said):
        RunFile.read(tmp_path / "run.json")


@pytest.mark.parametrize("text", ['{"loss": [1.0]}', "[1, 2]", '"text"'])
def test_a_file_of_something_else_is_none_of_ours(tmp_path, text):
    (tmp_path / "train_history.json").write_text(text)
    with pytest.raises(NothingToReportError, match=r"it is not written by this package.*Pass the folder"):
        RunFile.read(tmp_path / "train_history.json")
