"""Peers: the same networks, weighed by scalarizers of TorchJD, through its own API."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_uncertainty._arguments import require
from lightning_uncertainty.trainer.mixin import UncertaintyMixin

__all__ = ["PEERS", "WEIGHTS", "scalarized"]

PEERS = {"torchjd_uw": "UW", "torchjd_geometric_mean": "GeometricMean"}
"""Scalarizers of TorchJD, by the name of their arm."""

WEIGHTS = {"total": 1.0}
"""The weights of such an arm: the only loss that this package sees is the total of the peer."""


class Scalarized(UncertaintyMixin):
    """A mixin, before a network, whose losses are weighed by ``self.scalarizer``; its parameters are the network's."""

    scalarizer: nn.Module

    def weigh(self, losses: Any, **options: Any) -> Tensor:
        total: Tensor = self.scalarizer(torch.stack(list(losses.values())))
        return super().weigh({"total": total}, **options)


def scalarized(net: Any, peer: str) -> Any:
    """Return a network as it is, but for a scalarizer in place of the weights of this package.

    Raises:
        MissingExtraError: without TorchJD.
    """
    require("evidence", "torchjd")
    from torchjd import scalarization

    tasks, kind = list(net.tasks), getattr(scalarization, PEERS[peer])
    net.__class__ = type(f"Scalarized{type(net).__name__}", (Scalarized, type(net)), {"__module__": __name__})
    net.tasks = {"total": "gaussian"}
    net.scalarizer = kind(len(tasks)) if kind is scalarization.UW else kind()
    return net
