"""The engine and the callback with the total of the article, from the first step: for tests of its formulas.

The defaults begin with the plain sum and keep its size (`tests/engine/test_guard.py`, `tests/engine/test_scale.py`).
"""

import lightning_uncertainty as package

__all__ = ["UncertaintyCallback", "UncertaintyWeighting"]


def article(options):
    """Return options with those of the article for what is left out."""
    learned = options.get("strategy", "uncertainty") == "uncertainty"
    return {"scale": None, **({"lr": 0.01, "betas": (0.9, 0.999)} if learned else {}), **options}


class UncertaintyWeighting(package.UncertaintyWeighting):
    def __init__(self, tasks, **options):
        super().__init__(tasks, **article(options))


class UncertaintyCallback(package.UncertaintyCallback):
    def __init__(self, tasks=None, **options):
        super().__init__(tasks, **article(options))
