"""The article's formulas in float64, written out by hand: nothing here comes from the package."""

import torch

TERMS = {
    "gaussian": lambda s, loss: 0.5 * torch.exp(-s) * loss,  # equations (1), (4)
    "laplace": lambda s, loss: loss / torch.exp(s).sqrt(),  # L1: 1/b, b = sigma
    "softmax": lambda s, loss: torch.exp(-s) * loss,  # equation (6)
    "bernoulli": lambda s, loss: torch.exp(-s) * loss,
}
REGULARIZERS = {
    "log_sigma": lambda s: torch.log(torch.sqrt(torch.exp(s))),  # equation (5)
    "sigma": lambda s: torch.sqrt(torch.exp(s)),  # equation (7), as printed
    "log1p_var": lambda s: torch.log(1 + torch.exp(s)),  # Liebel and Koerner, equation (3)
}


def term(likelihood, regularizer, s, loss):
    return TERMS[likelihood](s, loss) + REGULARIZERS[regularizer](s)


def double(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def derivative(function, at):
    """The derivative of a scalar function by float64 autograd."""
    point = double(at)
    (gradient,) = torch.autograd.grad(function(point).sum(), point)
    return gradient
