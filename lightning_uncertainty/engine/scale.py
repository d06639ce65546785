"""The size of the total: a common factor of the learned tasks, which no ``s`` sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_uncertainty._arguments import suggest
from lightning_uncertainty.likelihoods import NLL
from lightning_uncertainty.tasks import Task

__all__ = ["Factors", "Scale"]


class Factors(NamedTuple):
    """What a strategy says of the tasks, fp32, each of shape (K,).

    Attributes:
        factor: The factors before the losses.
        offset: The terms that are added to the total.
        pull: The factors times the losses that go with them; 0 for tasks whose factor is not known yet, NaN for those
            whose factor is given. None for a rule that does not say which losses these are.
        start: The factors that the tasks started with; None for 1.
    """

    factor: Tensor
    offset: Tensor
    pull: Tensor | None = None
    start: Tensor | None = None


class Scale:
    r"""The importance ``a_k`` of the tasks, and the common factor ``C`` of those that learn.

    With factors ``f_k`` and the losses ``m_k`` that go with them (for learned uncertainty those whose optimum is the
    present ``s_k``, for other strategies those of the last step, or of the call itself if the factors follow from it),
    over the learned tasks that have come so far:

    ===============  =======================================================  ====================================
    ``"sum"``        ``C = sum a_k m_k / sum a_k f_k m_k``                    the total is as large as the plain sum
    ``"geometric"``  ``C = exp(mean log f_k(start) - mean log f_k)``          the product of the factors stays
    a task           ``C = 1 / f_task``                                       that task has the factor ``a_task``
    None             ``C = 1``                                                the total of the article
    ===============  =======================================================  ====================================

    Ratios between learned tasks and the optimum of each ``s`` stay, also to tasks whose loss is a likelihood in nats
    (``"nll"``), which ``C`` multiplies too; fixed tasks keep the factor that they were given.

    Args:
        kind: One of the above.
        tasks: The tasks, by name.

    Raises:
        ValueError: if ``kind`` is none of these, or a fixed task.
    """

    def __init__(self, kind: str | None, tasks: Mapping[str, Task]) -> None:
        learned = [name for name, task in tasks.items() if task.likelihood.learned]
        if kind not in (None, "sum", "geometric", *learned):
            raise ValueError(
                f'scale must be "sum", "geometric", None or the name of a learned task; got {kind!r}. '
                + suggest(kind, ["sum", "geometric", *learned])
            )
        self.kind = kind
        self._reference = list(tasks).index(kind) if kind in learned and kind not in ("sum", "geometric") else None
        values = [task.importance for task in tasks.values()]
        self.importance = torch.tensor(values, dtype=torch.float32)
        self.plain = kind is None and all(value == 1.0 for value in values)
        self.learned = torch.tensor([task.likelihood.learned for task in tasks.values()])
        self._in_nats = torch.tensor([task.likelihood == NLL for task in tasks.values()])
        self._one, self._none = torch.ones((), dtype=torch.float32), torch.zeros_like(self.importance)

    def apply(self, now: Factors, trust: Tensor, raw_loss: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors and offsets with importance and scale in them.

        A scaled total has no regularisers: they have no gradient, and its value is then that of a plain sum.

        Args:
            now: What the strategy says.
            trust: The power of the factors in a scaled total, of shape (K,); 0 for those of the plain sum.
            raw_loss: The losses that go with factors whose rule does not say, of shape (K,); NaN where unknown.
        """
        if self.plain:
            return now.factor, now.offset
        if self.kind is None:
            return now.factor * self.importance, now.offset * self.importance
        if now.pull is None:  # a factor of 0 is that of a task that sits out
            begun, others = self.learned & (now.factor > 0.0), now.factor
            pull = torch.where(raw_loss > 0.0, now.factor * raw_loss, 0.0)
        else:
            begun, pull = now.pull > 0.0, now.pull
            others = torch.where(pull.isnan(), now.factor, self._one)
        factor = torch.where(begun, now.factor**trust, others)
        begun = begun & (trust > 0.0)  # else it has the factor 1 of the plain sum
        common = torch.where(begun | self._in_nats, self._common(now, pull, factor, begun, trust), self._one)
        return factor * common * self.importance, self._none

    def _common(self, now: Factors, pull: Tensor, factor: Tensor, begun: Tensor, trust: Tensor) -> Tensor:
        """Return ``C``; 1 as long as it is not known."""
        if self._reference is not None:
            return torch.where(begun, 1.0 / factor, 1.0)[self._reference]
        if self.kind == "geometric":
            logs = -torch.log(factor) if now.start is None else trust * torch.log(now.start) - torch.log(factor)
            return torch.exp(torch.where(begun, logs, 0.0).sum() / begun.sum().clamp(min=1))
        plain = torch.where(begun, self.importance * pull / now.factor, 0.0)
        return (plain.sum() / plain.dot(factor)).nan_to_num(1.0)
