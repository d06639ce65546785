"""What torch.compile makes of losses by name: one graph per set of names, and a word before it makes no more."""

from __future__ import annotations

from typing import Any

import torch

from lightning_uncertainty.notices import Notices

__all__ = ["CompiledKeys"]


class CompiledKeys:
    """Counts what torch.compile has made a graph for: sets of names, each once in training and once in evaluation.

    Beyond its limit it makes no more, and silently runs eagerly, or refuses if ``fullgraph=True``.

    Args:
        notices: where the warning goes.
    """

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._seen: set[tuple[frozenset[str], bool]] = set()

    # Called while the graph is made, with constants; the graph itself does not contain it.
    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def note(self, names: tuple[str, ...], recording: bool) -> None:
        """A graph is being made for ``names``; warn at the last but one that there may be."""
        self._seen.add((frozenset(names), recording))
        limit = _recompile_limit()
        if len(self._seen) >= max(limit - 1, 2):
            self._notices.warn(
                "compiled keys",
                "torch.compile makes one graph for each set of tasks among the losses, in training and in evaluation. "
                f"It has made {len(self._seen)}, and after {limit} it falls back to eager execution. Pass all tasks in "
                "every batch, with NaN as the loss of those without labels: one graph serves them all. Or raise "
                "`torch._dynamo.config.recompile_limit`.",
            )


def _recompile_limit() -> int:
    config: Any = torch._dynamo.config
    # Called cache_size_limit before torch 2.7.
    return int(getattr(config, "recompile_limit", None) or config.cache_size_limit)
