"""The code of the page about reports runs on what a logger has left."""

import re

import matplotlib.pyplot as plt
from lightning.pytorch.loggers import CSVLogger

from tests.models import fit
from tests.workers.processes import ROOT


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "report.md").read_text(), re.DOTALL)
    figure, axis = plt.subplots()
    for block in blocks:
        exec(compile(block, "report.md", "exec"), {"axis": axis})
    plt.close(figure)
    assert len(axis.lines) >= 2  # the weights of both tasks
    assert capsys.readouterr().out
