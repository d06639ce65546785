"""Run the notebooks and write their outputs into them: ``make notebooks``.

What is written holds no times, and a fingerprint of the source that the outputs come from, which the tests compare.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
KEY = "outputs_of"
FACTS = re.compile(r"Started: .*?, Python [\d.]+\n?", re.DOTALL)
TIMEOUT = 240  # seconds per cell; a busy machine is several times slower than a free one


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Of all cells, without their outputs."""
    sources = "\0".join(cell.cell_type + cell.source for cell in notebook.cells)
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """A copy of the notebook with the outputs of a run in ``folder``.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", []):  # when, how long and where it ran
            for kind, text in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = FACTS.sub("", text)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        KEY: fingerprint(notebook),
    }
    return notebook


def main(names: list[str]) -> None:
    """Run those notebooks, or all."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                nbformat.write(executed(path, Path(folder)), path)
            print(f"{path.name}: {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main([Path(name).stem for name in sys.argv[1:]])
