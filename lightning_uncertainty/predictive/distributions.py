"""The distribution of a prediction: what the network says, with the noise of its task around it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Laplace, Normal

from lightning_uncertainty.likelihoods import Likelihood
from lightning_uncertainty.predictive.losses import check_log_var, check_tensors, lifted

__all__ = ["CLASSES", "REGRESSIONS", "distribution"]

REGRESSIONS: dict[str, type[Normal | Laplace]] = {"gaussian": Normal, "laplace": Laplace}
"""The family of a regression, by the name of its likelihood. Its scale is ``exp(s / 2)``."""

CLASSES: dict[str, type[Categorical | Bernoulli]] = {
    "softmax": Categorical,
    "softmax_exact": Categorical,
    "bernoulli": Bernoulli,
}
"""The family of a classification. Its logits are divided by a temperature."""


def distribution(
    likelihood: Likelihood, prediction: Tensor, log_var: Tensor | float, *, checked: bool = True
) -> Distribution:
    """Return the distribution of the target of a task.

    Args:
        likelihood: The likelihood of the task.
        prediction: The mean (for Laplace, the median) in the unit of the target, or the logits: of shape (N, C) or
            (N, C, d1, ...) for classes, whose distribution is of shape (N, d1, ...).
        log_var: The log-variance (for Laplace, ``log b^2``), of one number or one for each mean; for classes, the
            logarithm of the temperature.
        checked: False leaves numbers unchecked that are not finite; the default of torch, which its compiler changes
            for all, does not count.

    Raises:
        TypeError: if the prediction is no tensor.
        ValueError: if the likelihood has no distribution here, the shapes do not fit, or a number is not finite.

    >>> from lightning_uncertainty.likelihoods import GAUSSIAN
    >>> distribution(GAUSSIAN, torch.tensor([20.0]), torch.tensor(2.0).log() * 2).icdf(torch.tensor(0.95))
    tensor([23.2897])
    """
    check_tensors({"prediction": prediction})
    prediction = lifted(prediction)
    log_var = torch.as_tensor(log_var).to(prediction)  # after a fit, the engine may be elsewhere than the network
    if (regression := REGRESSIONS.get(likelihood.name)) is not None:
        check_log_var(prediction, log_var)
        scale = torch.exp(0.5 * log_var).expand_as(prediction)
        return regression(prediction, scale, validate_args=checked)
    if (classes := CLASSES.get(likelihood.name)) is not None:
        logits = prediction * torch.exp(-log_var)
        moved = logits.movedim(1, -1) if classes is Categorical and logits.dim() > 2 else logits
        return classes(logits=moved, validate_args=checked)
    raise ValueError(
        f"The likelihood {likelihood.name!r} has no distribution here. Expected one of "
        f"{', '.join(map(repr, [*REGRESSIONS, *CLASSES]))}. For a head that predicts its own noise, declare the task "
        'as `Task(name, "nll", head="gaussian")` (or "laplace", "softmax").'
    )
