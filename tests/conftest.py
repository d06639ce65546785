"""What holds for all tests: one thread, one seed, and no order among them."""

import functools
import gc
import importlib.metadata
import os
import sys

import pytest
import torch

from tests.workers.without_pictures import draw_nothing

# The models here are tiny: threads only get into each other's way, here and in the processes that the tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# A Trainer looks for callbacks in the metadata of all installed packages, which takes longer than a step of training.
# What is installed does not change here. Lightning takes the function by name, and is imported later.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)

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


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the marks in the same hook
def pytest_collection_modifyitems(config, items):
    """Keep tests that share a fixture in one process of pytest-xdist, so that it is built once."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        definitions = getattr(item, "_fixtureinfo", None)
        for fixture in definitions.name2fixturedefs.values() if definitions else ():
            if fixture[-1].scope in ("module", "session") and fixture[-1].baseid.startswith("tests"):
                item.add_marker(pytest.mark.xdist_group(fixture[-1].baseid))
                break


def pytest_collection_finish():
    """Let the garbage collector pass over all that is imported by now: it is searched often, as by a Tuner."""
    gc.freeze()
