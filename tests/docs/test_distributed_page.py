"""The table of strategies in docs/distributed.md says what the tests do."""

import re

import pytest

from tests.workers import ranks, sharded
from tests.workers.processes import ROOT

PAGE = (ROOT / "docs" / "distributed.md").read_text()
ROWS = {
    cells[0]: cells
    for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if "|" in line)
    if len(cells) == 4 and cells[2] in ("tested", "tested on CPU only", "not run")
}
# What has to stand in the tests for a row to say "tested on CPU only".
PROOF = {
    "`ddp`, also with `gradient_as_bucket_view`": "ranks.STRATEGIES",
    "`ddp_find_unused_parameters_true`": '"ddp_find_unused_parameters_true"',
    "`DDPStrategy(static_graph=True)`": "ranks.STRATEGIES",
    "`ddp_spawn`": '"ddp_spawn"',
    "`ddp_notebook`": '"ddp_notebook"',
    "DDP on two hosts, `torchrun`": "two_hosts.sh",
    "`torchrun --max-restarts`": "--max-restarts",
    "`ModelParallelStrategy`, FSDP2": "sharded.CASES",
    "`ModelParallelStrategy`, tensor parallel": '"tensor parallel"',
    "`FSDPStrategy` (FSDP1)": "fsdp1.CASES",
    "2D mesh: FSDP2 with tensor parallel": "train_on_a_mesh",
    "Fabric with `ddp`": "fabric.py",
    "plain torch with `DistributedDataParallel`": "plain_torch.py",
}


def test_each_row_that_says_tested_has_its_test_and_no_other_row_does():
    assert {name for name, row in ROWS.items() if row[2] != "not run"} == set(PROOF)
    assert {row[2] for row in ROWS.values()} == {"tested on CPU only", "not run"}
    assert {"ddp", "gradient_as_bucket_view", "static_graph"} <= set(ranks.STRATEGIES)
    assert {"root", "part", "tensor parallel"} <= set(sharded.CASES)


@pytest.mark.parametrize("name", ROWS)
def test_the_file_that_a_row_names_has_the_test(name):
    *_, state, where = ROWS[name]
    if state == "not run":
        assert where == "-"
    else:
        assert PROOF[name] in (ROOT / where).read_text()


def test_every_file_that_the_page_names_exists():
    for path in re.findall(r"(?:tests|docs)/[\w/.]+\.(?:py|sh)", PAGE):
        assert (ROOT / path).is_file(), path
