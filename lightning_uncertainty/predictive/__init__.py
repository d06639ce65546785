"""Honest predictions: losses for heads that predict their own noise, distributions, and what the model does not know.

It knows torch and the likelihoods, and neither the engine nor a Trainer.
"""

from lightning_uncertainty.predictive.distributions import distribution
from lightning_uncertainty.predictive.epistemic import Decomposition, decompose, dropout_on
from lightning_uncertainty.predictive.losses import gaussian_nll, laplace_nll, noisy_cross_entropy

__all__ = [
    "Decomposition",
    "decompose",
    "distribution",
    "dropout_on",
    "gaussian_nll",
    "laplace_nll",
    "noisy_cross_entropy",
]
