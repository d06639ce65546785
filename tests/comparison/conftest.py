"""What holds for comparisons: their pictures are those of any run, which tests/trainer and tests/reporting look at."""

import multiprocessing

import pytest

from tests.workers.processes import forkserver


@pytest.fixture(autouse=True)
def _empty_pictures(empty_pictures):
    pass


@pytest.fixture
def forked_workers(monkeypatch):
    """Workers of a comparison that have imported everything when they start, and nothing else in common."""
    context = forkserver()
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
