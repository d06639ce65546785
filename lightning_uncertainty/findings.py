"""What a look at the weights gives reason to say."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_uncertainty.snapshot import TaskSnapshot

__all__ = ["remarks"]


def remarks(name: str, task: TaskSnapshot) -> Iterator[tuple[str, str]]:
    """Subject and sentence of each remark on a task.

    Args:
        name: of the task.
        task: as it is now.
    """
    if task.nonfinite:
        yield (
            f"nonfinite {name}",
            f"The loss of task {name!r} was NaN or infinite in {task.nonfinite} calls so far; the task sat them out. "
            "If labels were missing, leave the key out of the losses; if it diverges, find out where with "
            'nonfinite="raise".',
        )
    if task.lowest_loss < 0.0 and task.sigma is not None and task.likelihood != "softmax_exact":
        yield (
            f"negative {name}",
            f"The loss of task {name!r} was negative (mean of a step: {task.lowest_loss:.3g}), which the "
            f"{task.likelihood} likelihood does not allow for: its weight then only grows. If the loss is already a "
            "log-likelihood, give "
            f"it a fixed weight: tasks={{{name!r}: 1.0}}.",
        )
    if task.cut:
        yield (
            f"cut {name}",
            f"The loss of task {name!r} is in fp16, and its weight was beyond 65504, the largest number of fp16, so "
            "that its gradient was cut there. Compute that loss in single precision, from `.float()` of what goes into "
            "it.",
        )
    if task.at_bound and task.started:
        yield (
            f"bound {name}",
            f"The log-variance of task {name!r} is held by its {task.at_bound} bound ({task.log_var:.3g}), so its "
            "weight no longer follows its loss. That is right for a loss that goes to zero; else set "
            "`min_variance_ratio` or `bounds`.",
        )
