"""Each notebook runs, what it claims holds, and the outputs that are committed are those of its source."""

import os
import platform
import re
import sys
from pathlib import Path

import nbformat
import pytest

from tests.pages import Page

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 300_000  # bytes

sys.path.insert(0, str(FOLDER))
import execute  # noqa: E402  # the script that `make notebooks` runs

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
pytestmark = pytest.mark.filterwarnings("default")  # Jupyter's own; the notebooks run in another process


@pytest.fixture
def _kernel_finds_the_package(monkeypatch):
    """The kernel imports this package, on one thread."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """Of its outputs: ``stdout``, ``image/png``, ``text/plain``..."""
    return {output.get("name") or sorted(output.get("data", {"error": None}))[0] for output in cell.outputs}


def texts(output):
    """What of an output can be read."""
    data = output.get("data", {})
    return [output.get("text", ""), *(str(data[kind]) for kind in data if kind.startswith("text/"))]


def test_there_are_notebooks_in_an_order():
    assert [path.stem[:3] for path in NOTEBOOKS][:2] == ["01_", "02_"]
    assert len({path.stem[:2] for path in NOTEBOOKS}) == len(NOTEBOOKS)


@notebooks
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_kernel_finds_the_package")
def test_it_runs_and_what_it_asserts_holds_and_each_cell_shows_what_is_committed(path, tmp_path):
    fresh = execute.executed(path, tmp_path)  # raises where a cell does
    assert sum("assert " in cell.source for cell in code_cells(fresh)) >= 3
    committed = nbformat.read(path, as_version=4)
    for new, old in zip(code_cells(fresh), code_cells(committed), strict=True):
        assert kinds(new) == kinds(old), new.source
    assert sum("image/png" in kinds(cell) for cell in code_cells(fresh)) >= 1


FRESH = """
import torch, lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning_uncertainty import UncertaintyCallback, UncertaintyMixin

class Net(UncertaintyMixin, BoringModel):
    tasks = {"a": "gaussian"}

    def training_step(self, batch, batch_idx):
        return self.weigh({"a": self.step(batch)})

callback = UncertaintyCallback()
#
L.Trainer(max_epochs=1, callbacks=[callback]).fit(Net())
#
L.Trainer(max_epochs=1, callbacks=[RichProgressBar()]).fit(Net())
#
callback.history
#
callback.history.plot()
#
callback.weighting
"""


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_kernel_finds_the_package")
def test_a_fresh_notebook_shows_the_summary_while_the_progress_bar_is_open_and_each_thing_as_html(tmp_path):
    """The bar is Lightning's default one, and that of rich."""
    cells = [nbformat.v4.new_code_cell(text.strip()) for text in FRESH.split("#\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "fresh.ipynb")
    _, *trained, history, picture, weighting = (
        cell.outputs for cell in execute.executed(tmp_path / "fresh.ipynb", tmp_path).cells
    )
    for outputs in trained:
        (summary,) = [output for output in outputs if "after 64 steps" in output.get("data", {}).get("text/html", "")]
        for text in (Page(summary.data["text/html"]).text, summary.data["text/plain"]):
            assert "Uncertainty weighting: 1 task after 64 steps" in text
        assert "mean over the last 10% of the steps" in " ".join(" ".join(texts(summary)).split())
    for outputs in (history, weighting):
        assert Page(outputs[-1].data["text/html"]).count("table") == 1
    assert picture[-1].data["image/png"]


@notebooks
def test_the_committed_outputs_come_from_the_committed_source(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata[execute.KEY] == execute.fingerprint(notebook), "changed since: run `make notebooks`"
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@notebooks
def test_it_is_small_and_says_nothing_about_the_machine_that_it_ran_on(path):
    assert path.stat().st_size < LARGEST
    cells = code_cells(nbformat.read(path, as_version=4))
    assert "stderr" not in {kind for cell in cells for kind in kinds(cell)}
    said = " ".join(text for cell in cells for output in cell.outputs for text in texts(output))
    assert len(said) > 200
    assert not re.search(r"/(home|root|tmp|work|Users|usr|opt|private|var)/|[A-Z]:\\\\", said)
    assert not re.search(rf"\b{re.escape(platform.node() or 'no name')}\b", said)


def test_a_notebook_that_was_changed_after_it_ran_is_noticed():
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    before = execute.fingerprint(notebook)
    notebook.cells[1].source += "  # a change"
    assert execute.fingerprint(notebook) != before
