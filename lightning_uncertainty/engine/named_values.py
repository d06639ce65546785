"""The values of the tasks for people: dicts by name, to be read and to be set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_uncertainty.engine.state import EngineState, HostFlags, rows_later
from lightning_uncertainty.findings import findings_of
from lightning_uncertainty.snapshot import Score, Snapshot, TaskSnapshot
from lightning_uncertainty.tasks import Task

if TYPE_CHECKING:
    from lightning_uncertainty._warnings import Notices
    from lightning_uncertainty.engine.held_out import HeldOut
    from lightning_uncertainty.engine.losses import RawLosses
    from lightning_uncertainty.strategies import Strategy

__all__ = ["NamedValues"]


class NamedValues:
    """The values of an :class:`~lightning_uncertainty.UncertaintyWeighting` by task; each costs a host transfer."""

    tasks: dict[str, Task]
    strategy: Strategy
    steps: int
    _scores: dict[str, dict[str, Score]]
    _choose: Callable[[], None]
    held_out: HeldOut
    _state: EngineState
    _raw_losses: RawLosses
    _factor: Tensor
    _offset: Tensor
    _notices: Notices
    _trouble: HostFlags

    def check(self, snapshot: Snapshot | None = None) -> None:
        """Warn of what is wrong now, each finding once. The callback does so when it logs, ``step`` every 100 steps."""
        found = findings_of(self.snapshot() if snapshot is None else snapshot)
        self._notices.warn_of_tasks((each.finding.name, each.task or "", str(each)) for each in found)

    def _look_for_trouble(self) -> None:
        """Warn without waiting for the device: a loop that reads nothing should hear of trouble too."""
        state, columns = self._state, self.strategy.columns()
        bounds = [columns[name] > 0 for name in ("at_lower", "at_upper", "sat_out") if name in columns]
        if self._trouble.poll(
            torch.cat([state.nonfinite > 0, state.dead > 0, state.lowest_loss < 0.0, state.cut, *bounds])
        ):
            self.check()

    @property
    def log_var(self) -> Tensor:
        """A copy of ``s``, fp32, of shape (K,), in the order of ``task_names``."""
        return self.strategy.log_var.clone()

    def snapshot(self) -> Snapshot:
        """Return plain numbers of all tasks as they are now. Costs one transfer to the host."""
        return self.snapshot_later()()

    @torch.no_grad()
    def snapshot_later(self) -> Callable[[], Snapshot]:
        """Return a function that gives the snapshot of now: the transfer to the host waits until it is called."""
        now = {"factor": self._factor, "offset": self._offset}
        columns = {"log_var": self.strategy.log_var, "precision": self.strategy.factor, **self.strategy.columns()}
        columns["val_log_var"] = self.held_out.log_var
        rows = rows_later({**self._state.columns(), **columns, **now}, self.tasks)
        strategy, steps, tasks, classes = self.strategy, self.steps, self.tasks, self._raw_losses.classes
        scored = [self._scores.get(data, {}) for data in ("validation", "test")]

        def read() -> Snapshot:
            numbers = {name: {"classes": classes.get(name, 0), **row} for name, row in rows().items()}
            of_tasks = {}
            for name, row in numbers.items():
                scores = (found.get(name) for found in scored)
                of_tasks[name] = TaskSnapshot.of(tasks[name], strategy.learned[name], row, *scores)
            return Snapshot(steps, of_tasks, strategy.name)

        return read

    def _repr_html_(self) -> str:
        """Return a table of the tasks as they are now, for a notebook."""
        from lightning_uncertainty.reporting.summary import weights_html  # not needed to train

        return weights_html(self.snapshot())

    @torch.inference_mode(False)
    def _assign(self, log_vars: Mapping[str, float]) -> None:
        self.strategy.assign(log_vars)
        # Who sets weights means them, beside those that are there already. A task without a loss so far stays guarded.
        state, started = self._state, self.strategy.state.tensors()["started"]
        chosen = torch.tensor([name in log_vars for name in self.tasks], device=started.device)
        state.held.masked_fill_(chosen, False)
        state.trust.masked_fill_(started & ~state.held, 1.0)
        self._choose()

    @property
    def log_vars(self) -> dict[str, float]:
        """``s = log sigma^2`` by name, 0 before the first loss; without the fixed tasks. Can be assigned, some or all.

        Raises:
            ValueError: on assigning to an unknown or fixed task, or a value outside its bounds.
        """
        tasks = self.snapshot().tasks.items()
        return {name: task.log_var for name, task in tasks if task.sigma is not None}

    @log_vars.setter
    def log_vars(self, values: Mapping[str, float]) -> None:
        self._assign(values)

    @property
    def sigmas(self) -> dict[str, float]:
        """``sigma`` by name, in the unit of the target for a regression; without the fixed tasks. Can be assigned."""
        tasks = self.snapshot().tasks.items()
        return {name: task.sigma for name, task in tasks if task.sigma is not None}

    @sigmas.setter
    def sigmas(self, values: Mapping[str, float]) -> None:
        self._assign({name: 2.0 * _log("sigma", name, value) for name, value in values.items()})

    @property
    def sigmas_val(self) -> dict[str, float]:
        """``sigma`` on held-out data by name, of the tasks that the last validation has told it of."""
        tasks = self.snapshot().tasks.items()
        return {name: task.sigma_val for name, task in tasks if task.sigma_val is not None}

    @property
    def weights(self) -> dict[str, float]:
        """Effective ``sigma^-2`` by name (Laplace: ``1 / b``; fixed: the weight). Can be assigned where learned."""
        return {name: task.precision for name, task in self.snapshot().tasks.items()}

    @weights.setter
    def weights(self, values: Mapping[str, float]) -> None:
        rates = {name: task.likelihood.precision_rate or 1.0 for name, task in self.tasks.items()}
        self._assign({n: -_log("weight", n, value) / rates.get(n, 1.0) for n, value in values.items()})

    def fixed_weights(self) -> dict[str, float]:
        """Return the factors as they are now, to be used as ``tasks`` of a run that learns none.

        For an exact softmax, which has no such factor, it is that of its approximation, equation (6).

        >>> from lightning_uncertainty import UncertaintyWeighting
        >>> weighting = UncertaintyWeighting({"depth": "gaussian"}, init=0.0, scale=None)
        >>> UncertaintyWeighting(weighting.fixed_weights()).weights
        {'depth': 0.5}
        """
        tasks = self.snapshot().tasks.items()
        return {n: t.precision if self.tasks[n].likelihood.tempered else t.factor for n, t in tasks}


def _log(what: str, name: str, value: float) -> float:
    if not value > 0.0:
        raise ValueError(f"The {what} of task {name!r} must be positive; got {value}.")
    return math.log(value)
