"""Other systems: terminals that know ASCII only, file names that Windows takes, encodings that nobody names."""

import os
import re
import subprocess
import sys

import pytest

from lightning_uncertainty._arguments import file_stem
from lightning_uncertainty.comparison.arms import ComparisonError, parse_arms
from tests.workers.processes import ROOT

DEVICES = ["con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))]


def works_on_windows(name):
    """What its documentation forbids in the name of a file: some characters, an end, and the names of devices."""
    return not re.search(r'[<>:"/\\|?*\x00-\x1f]|[. ]$', name) and name.partition(".")[0].lower() not in DEVICES


# ------------------------------------------------------------------------------------------------------ terminals

TELL = """
import lightning as L
import torch
from lightning_uncertainty import UncertaintyCallback, UncertaintyMixin, compare
from lightning_uncertainty.__main__ import main

class Net(UncertaintyMixin, L.LightningModule):
    tasks = {"größe": {"likelihood": "gaussian", "unit": "m"}, "art": {"likelihood": "laplace", "unit": "s"}}

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 2)

    def losses(self, x):
        error = self.net(x) - x[:, :2]
        return {"größe": error[:, 0].square().mean(), "art": error[:, 1].abs().mean()}

    def training_step(self, batch, batch_idx):
        return self.weigh(self.losses(batch))

    def validation_step(self, batch, batch_idx):
        self.log("val/a", self.losses(batch)["art"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def data():
    return {kind: torch.utils.data.DataLoader(torch.randn(64, 3), batch_size=8) for kind in ("train", "val")}

quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
trainer = L.Trainer(**quiet, logger=L.pytorch.loggers.CSVLogger("."), callbacks=[UncertaintyCallback()])
trainer.fit(Net(), *data().values())
result = compare(Net, data, metrics={"val/a": "min"}, seeds=[0, 1], trainer=quiet, folder="comparison")
print(result)
assert main(["report", "comparison"]) == 0
"""


def test_an_ascii_terminal_gets_every_table_and_no_file_is_opened_in_the_encoding_of_the_system(tmp_path):
    """The end of a fit, ``compare`` and ``report``, of tasks with units whose names it does not know."""
    (tmp_path / "tell.py").write_text(TELL, encoding="utf-8")
    options = ["-X", "warn_default_encoding", "-W", "ignore", "-W", "always::EncodingWarning"]
    told = subprocess.run(
        [sys.executable, *options, "-m", "tests.workers.without_pictures", "tell.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert told.returncode == 0, told.stderr.decode(errors="replace")
    assert not re.search(r"/lightning_uncertainty/\S+ EncodingWarning", told.stderr.decode(errors="replace"))
    text = told.stdout.decode("ascii")
    assert re.search(r"^min val/a +[\d.e-]+ \+- [\d.e-]+ ", text, re.MULTILINE)
    assert text.count("2 tasks after 16 steps") == 2
    assert re.search(r"^gr\?\?e +gaussian .* m\^-2 ", text, re.MULTILINE)


# ----------------------------------------------------------------------------------------------------- file names


@pytest.mark.parametrize("key", [*DEVICES, "AUX", "aux.head", "train/mtl", "a:b", 'x<y>|?*"', "ü\n"])
def test_the_files_of_a_run_have_names_that_windows_takes(key):
    for ending in (".html", ".png", "_history.json"):
        assert works_on_windows(f"{file_stem(key)}{ending}")


def test_names_that_are_no_devices_stay_as_they_are():
    names = ["uncertainty", "console", "auxiliary", "com", "com10", "train.aux"]
    assert [file_stem(name) for name in names] == names


@pytest.mark.parametrize("name", ["a:b", "a/b", "a b.", "a?", "a\\b"])
def test_an_arm_that_could_not_name_a_folder_is_refused(name):
    with pytest.raises(ComparisonError, match="cannot name an arm and its folders"):
        parse_arms({}, {name: {"a": 1.0}}, "equal")


def test_every_file_of_the_repository_can_be_checked_out_on_windows():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    names = [name for name in listed if name]
    assert len(names) > 200
    assert all(works_on_windows(part) for name in names for part in name.split("/"))
    assert len({name.lower() for name in names}) == len(names)
    assert max(map(len, names)) < 120  # of 260
