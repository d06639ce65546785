"""What the user can mend, apart from what goes wrong inside the module that is compared."""

__all__ = ["ComparisonError"]


class ComparisonError(ValueError):
    """A comparison cannot be made: the message says why, and what to write instead."""
