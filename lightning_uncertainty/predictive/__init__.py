"""Honest predictions: losses for heads that predict their own noise, distributions, and what the model does not know.

It knows torch and the likelihoods, and neither the engine nor a Trainer.
"""

from lightning_uncertainty.predictive.losses import gaussian_nll, laplace_nll, noisy_cross_entropy

__all__ = ["gaussian_nll", "laplace_nll", "noisy_cross_entropy"]
