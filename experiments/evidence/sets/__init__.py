"""The data sets, one file each; :mod:`experiments.evidence.problems` knows them by name."""
