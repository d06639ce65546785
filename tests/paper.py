"""The engine and the callback with the total of the article, from the first step: for tests of its formulas.

The defaults begin with the plain sum and keep its size (`tests/engine/test_guard.py`, `tests/engine/test_scale.py`).
"""

import lightning_uncertainty as package

__all__ = ["UncertaintyCallback", "UncertaintyWeighting"]


PAPER = {"scale": None, "lr": 0.01}


class UncertaintyWeighting(package.UncertaintyWeighting):
    def __init__(self, tasks, **options):
        super().__init__(tasks, **{**PAPER, **options})


class UncertaintyCallback(package.UncertaintyCallback):
    def __init__(self, tasks=None, **options):
        super().__init__(tasks, **{**PAPER, **options})
