"""Histories, pictures and pages for people, made of :mod:`~lightning_uncertainty.snapshot` and nothing else."""
