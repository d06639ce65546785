r"""Epistemic uncertainty: what several networks, or several passes with dropout, do not agree on.

No method separates the parts cleanly [arXiv 2408.12175, 2505.23506]: a network that errs in the same way in each pass
calls that noise. Use the parts to rank inputs, and the total for intervals.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from lightning_uncertainty._arguments import listed
from lightning_uncertainty._warnings import UncertaintyWarning

__all__ = ["Decomposition", "decompose", "dropout_on"]

_ALL_THE_SAME = (
    "All {} samples predict the same, so that nothing epistemic is seen. Expected passes or networks that differ. Call "
    "decompose inside of `with dropout_on(net):`, since a generator makes its passes when it is consumed; train the "
    "members of an ensemble from different seeds."
)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@contextmanager
def dropout_on(module: nn.Module, *more: type[nn.Module]) -> Iterator[None]:
    """Evaluate ``module`` with its dropout layers on, and all others, such as batch norm, as in evaluation.

    Afterwards, also after an exception, each layer is as it was. Dropout inside of attention and of recurrent layers is
    on, too. A functional dropout is not, unless it follows the flag of a layer of these kinds.

    Args:
        module: The module whose passes differ then [Monte Carlo dropout, Gal and Ghahramani, ICML 2016].
        *more: Further classes of layers that are random in training, such as the ``DropPath`` of timm.

    Raises:
        TypeError: if it is no module, or one of the others no class of modules.
        ValueError: if no layer drops anything: all passes would be the same, and nothing epistemic would be seen.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Dropout(0.5)).eval()
    >>> with dropout_on(net):
    ...     print([layer.training for layer in net])
    [False, False, True]
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"Expected the module whose dropout is turned on; got {module!r} of type {type(module).__name__}. Write "
            "`with dropout_on(net):`."
        )
    for kind in more:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(
                f"Expected classes of further layers to turn on; got {kind!r}. Write `dropout_on(net, DropPath)`."
            )
    before = {layer: layer.training for layer in module.modules()}
    dropping = [layer for layer in before if _drops(layer, more)]
    if not dropping:
        raise ValueError(
            f"{type(module).__name__} has no dropout layer with a probability above 0, so that all passes would be the "
            "same. Expected for example `nn.Dropout(0.1)`; other layers that are random in training are named by their "
            "class: `dropout_on(net, DropPath)`. Without any, decompose the predictions of several trained modules: an "
            "ensemble."
        )
    try:
        for layer in before:
            layer.training = False
        for layer in dropping:
            layer.training = True
        yield
    finally:
        for layer, training in before.items():
            layer.training = training


def _drops(layer: nn.Module, more: tuple[type[nn.Module], ...]) -> bool:
    if isinstance(layer, more):
        return True
    if isinstance(layer, _DROPOUTS):
        return layer.p > 0.0
    if isinstance(layer, nn.TransformerEncoderLayer):  # in evaluation it takes a way around its dropout layers
        return any(_drops(inner, more) for inner in layer.children())
    return isinstance(layer, (nn.MultiheadAttention, nn.RNNBase)) and layer.dropout > 0.0


@dataclass(frozen=True)
class Decomposition:
    r"""The uncertainty of predictions, in parts.

    For a regression they are variances in the squared unit of the target [Kendall and Gal, NeurIPS 2017, equation (9)]:

    .. math:: \underbrace{\mathrm{Var}_t\, \mu_t}_\text{epistemic} + \underbrace{\mathrm{mean}_t\, \sigma_t^2}
        _\text{aleatoric} = \text{total}

    For classes they are entropies in nats: the total is that of the mean probabilities, the aleatoric part is the mean
    of the entropies, and the epistemic part is their difference, the mutual information.

    Attributes:
        mean: The mean over the samples; of classes the probabilities, in the last dimension.
        epistemic: The part on which the samples do not agree.
        aleatoric: The part that each sample calls noise.
        total: The sum of the two parts.
        samples: The number of samples.
        family: The class of the distributions.
    """

    mean: Tensor
    epistemic: Tensor
    aleatoric: Tensor
    total: Tensor
    samples: int
    family: type[Distribution]

    def distribution(self) -> Distribution:
        """Return one distribution for all samples: of classes the mixture, else the Normal of its mean and variance."""
        if self.family is Categorical:
            return Categorical(probs=self.mean)
        if self.family is Bernoulli:
            return Bernoulli(probs=self.mean)
        return Normal(self.mean, self.total.sqrt())


