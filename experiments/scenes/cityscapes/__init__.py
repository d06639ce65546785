"""Cityscapes, as it is downloaded, in the batches of :mod:`experiments.scenes.data.batch`."""
