"""What holds for comparisons: their pictures are those of any run, which tests/trainer and tests/reporting look at."""

import pytest


@pytest.fixture(autouse=True)
def _empty_pictures(empty_pictures):
    pass
