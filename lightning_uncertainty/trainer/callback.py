"""The Lightning side: attach the weights to the module, step them, log them, checkpoint them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from lightning_uncertainty._arguments import suggest
from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.snapshot import Snapshot
from lightning_uncertainty.tasks import Task, parse_tasks
from lightning_uncertainty.trainer.attachment import (
    attach_weighting,
    attached_weighting,
    send_with_state_dict,
    was_given,
)
from lightning_uncertainty.trainer.loggers import metrics_for
from lightning_uncertainty.trainer.mixin import UncertaintyMixin
from lightning_uncertainty.trainer.packages import CallbackBase, callbacks_of, check_processes
from lightning_uncertainty.trainer.returned_losses import WeighedStep
from lightning_uncertainty.trainer.run_report import RunReport
from lightning_uncertainty.weighting import UncertaintyWeighting

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from typing_extensions import Unpack

    from lightning_uncertainty.weighting import WeightingOptions

__all__ = ["UncertaintyCallback"]


class UncertaintyCallback(CallbackBase):
    """Learns the weights of a multi-task loss while a Trainer trains, and logs them.

    With :class:`~lightning_uncertainty.UncertaintyMixin` it weighs what the module passes to ``self.weigh``. Without
    the mixin it weighs what ``training_step`` returns as ``{"losses": {...}}``, and sets ``"loss"``.
    A module with inner modules that weigh for themselves, as a generator and a discriminator do, takes one callback for
    each: ``UncertaintyCallback(module="generator", name="generator", log_prefix="generator")``.

    Logged on the steps on which the Trainer logs, to every logger and to ``trainer.callback_metrics`` (there also
    before each validation and at the end of each epoch), under ``log_prefix``:

    ========================  ==================================================================================
    ``/weight/<task>``        effective ``sigma^-2``; ``1 / b`` for Laplace; the weight of a fixed task
    ``/sigma/<task>``         ``sigma``, in the unit of the target for a regression; not for fixed tasks
    ``/loss/<task>``          raw loss of the last step with that task, mean over ranks and micro-batches
    ``/share/<task>``         the task's part of the weighted sum of losses, 0 to 1
    ``/loss``                 unweighted sum of the raw losses: monitor this one, the total may be negative (in MLflow,
                              which has no file beside a folder of one name, ``/loss_sum``)
    ========================  ==================================================================================

    Args:
        tasks: as in :class:`~lightning_uncertainty.UncertaintyWeighting`; by default those of the module.
        module: path of a module inside that of the Trainer, with UncertaintyMixin, whose ``self.weigh`` this callback
            serves; by default the Trainer's own. Each steps after every batch in which the Trainer counted a step; if
            its module weighed nothing since the last one, that moves nothing. For ``load_from_checkpoint`` to give its
            sigmas back, the outer module needs UncertaintyMixin too.
        log_prefix: first part of all keys.
        prog_bar: show the weights in the progress bar, as of the last logging step.
        name: part of its key in checkpoints; keep it when resuming.
        summary: print what became of each task at the end of ``fit``.
        report: write the history of the weights, a picture and a page beside the logger's files at the end of ``fit``,
            and give the picture to the loggers that take one. Without a logger nothing is written.
        **options: Options of :class:`~lightning_uncertainty.UncertaintyWeighting`, from ``lr`` to ``process_group``.

    Raises:
        ValueError: if an argument is not valid.
        TypeError: if ``tasks`` has none of the allowed forms.

    Example:
        >>> import lightning as L
        >>> trainer = L.Trainer(callbacks=[UncertaintyCallback({"depth": "laplace", "class": "softmax"})], logger=False)
        >>> [callback.state_key for callback in trainer.callbacks if isinstance(callback, UncertaintyCallback)]
        ['UncertaintyCallback(uncertainty)']
    """

    def __init__(
        self,
        tasks: Mapping[str, str | float | dict[str, Any] | Task] | list[Task] | None = None,
        *,
        module: str = "",
        log_prefix: str = "uncertainty",
        prog_bar: bool = False,
        name: str = "uncertainty",
        summary: bool = True,
        report: bool = True,
        **options: Unpack[WeightingOptions],
    ) -> None:
        super().__init__()
        if not (log_prefix and name):
            raise ValueError(f"log_prefix and name must not be empty; got {log_prefix!r} and {name!r}.")
        self.tasks = None if tasks is None else parse_tasks(tasks)
        self.module, self.log_prefix, self.prog_bar, self.name = module, log_prefix, prog_bar, name
        self._options = options
        # The tasks may come with the module; what is wrong with the options is better said now.
        UncertaintyWeighting(self.tasks or {"any": 1.0}, **options)
        self._weighting: UncertaintyWeighting | None = None
        self._notices = Notices()
        self._trainer: Trainer | None = None  # while it trains
        self._stepped_at = self._batch_began_at = 0  # values of trainer.global_step
        self._wrapped: tuple[LightningModule, Any] | None = None
        self._report = RunReport(log_prefix, summary=summary, report=report)

    @property
    def weighting(self) -> UncertaintyWeighting:
        """The engine, once a Trainer has attached it.

        Raises:
            RuntimeError: before that.
        """
        if self._weighting is None:
            raise RuntimeError(
                "UncertaintyCallback has no weights yet: a Trainer attaches them when it starts. After a strategy that "
                "spawns or forks its processes they are in `module.uncertainty`, if the module has UncertaintyMixin, "
                "and in `trainer.callback_metrics`."
            )
        return self._weighting

    @property
    def history(self) -> History:
        """The weights and losses of this run so far, those before a resume included."""
        return self._report.history

    @property
    def summary(self) -> bool:
        """Whether it prints what became of each task at the end of ``fit``; can be set until then."""
        return self._report.summary

    @summary.setter
    def summary(self, wanted: bool) -> None:
        self._report.summary = wanted

    # ------------------------------------------------------------------------------------------------ attaching

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the weights, in every stage, on the device of the strategy.

        Raises:
            ValueError: if another of these callbacks has the same module or prefix, the module is not there or lacks
                the mixin, there are no tasks, or the processes of the strategy cannot agree.
        """
        module = self._module_in(pl_module)
        if stage == "fit":
            given = attached_weighting(module) if was_given(module) else None
            check_processes(trainer, pl_module, given.process_group if given else self._options.get("process_group"))
        self._check_apart(trainer, pl_module)
        before, self._weighting = self._weighting, self._weighting_for(module)
        if self._weighting is not before:
            self._report.begin()
        attach_weighting(module, self._weighting)
        # A copy on the strategy's device: spawned ranks would share CPU tensors with the process that started them.
        self._weighting.eval().to(trainer.strategy.root_device)
        if stage == "fit" and not isinstance(module, UncertaintyMixin):
            self._weigh_returned_losses(module)

    def _module_in(self, pl_module: LightningModule) -> Any:
        """The module whose losses are weighed."""
        modules = dict(pl_module.named_modules(remove_duplicate=False))  # one module may have several paths
        found = modules.get(self.module)
        if found is None:
            raise ValueError(
                f"UncertaintyCallback {self.name!r} has no module {self.module!r} to weigh for in "
                f"{type(pl_module).__name__}. {suggest(self.module, filter(None, modules))}"
            )
        if self.module and not isinstance(found, UncertaintyMixin):
            raise ValueError(
                f"UncertaintyCallback {self.name!r} weighs for the module {self.module!r}, whose class "
                f"{type(found).__name__} lacks `self.weigh`: derive it from UncertaintyMixin."
            )
        return found

    def _check_apart(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for other in callbacks_of(trainer):
            if not isinstance(other, UncertaintyCallback) or other is self:
                continue
            names = f"{self.name!r} and {other.name!r}"
            if other._module_in(pl_module) is self._module_in(pl_module):
                raise ValueError(
                    f"The UncertaintyCallbacks {names} of this Trainer would both weigh the losses of the same module. "
                    'Name all tasks in one of them. For inner modules, say which: `UncertaintyCallback(module="...")`. '
                    "For several totals of one module, give each its own UncertaintyWeighting and call its `step()`."
                )
            if other.log_prefix == self.log_prefix:
                raise ValueError(
                    f"The UncertaintyCallbacks {names} of this Trainer would log under the same keys: give one of them "
                    f"another log_prefix than {self.log_prefix!r}."
                )

    def _weighting_for(self, module: Any) -> UncertaintyWeighting:
        """The engine that the user gave to the module; or that of the last fit; or a new one with its state."""
        present = attached_weighting(module)
        if present is not None and was_given(module):
            if self.tasks is not None:
                raise ValueError(
                    f"{type(module).__name__} was given an UncertaintyWeighting, and UncertaintyCallback was given "
                    "tasks for another. Drop one of the two."
                )
            return present
        if present is not None and present is self._weighting:
            return present
        weighting = UncertaintyWeighting(self._tasks_for(module), **self._options)
        if present is not None:
            weighting.load_state_dict(present.state_dict())
        return weighting

    def _tasks_for(self, module: Any) -> Any:
        tasks = self.tasks if self.tasks is not None else getattr(module, "tasks", None)
        if tasks is None:
            raise ValueError(
                f"Neither UncertaintyCallback nor {type(module).__name__} says which tasks there are. "
                'Write `UncertaintyCallback({"depth": "laplace"})`, or `tasks = {"depth": "laplace"}` in the module. '
                '(Tasks of a module inside it count if it has a callback: `UncertaintyCallback(module="path")`.)'
            )
        return tasks

    def _weigh_returned_losses(self, pl_module: LightningModule) -> None:
        """Wrap ``training_step`` of a module without the mixin, until teardown."""
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(pl_module).__name__} optimises manually, so the returned losses come too late. Derive it from "
                "UncertaintyMixin and call `self.weigh(losses)` before `self.manual_backward(...)`."
            )
        self._wrapped = pl_module, vars(pl_module).get("training_step")
        object.__setattr__(pl_module, "training_step", WeighedStep(pl_module.training_step, self.weighting))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give ``training_step`` back as it was, and follow the module to the CPU."""
        self._detach()
        # A process that was spawned or forked ends now; of all it holds, only such a launcher brings something home.
        if stage == "fit" and hasattr(trainer.strategy.launcher, "get_extra_results"):
            send_with_state_dict(pl_module, self.module, self.weighting)

    def _detach(self) -> None:
        """Leave nothing behind: the weights then work as without a Trainer."""
        self._trainer = None
        if self._weighting is not None:
            self._weighting.train().to("cpu")
        if self._wrapped is None:
            return
        (pl_module, before), self._wrapped = self._wrapped, None
        if before is None:
            object.__delattr__(pl_module, "training_step")
        else:  # LightningCLI and torch.compile set it on the instance too
            object.__setattr__(pl_module, "training_step", before)

    # ------------------------------------------------------------------------------------------------ stepping

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting from where training starts, and make the keys known to those who monitor them."""
        self._trainer = trainer
        self._stepped_at = trainer.global_step
        self.weighting.discard()
        self._publish(trainer, self.weighting.snapshot())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Losses count from here..."""
        self._batch_began_at = trainer.global_step
        self.weighting.train()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """...to here; learn if an optimizer has stepped, log if the Trainer logs."""
        self.weighting.eval()
        self._step_if_due(trainer)
        if self._should_log(trainer, pl_module, stepped=trainer.global_step != self._batch_began_at):
            self._log(trainer, self._logged_step(trainer, pl_module))
        elif trainer.is_last_batch:
            self._report.record(self._publish_current(trainer))
        elif self.weighting.steps > 0 and not self._report.begun:
            self._report.record_later(self.weighting.snapshot_later())

    def _step_if_due(self, trainer: Trainer) -> None:
        """Learn if the network has learned.

        Right for accumulation, for several optimizers under manual optimisation, and for DeepSpeed, where
        on_before_optimizer_step is called for every micro-batch.
        """
        if trainer.global_step != self._stepped_at:
            self._stepped_at = trainer.global_step
            self.weighting.step()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Whoever decides after a validation, decides on current weights."""
        self._publish_current(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish, and say so if nothing was learned from."""
        snapshot = self._publish_current(trainer)
        if not any(task.seen for task in snapshot.tasks.values()):
            self._notices.warn("nothing learned", _nothing_learned(snapshot, self.weighting.waiting))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last point of the history."""
        self._report.end(self.weighting.snapshot())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say and write what became of the tasks; progress bars are closed by now."""
        self._report.deliver(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As after training: Lightning calls no teardown then. A checkpoint of this moment is saved after it."""
        with contextlib.suppress(Exception):  # what the user has to see is what went wrong first
            self.catch_up()
            if isinstance(exception, KeyboardInterrupt) and self._trainer is not None:
                # Who interrupts a run wants to know how it stands.
                self._report.end(self.weighting.snapshot())
                self._report.deliver(trainer)
        self._detach()

    # ------------------------------------------------------------------------------------------------ logging

    def _should_log(self, trainer: Trainer, pl_module: LightningModule, stepped: bool) -> bool:
        """Whether Lightning logs ``training_step``'s own metrics for this batch."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it in a connector
        if not every or (pl_module.automatic_optimization and not stepped):
            return False
        return (self._logged_step(trainer, pl_module) + 1) % every == 0 or trainer.should_stop

    def _logged_step(self, trainer: Trainer, pl_module: LightningModule) -> int:
        """The step under which Lightning logs: optimizer steps, or batches where the user steps by hand."""
        if pl_module.automatic_optimization:
            return trainer.global_step - 1
        return trainer.fit_loop.epoch_loop.total_batch_idx

    def _log(self, trainer: Trainer, step: int) -> None:
        # Not self.log: it costs 0.3 ms per key and step whether it logs or not, and copies each value to the device.
        snapshot = self.weighting.snapshot()
        self._report.record(snapshot)
        metrics = snapshot.metrics(self.log_prefix)
        for logger in trainer.loggers:
            logger.log_metrics(metrics_for(logger, metrics, self.log_prefix), step=step)
        self._publish(trainer, snapshot)

    def _publish_current(self, trainer: Trainer) -> Snapshot:
        snapshot = self.weighting.snapshot()
        self._publish(trainer, snapshot)
        return snapshot

    def _publish(self, trainer: Trainer, snapshot: Snapshot) -> None:
        """For ModelCheckpoint and EarlyStopping, which look into ``trainer.callback_metrics``."""
        metrics = {key: torch.tensor(value) for key, value in snapshot.metrics(self.log_prefix).items()}
        trainer.callback_metrics.update(metrics)
        trainer.logged_metrics.update(metrics)
        if self.prog_bar:
            prefix = f"{self.module}/" if self.module else ""
            trainer.progress_bar_metrics.update(
                {f"{prefix}weight/{name}": float(f"{task.precision:.3g}") for name, task in snapshot.tasks.items()}
            )

    # ------------------------------------------------------------------------------------------------ checkpoints

    @property
    def state_key(self) -> str:
        """Stable, and unique per ``name``; the tasks are not part of it, they are matched by name on loading."""
        return f"UncertaintyCallback({self.name})"

    def state_dict(self) -> dict[str, Any]:
        """The state of the engine, as far as the network is: also for a callback that saves before ours has run."""
        self.catch_up()
        if self._weighting is None:
            return {}
        return {**self._weighting.state_dict(), "history": self.history.state_dict()}

    def catch_up(self) -> None:
        """Step now if only the network has: something is saved before our turn at the end of a batch."""
        # Under manual optimisation an optimizer may have stepped while the batch still goes on.
        if self._trainer is not None and self._trainer.lightning_module.automatic_optimization:
            self._step_if_due(self._trainer)
            self._record_if_due(self._trainer)

    def _record_if_due(self, trainer: Trainer) -> None:
        stepped = trainer.global_step != self._batch_began_at
        due = self._should_log(trainer, trainer.lightning_module, stepped) or trainer.is_last_batch
        if stepped and (due or not self._report.begun) and self.weighting.steps > self.history.newest:
            self._report.record(self.weighting.snapshot())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: if its entry is not usable.
        """
        if state_dict:
            self.weighting.load_state_dict(state_dict)
            self._report.load(state_dict.get("history"))


# At run time the options are untyped: jsonargparse then follows them to the signature of the engine, which also has
# their defaults. What it makes of a TypedDict has none (4.53), or cannot be parsed (4.39).
UncertaintyCallback.__init__.__annotations__["options"] = Any


def _nothing_learned(snapshot: Snapshot, waiting: bool) -> str:
    if waiting:
        return (
            "Losses were weighed in this epoch, but as far as the Trainer knows no optimizer has stepped, so sigma "
            "does not learn. Under manual optimisation step the optimizers of `self.optimizers()`, which the Trainer "
            "counts, or call `self.uncertainty.step()` after each of your own steps."
        )
    return (
        f"No loss of {', '.join(map(repr, snapshot.tasks))} reached UncertaintyCallback in this epoch. "
        "Does training_step return `self.weigh(losses)`?"
    )
