"""The size of the total: a common factor of the learned tasks, which no ``s`` sees."""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_uncertainty._arguments import suggest
from lightning_uncertainty.engine.window import Array, host_values, in_numpy, is_few
from lightning_uncertainty.tasks import Task

__all__ = ["Factors", "Scale"]


class Factors(NamedTuple):
    """What a strategy says of the tasks, fp32, each of shape (K,).

    Attributes:
        factor: The factors before the losses.
        offset: The terms that are added to the total.
        pull: The factors times the losses that go with them; 0 for tasks whose factor is not known yet, NaN for those
            whose factor is given, and next to nothing for those whose factor 1 is that of a learned one. None for
            a rule that does not say which losses these are.
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

    With Adam and its kin, ``"sum"`` is up to twice as large, as far as it keeps factors from falling below 1. Ratios
    between learned tasks and the optimum of each ``s`` stay. Learned uncertainty keeps also those to a likelihood in
    nats (``"nll"``), which ``C`` multiplies too; other strategies leave its factor at 1. Fixed tasks keep the factor
    that they were given. On the way from the plain sum the factor of a task is ``(C f_k)^t``, and each term of the sums
    over tasks counts ``t`` times: so the others follow over ``n`` steps when a task joins, however large it is.

    Args:
        kind: One of the above.
        tasks: The tasks, by name.

    Attributes:
        most: How many times as large as the plain sum ``"sum"`` may be to keep factors from falling below 1.

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
        self._none, self.most = torch.zeros_like(self.importance), 1.0

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
            begun, pull = self.learned & (now.factor > 0.0), torch.where(raw_loss > 0.0, now.factor * raw_loss, 0.0)
            given = ~begun
        else:
            begun, pull = now.pull > 0.0, now.pull
            given = pull.isnan()
        if self.kind == "sum" and in_numpy(trust):
            return self._sum_on_host(now.factor, *(each.numpy() for each in (begun, pull, given, trust))), self._none
        share = torch.where(begun, trust, self._none)  # of the way to the factors, and in what is summed over tasks
        learned = (now.factor * self._common(now, pull, share)) ** share
        return torch.where(given, now.factor, learned) * self.importance, self._none

    def _common(self, now: Factors, pull: Tensor, share: Tensor) -> Tensor:
        """Return ``C``; of no meaning as long as no task has a share."""
        if self._reference is not None:
            return torch.where(share > 0.0, 1.0 / now.factor, 1.0)[self._reference]
        if self.kind == "geometric":
            logs = torch.log((1.0 if now.start is None else now.start) / now.factor)
            return torch.exp(share.dot(torch.where(share > 0.0, logs, 0.0)) / share.sum())
        there = share > 0.0
        parts = torch.where(there, share * self.importance * pull, self._none)
        inverse = torch.where(there, now.factor, torch.inf).reciprocal()
        common = (parts.dot(inverse) / parts.sum()).nan_to_num(1.0)
        return common if self.most == 1.0 else torch.fmax(common, torch.fmin(inverse.amax(), self.most * common))

    @np.errstate(all="ignore")  # of tasks that sit out
    def _sum_on_host(self, factor: Tensor, begun: Array, pull: Array, given: Array, trust: Array) -> Tensor:
        """Work out what does not change from step to step once all trust is there, and scale the factors."""
        share = np.where(begun, trust, np.float32(0.0))
        parts = np.where(share > 0.0, share * self.importance.numpy() * pull, np.float32(0.0))
        whole = parts.sum()
        columns: Any = parts / whole if whole > 0.0 else parts, share, given, self.importance.numpy().copy()
        columns = [each.tolist() if is_few(each) else each for each in columns]
        self._on_host: tuple[Any, ...] = *columns, bool(whole > 0.0)
        return self.again(host_values(factor))

    def again(self, factor: Any) -> Tensor:
        """Return the factors that :meth:`apply` does with ``"sum"`` on a CPU, where no others have changed since.

        Args:
            factor: Those of the strategy, as ``host_values`` has them.
        """
        parts, share, given, importance, some = self._on_host
        if not is_few(factor):
            return self._again_for_many(factor)
        pairs = zip(factor, share, strict=True)
        inverse = [1.0 / (each or math.inf) if part > 0.0 else 0.0 for each, part in pairs]
        common = sum(map(operator.mul, parts, inverse)) if some else 1.0
        common = max(common, min(max(inverse), self.most * common))
        rows = zip(factor, share, given, importance, strict=True)
        scaled = array("f", [(f if g else (f * common) ** t) * a for f, t, g, a in rows])
        return torch.frombuffer(scaled, dtype=torch.float32)

    @np.errstate(all="ignore")  # of tasks that sit out
    def _again_for_many(self, factor: Array) -> Tensor:
        parts, share, given, importance, some = self._on_host
        inverse = np.where((share > 0.0) & (factor > 0.0), 1.0 / factor, np.float32(0.0))
        common = parts.dot(inverse) if some else np.float32(1.0)
        common = max(common, min(inverse.max(), np.float32(self.most) * common))
        return torch.from_numpy(np.where(given, factor, (factor * common) ** share) * importance)
