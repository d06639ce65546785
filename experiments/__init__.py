"""Experiments of this repository, which are users of the package and no part of it."""
