"""The losses of validations: their means over all batches and ranks, and the noise that they tell of."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.engine.state import EngineState, move_tensors, newest
from lightning_uncertainty.engine.window import Call, exchange, world_size
from lightning_uncertainty.likelihoods import NLL, LikelihoodVector
from lightning_uncertainty.tasks import Task

__all__ = ["HeldOut"]

_NOT_FINITE = (
    "Task {!r}: {:,.0f} losses of a validation are NaN or infinite. Expected finite ones, or NaN where some batches "
    "have no labels. They are left out of sigma_val and of val_relative_loss, which look too good without them. Look "
    "at the predictions and targets of the validation."
)


class HeldOut:
    """Sums up what a validation weighs, and keeps the closed-form optimum of ``s`` at the mean. The callback calls it.

    A network that is fitted to few data has a training residual below the noise. Its validation residual has not.

    Args:
        state: The state of the engine, of which it changes ``val_loss``.
        tasks: The tasks, in their order.
        notices: What was told already.
        group: The processes to average over.

    Attributes:
        log_var: The optimum of ``s`` at the mean loss of the last validation with the task, that of the likelihood
            whatever the regulariser; fp32, of shape (K,), NaN before it. Where the loss alone does not tell: for
            ``"nll"`` what is added to the log-variance of a head, for an exact softmax that of the best temperature, if
            predictions were scored.
        scored: True if a prediction was scored since the begin; after the end, on any rank.
    """

    def __init__(
        self, state: EngineState, tasks: Iterable[Task], notices: Notices, group: dist.ProcessGroup | None
    ) -> None:
        self._state, self._notices, self._group = state, notices, group
        tasks = list(tasks)
        self._names = [task.name for task in tasks]
        self._likelihoods = LikelihoodVector([task.likelihood for task in tasks])
        shifted = (task.likelihood.tempered or (task.likelihood == NLL and task.head != "softmax") for task in tasks)
        self._shifted = torch.tensor([*shifted])
        self.restored()

    @torch.inference_mode(False)
    def restored(self) -> None:
        """Go on from a loaded state."""
        self._sums: Tensor | None = None  # over the calls of a validation or test
        self._counted = self._weighed = self.scored = False
        self.derive()

    def derive(self) -> None:
        """Derive the log-variances from the state."""
        optimum = self._likelihoods.optimum(self._state.val_loss)
        shift = self._state.val_shift
        optimum = torch.where(self._shifted, torch.where(shift == 0.0, torch.nan, shift), optimum)
        self.log_var = torch.where(optimum.isfinite(), optimum, torch.nan)

    @torch.inference_mode(False)  # for a validation step that leaves the inference mode for gradients
    def begin(self, *, counted: bool = True) -> None:
        """Begin to sum up what is weighed; unless it is ``counted``, as in a test, only learn what others scored."""
        self._sums = self._state.raw_loss.new_zeros(6, len(self._state.raw_loss))
        self._counted, self._weighed, self.scored = counted, False, False

    def add(self, call: Call) -> None:
        """Count a call that is not trained on, if a validation has begun."""
        if self._sums is not None and self._counted:
            sums = call.sums()
            sums[2] = call.raw_loss.isinf() & call.refused  # in place of the slopes, which only training has
            self._sums[:5] += sums
            self._weighed = True

    @torch.inference_mode(False)
    def end(self) -> bool:
        """Take the means of a validation over; return True if anything was weighed, on any rank.

        Costs a transfer to the host, and with several processes an all-reduce: of all of them, also of one that has
        weighed nothing. A single process that has weighed nothing pays nothing.
        """
        sums, self._sums = self._sums, None
        if sums is None or (world_size(self._group) == 1 and not self._weighed):
            return False
        sums[5] = float(self.scored)
        (means,) = exchange(sums.unsqueeze(0), self._group)  # in place: the sums are now those over all ranks
        self.scored = means.dropped is not None and bool(means.dropped.any())
        if not means.used:
            return False
        rows = zip(self._names, *sums[1:4].tolist(), strict=True)
        self._notices.warn_of_tasks(
            ("validation not finite", name, _NOT_FINITE.format(name, refused))
            for name, calls, infinite, refused in rows
            if infinite or (refused and not calls)
        )
        self._state.val_loss, _ = newest(means, self._state.val_loss)
        self.derive()
        return True

    def to(self, device: torch.device) -> None:
        """Move all tensors to ``device``, as copies."""
        for holder in (self, self._likelihoods):
            move_tensors(holder, device)
