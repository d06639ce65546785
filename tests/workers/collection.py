"""What pytest would run: collected in a process of its own, beside the session that asks."""

import os

import pytest


class Collected:
    """Notes the tests that pytest collects, and whether their marks keep them from being run or from failing."""

    def __init__(self):
        self.found = {}

    def pytest_collection_finish(self, session):
        for item in session.items:
            self.found.setdefault(item.nodeid.split("[")[0], []).append(any(map(stopped_by, item.iter_markers())))


def stopped_by(mark):
    return mark.name in ("skip", "xfail") or (mark.name == "skipif" and any(mark.args))


def collect(folder, files):
    """By test of these files in ``folder``, for each of its cases, whether a mark skips it or expects it to fail."""
    os.chdir(folder)
    collected = Collected()
    code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *files], plugins=[collected])
    assert code == 0, code
    return collected.found