@overload
def decompose(samples: Iterable[Distribution]) -> Decomposition: ...
@overload
def decompose(samples: Iterable[Mapping[str, Distribution]]) -> dict[str, Decomposition]: ...
def decompose(samples: Iterable[Any]) -> Any:
    """Return the parts of the uncertainty, from the distributions that several passes or networks predict.

    Args:
        samples: The distributions of the same targets, one after the other, or dicts of them by task: what
            :meth:`UncertaintyWeighting.predictive <lightning_uncertainty.UncertaintyWeighting.predictive>` returns for
            each pass with :func:`dropout_on`, or for each network of an ensemble: ``decompose(predict(net) for net in
            nets)``. A generator is run without gradients, inside of ``dropout_on`` if its passes need that; and nothing
            of a sample is kept: memory does not grow with their number. If all are the same, it warns.

    Returns:
        A :class:`Decomposition`, or a dict of them by task.

    Raises:
        TypeError: if a sample is neither a distribution nor a dict of them.
        ValueError: if there are fewer than two samples, or they differ in tasks, family or shape.

    >>> parts = decompose(Normal(torch.tensor(mean), 2.0) for mean in (0.0, 2.0))
    >>> parts.epistemic, parts.aleatoric, parts.total
    (tensor(1.), tensor(4.), tensor(5.))
    """
    running: dict[str, _Running] = {}
    count, several = 0, False
    with torch.no_grad():
        for count, sample in enumerate(_iterated(samples), 1):
            several = isinstance(sample, Mapping)
            named = sample if several else {"": sample}
            if count == 1:
                running = {name: _Running() for name in named}
            if named.keys() != running.keys():
                raise ValueError(
                    f"Sample {count} has the tasks {listed(named)}, and the first one {listed(running)}. Expected the "
                    "same tasks in all samples: let one function predict them all."
                )
            for name, predicted in named.items():
                running[name].add(predicted)
    if count < 2 or not running:
        raise ValueError(
            f"Got {count} samples. Expected the distributions of at least two passes or networks, since what they do "
            "not agree on is the epistemic part: for example `decompose(predict(x) for _ in range(30))`."
        )
    if all(each.same for each in running.values()):
        warnings.warn(_ALL_THE_SAME.format(count), UncertaintyWarning, stacklevel=2)
    parts = {name: each.result() for name, each in running.items()}
    return parts if several else parts[""]


def _iterated(samples: Any) -> Iterable[Any]:
    if isinstance(samples, (Distribution, Mapping)) or not isinstance(samples, Iterable):
        raise TypeError(
            f"Expected the distributions of several passes or networks; got one {type(samples).__name__}. Write "
            "`decompose(predict(x) for _ in range(30))`."
        )
    return samples


class _Running:
    """The running means of one task [Welford, 1962]."""

    def __init__(self) -> None:
        self.samples, self.family = 0, Distribution
        self.mean: Any = 0.0
        self.squares: Any = 0.0
        self.noise: Any = 0.0

    def add(self, law: Any) -> None:
        kind: Any = type(law)
        if not issubclass(kind, Distribution):
            raise TypeError(
                f"Expected a distribution of each pass or network, as `predictive` returns; got {law!r:.80} of "
                f"type {kind.__name__}. For an ensemble write `decompose(predict(net) for net in nets)`, "
                'where `predict` returns for example `net.uncertainty.predictive("depth", net(x))`.'
            )
        discrete = issubclass(kind, (Categorical, Bernoulli))
        value = law.probs if discrete else law.mean
        if self.samples and (kind, value.shape) != (self.family, self.mean.shape):
            raise ValueError(
                f"Sample {self.samples + 1} is a {kind.__name__} of shape {tuple(value.shape)}, and those "
                f"before are {self.family.__name__} of shape {tuple(self.mean.shape)}. Expected predictions of the "
                "same targets: give each pass the same inputs."
            )
        self.samples, self.family = self.samples + 1, kind
        noise = _entropy(value, self.family) if discrete else law.variance
        change = value - self.mean
        self.mean = self.mean + change / self.samples
        self.squares = self.squares + change * (value - self.mean)
        self.noise = self.noise + (noise - self.noise) / self.samples

    @property
    def same(self) -> bool:
        """True if no sample differs from the others; False without any targets."""
        return self.mean.numel() > 0 and not bool(self.squares.any())

    def result(self) -> Decomposition:
        if self.family in (Categorical, Bernoulli):
            total = _entropy(self.mean, self.family)
            epistemic = (total - self.noise).clamp(min=0.0)  # below 0 by rounding only
        else:
            epistemic = self.squares / self.samples
            total = epistemic + self.noise
        return Decomposition(self.mean, epistemic, self.noise, total, self.samples, self.family)


def _entropy(probability: Tensor, family: type[Distribution]) -> Tensor:
    """Return the entropy in nats; of Categorical over the last dimension."""
    terms: Tensor = torch.special.entr(probability)
    return terms.sum(-1) if family is Categorical else terms + torch.special.entr(1.0 - probability)
