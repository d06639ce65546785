"""What holds for all tests: one thread, one seed, and no order among them."""

import functools
import gc
import importlib.metadata
import multiprocessing
import os
import sys

import pytest
import torch

from tests.workers.processes import ROOT, forkserver
from tests.workers.without_pictures import draw_nothing

# The models here are tiny: threads only get into each other's way, here and in the processes that the tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# A Trainer looks for callbacks in the metadata of all installed packages, which takes longer than a step of training.
# What is installed does not change here. Lightning takes the function by name, and is imported later.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)

gc.disable()  # until all is imported: the more there is, the longer each search takes
_SEEN = set[str]()  # names of modules that are no test's own


@pytest.fixture(autouse=True)
def _seed():
    torch.default_generator.manual_seed(0)  # torch.manual_seed keeps the stack for devices that are not there


@pytest.fixture(autouse=True)
def _forget_written_modules(tmp_path_factory):
    """Drop the modules that a test wrote, so that the files of later runs are not compared with them."""
    yield
    base = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - _SEEN:
        if str(getattr(sys.modules[name], "__dict__", {}).get("__file__")).startswith(base):
            del sys.modules[name]
        else:
            _SEEN.add(name)


@pytest.fixture
def empty_pictures(monkeypatch):
    """Plot and save each picture, but draw nothing of it: that takes longer than all else in a short run."""
    draw_nothing(monkeypatch.setattr)


@pytest.fixture
def forked_workers(monkeypatch):
    """Workers of a comparison or an experiment have imported everything when they start, which takes seconds."""
    context = forkserver()
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)


@functools.cache
def _shares_a_fixture(path):
    return 'scope="module"' in (ROOT / path).read_text(encoding="utf-8")


@pytest.hookimpl(optionalhook=True)  # there is none without pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Keep a file whose tests share a fixture in one process, so that it is built once; other tests go anywhere.

    Marks of groups would do, but pytest 9.2 and pytest-xdist 3.8 silently pass over them:
    https://github.com/pytest-dev/pytest-xdist/issues/1386.
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.partition("::")[0]
            return path if _shares_a_fixture(path) else nodeid

    return ByFixture(config, log)


def pytest_collection_finish():
    """Let the garbage collector pass over all that is imported by now: it is searched often, as by a Tuner."""
    gc.freeze()
    gc.enable()
