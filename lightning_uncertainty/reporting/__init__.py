"""What is made of snapshots for people to look at. It knows :mod:`~lightning_uncertainty.snapshot` and nothing else."""
