"""The callback: it attaches the weights to the module, steps them, logs them and checkpoints them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.reporting.run_history import RunHistory
from lightning_uncertainty.snapshot import Snapshot, by_key, score_metrics
from lightning_uncertainty.strategies import Strategy
from lightning_uncertainty.tasks import Task, parse_tasks
from lightning_uncertainty.trainer import attachment, packages
from lightning_uncertainty.trainer.returned_losses import give_step_back, weigh_returned_losses
from lightning_uncertainty.trainer.run_report import RunReport
from lightning_uncertainty.trainer.watched_losses import LossSource
from lightning_uncertainty.weighting import UncertaintyWeighting

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from typing_extensions import Unpack

    from lightning_uncertainty.weighting import WeightingOptions

__all__ = ["UncertaintyCallback"]


class UncertaintyCallback(packages.CallbackBase):
    """A callback that learns the weights of a multi-task loss while a Trainer trains, and logs them.

    With :class:`~lightning_uncertainty.UncertaintyMixin` it weighs what the module passes to ``self.weigh``; without it
    what ``training_step`` returns as ``{"losses": {...}}``, and sets ``"loss"``. Losses inside the code of a library
    are named by ``losses_from``: its ``training_step`` runs as it is, and the loss that it returns is replaced.

    A module with inner modules that weigh for themselves, as a generator and a discriminator do, takes one callback for
    each: ``UncertaintyCallback(module="generator")``.

    Logged on the steps on which the Trainer logs, to every logger and to ``trainer.callback_metrics`` (there also
    before each validation and at the end of each epoch), under ``log_prefix``:

    ========================  ==================================================================================
    ``/weight/<task>``        effective ``sigma^-2``; ``1 / b`` for Laplace; the weight of a fixed task
    ``/sigma/<task>``         ``sigma``, in the unit of the target for a regression; not for fixed tasks
    ``/loss/<task>``          raw loss of the last step with that task, mean over ranks and micro-batches
    ``/share/<task>``         the task's part of the weighted sum of losses, 0 to 1
    ``/relative_loss``        what to monitor: the geometric mean of the losses of the epoch, each as a part of that at
                              its start, see :attr:`~lightning_uncertainty.Snapshot.relative_loss`
    ``/sigma_val/<task>``     ``sigma`` on held-out data: the optimum of the mean of the losses that validation_step
                              passes to ``weigh``, over all its batches, loaders and ranks; logged at the end of each.
                              Of an ``"nll"`` task what the noise of its head has to be multiplied by, from ``score``
    ``/val_nll/<task>`` ...   scores of the predictions that validation_step gives to ``score``; ``/test_nll/<task>``
                              of those of test_step. Of a regression also ``mean_squared_z``, ``crps`` and
                              ``coverage_90`` (50, 80, 95), of a classification ``ece`` and the best ``temperature``
    ``/val_relative_loss``    the same of the losses that validation_step passes to ``weigh``, as parts of those in the
                              first validation; logged at the end of each
    ``/loss_sum``             unweighted sum of the raw losses
    ``/trust``                the part of the way from the plain sum to the learned weights, 0 to 1
    ========================  ==================================================================================

    For ``<task>`` stands its key, as ``lightning_uncertainty.tasks.metric_keys`` has it: ``mu_D`` for ``"mu (D)"``.
    Of more than 20 tasks, ``min``, ``p10``, ``median``, ``p90`` and ``max`` stand there, the quantiles over the tasks.
    The history has the values of each.

    Args:
        tasks: Tasks as in :class:`~lightning_uncertainty.UncertaintyWeighting`; by default those of the module.
        losses_from: Path of the submodule or method whose calls in ``training_step`` make the losses, for example
            ``"predictor.criterion"``; or one path for each task, by name. ``"log"`` takes what is logged under the
            names of tasks. By default ``"training_step"``: what it returns. In the loss that it returns, the weighted
            total takes the place of what was seen there, and what it adds to that stays. Validation stays as it is.
        split: Function ``split(module, output, *args, **kwargs)`` of such a call, that returns losses by name, or a
            dict of the arguments of ``weigh``. Without it the output has to be such, beside other entries.
        start_from: Sigmas with which a new run starts: the path of a checkpoint, what it holds, a callback or engine of
            another run, or its ``state_dict()``. Tasks are matched by name. Nothing else is taken over; resuming with
            ``ckpt_path`` wins.
        module: Path of a module inside that of the Trainer, with UncertaintyMixin, whose ``self.weigh`` this callback
            serves; by default the Trainer's own. It steps after every batch in which the Trainer counted a step, which
            moves nothing if its module weighed nothing. For ``load_from_checkpoint`` to give its sigmas back, the outer
            module needs UncertaintyMixin too.
        log_prefix: First part of all keys; by default the path of the module, ``"uncertainty"`` for the Trainer's own.
        prog_bar: True shows the weights in the progress bar, as of the last logging step.
        name: Name of its entry in checkpoints, to be kept when resuming; by default as that of ``log_prefix``.
        summary: True prints what became of each task at the end of ``fit``; can be set until then.
        report: True writes the history of the weights beside the logger's files, at the end of each epoch and at each
            validation, and at the end of ``fit`` a picture and a page, and gives the picture to the loggers that take
            one. Without a logger nothing is written.
        **options: Options of :class:`~lightning_uncertainty.UncertaintyWeighting`, from ``lr`` to ``process_group``.

    Raises:
        ValueError, TypeError: If an argument is not valid.

    Example:
        >>> import lightning as L
        >>> trainer = L.Trainer(callbacks=[UncertaintyCallback({"depth": "laplace", "class": "softmax"})], logger=False)
        >>> [callback.state_key for callback in trainer.callbacks if isinstance(callback, UncertaintyCallback)]
        ['UncertaintyCallback(uncertainty)']
    """

    def __init__(
        self,
        tasks: Mapping[str, str | float | dict[str, Any] | Task] | list[Task | str] | None = None,
        *,
        losses_from: str | Mapping[str, str] | None = None,
        split: Callable[..., Any] | None = None,
        start_from: Any = None,
        module: str = "",
        log_prefix: str | None = None,
        prog_bar: bool = False,
        name: str | None = None,
        summary: bool = True,
        report: bool = True,
        **options: Unpack[WeightingOptions],
    ) -> None:
        super().__init__()
        default = module or "uncertainty"
        self.log_prefix, self.name = (default if given is None else given for given in (log_prefix, name))
        if not (self.log_prefix and self.name):
            raise ValueError(f"log_prefix and name must not be empty; got {log_prefix!r} and {name!r}.")
        self.tasks = None if tasks is None else parse_tasks(tasks, options.get("likelihood", "gaussian"))
        self.module, self.prog_bar, self.summary = module, prog_bar, summary
        if losses_from is not None and module:
            raise ValueError(f"losses_from={losses_from!r} starts at the Trainer's module. Drop module={module!r}.")
        self._source, self._by_callback = (
            LossSource("training_step" if losses_from is None else losses_from, split),
            losses_from is not None,
        )
        self.start_from, self.options = start_from, options
        # What is wrong with the options is better said now; a strategy of one's own may need the tasks of the module.
        if self.tasks or not isinstance(options.get("strategy"), Strategy):
            UncertaintyWeighting(self.tasks or {"any": 1.0}, **options)  # here jsonargparse looks for their names
        else:
            others: WeightingOptions = {**options, "strategy": "fixed"}
            UncertaintyWeighting({"any": 1.0}, **others)
        self._weighting: UncertaintyWeighting | None = None
        self._loaded_early: dict[str, Any] = {}  # a state that came before the engine
        self._notices = Notices()
        self._trainer: Trainer | None = None  # while it trains
        self._stepped_at = self._batch_began_at = 0  # values of trainer.global_step
        self._report = RunReport(self.log_prefix, report=report)

    @property
    def weighting(self) -> UncertaintyWeighting:
        """The engine, once a Trainer has attached it; a NotAttachedError before that."""
        if self._weighting is None:
            raise attachment.NotAttachedError(
                "UncertaintyCallback has no weights yet: a Trainer attaches them when it starts. After a strategy that "
                "spawns or forks its processes they are in `module.uncertainty`, if the module has UncertaintyMixin, "
                "and in `trainer.callback_metrics`."
            )
        return self._weighting

    @property
    def history(self) -> RunHistory:
        """The weights and losses of this run so far, those before a resume included."""
        return self._report.history

    # ------------------------------------------------------------------------------------------------ attaching

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the weights, in every stage, on the device of the strategy."""
        module = attachment.module_at(pl_module, self)
        attachment.check_apart(pl_module, self, [c for c in self._all_of(trainer) if c is not self])
        weighting = attachment.weighting_for(module, self.tasks, self.options, self._weighting)
        if stage == "fit":
            packages.check_processes(trainer, pl_module, weighting.process_group)
        if weighting is not self._weighting:
            self._report.begin()
            self._start(weighting)
        self._weighting = weighting
        attachment.attach_weighting(module, weighting)
        # A copy on the strategy's device: spawned ranks would share CPU tensors with the process that started them.
        weighting.eval().to(trainer.strategy.root_device)
        if stage == "fit" and (self._by_callback or not isinstance(module, attachment.CanWeigh)):
            weigh_returned_losses(module, weighting, self._source)
        early, self._loaded_early = self._loaded_early, {}
        self.load_state_dict(early)

    @staticmethod
    def _all_of(trainer: Trainer) -> list[UncertaintyCallback]:
        return [c for c in packages.callbacks_of(trainer) if isinstance(c, UncertaintyCallback)]

    def _start(self, weighting: UncertaintyWeighting) -> None:
        """Take over the sigmas of another run, unless the engine has learned."""
        if self.start_from is not None and not weighting.steps:
            attachment.start_from(weighting, self.start_from, self.name, self._notices)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give ``training_step`` back as it was, and follow the module to the CPU."""
        self._detach(pl_module)
        if stage == "fit" and packages.brings_state_home(trainer):
            attachment.send_with_state_dict(pl_module, self.module, self.weighting)

    def _detach(self, pl_module: LightningModule) -> None:
        """Leave nothing behind: the weights then work as without a Trainer."""
        self._trainer = None
        if self._weighting is not None:
            self._weighting.train().to("cpu")
            self._weighting.recorder.leave()
            if self._weighting.origin == "loaded":  # by a search before training, and its network too
                self._weighting.origin = "learned"
        give_step_back(pl_module)

    # ------------------------------------------------------------------------------------------------ stepping

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting from where training starts, and make the keys known to those who monitor them."""
        self._trainer = trainer
        self._stepped_at = trainer.global_step
        self.weighting.discard()
        module = attachment.module_at(pl_module, self)
        if attachment.renew_with_network(module, self._notices):
            self._report.begin()
            self._start(self.weighting)
        optimizers = packages.optimizers_of(trainer, module, self._notices)
        patience = 20 if getattr(trainer.precision_plugin, "scaler", None) else 5  # until the scaler has its scale
        self.weighting.suit(optimizers)
        with contextlib.suppress(Exception):  # some schedules of accumulation have no number
            self.weighting.expect(trainer.estimated_stepping_batches)
        self._report.facts.begin(trainer.global_step)
        self.weighting.recorder.begin(optimizers, automatic=pl_module.automatic_optimization, patience=patience)
        self._publish(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start recording losses."""
        self._batch_began_at = trainer.global_step
        if batch_idx == 0:  # and not when an epoch starts, which Lightning does not tell after every resume
            self.weighting.begin_epoch()
            module = attachment.module_at(pl_module, self)
            self.weighting.recorder.begin_epoch(packages.optimizers_of(trainer, module, self._notices))
        self.weighting.train()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop recording losses; drop those that were not learned from, and log if the Trainer logs."""
        weighting, step = self.weighting.eval(), trainer.global_step
        self._end_batch(step)
        if packages.logs_now(trainer, step != self._batch_began_at):
            snapshot = self._publish(trainer)
            self._report.record(snapshot)
            packages.log_row(trainer, snapshot.metrics(self.log_prefix))
            self._report.lay_out(trainer, [c.log_prefix for c in self._all_of(trainer)])
        elif trainer.is_last_batch:
            self._report.record(self._publish(trainer))
        elif not self._report.begun and weighting.steps > 0:
            self._report.record_later(weighting.snapshot_later())

    def _end_batch(self, step: int) -> None:
        due, self._stepped_at = step != self._stepped_at, step
        self.weighting.recorder.end_batch(due)

    def _publish(self, trainer: Trainer) -> Snapshot:
        snapshot = self.weighting.snapshot()
        self.weighting.check(snapshot)
        prefix = f"{self.module}/" if self.module else ""
        rounded = {name: float(f"{task.precision:.3g}") for name, task in snapshot.tasks.items()}
        weights = by_key(f"{prefix}weight", rounded, rounded)
        packages.publish(trainer, snapshot.metrics(self.log_prefix), weights if self.prog_bar else None)
        return snapshot

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish the current weights, on which others decide after a validation. Write the history of a fit."""
        snapshot = self._publish(trainer)
        if self._trainer is not None:  # neither a sanity check nor `trainer.validate`
            self._report.save(trainer, snapshot)
            self._report.facts.begin_validation(trainer)
        self.weighting.begin_scores()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the losses that a validation weighed and its predictions tell, before others decide on it."""
        if trainer.sanity_checking:
            return
        weighed, scores = self.weighting.held_out.end(), self.weighting.end_scores(fit=True)
        if weighed or scores:
            metrics = self.weighting.snapshot().held_out_metrics(self.log_prefix)
            if weighed and self._trainer is not None:
                metrics[f"{self.log_prefix}/val_relative_loss"] = self.weighting.relative.of_validation()
            self._log(trainer, metrics | score_metrics(f"{self.log_prefix}/val", scores, self.weighting.tasks))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what a validation of a fit has measured, to be shown beside the tasks."""
        if self._trainer is not None:
            self._report.end_validation(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to score predictions."""
        self.weighting.begin_scores(fit=False)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores of the predictions, and show them on the page."""
        if scores := self.weighting.end_scores(fit=False):
            self._log(trainer, score_metrics(f"{self.log_prefix}/test", scores, self.weighting.tasks))
            self._report.add_test(trainer, scores)

    def _log(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        packages.publish(trainer, metrics)
        if metrics:
            packages.log_row(trainer, metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the strategy, publish the weights, write the history, and warn if nothing was learned from."""
        self.weighting.end_epoch()
        recorder = self.weighting.recorder
        recorder.agree()
        snapshot = self._publish(trainer)
        if not any(task.seen or task.dropped for task in snapshot.tasks.values()) and not recorder.skipping:
            self._notices.warn("nothing learned", attachment.nothing_learned(self.weighting))
        self._report.save(trainer, snapshot)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the last point of the history."""
        self._report.end(self.weighting.snapshot())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write what became of the tasks; progress bars are closed by now."""
        self._report.deliver(trainer, summary=self.summary)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Catch up and detach: Lightning calls no teardown then, and saves its checkpoint of this moment afterwards."""
        with contextlib.suppress(Exception):  # what the user has to see is what went wrong first
            self.catch_up()
        with contextlib.suppress(Exception):
            if self._trainer is not None:
                self._report.fail(trainer, exception, self.weighting.snapshot, summary=self.summary)
        self._detach(pl_module)

    # ------------------------------------------------------------------------------------------------ checkpoints

    @property
    def state_key(self) -> str:
        """The key of its entry in checkpoints: stable, and unique per ``name``. Tasks are matched when loading."""
        if self._trainer is None:  # it is asked for with every hook
            attachment.check_names(self, packages.callbacks_being_checked())
        return f"UncertaintyCallback({self.name})"

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the engine and the history, once the weights have caught up with the network."""
        # Lightning asks for it before any hook of a save, and a callback that saves may stand before this one.
        self.catch_up()
        if self._weighting is None:
            return self._loaded_early
        return {**self._weighting.state_dict(), "history": self.history.state_dict()}

    def catch_up(self) -> None:
        """Step the weights if only the network has: something is saved before our turn at the end of a batch."""
        trainer = self._trainer
        # Under manual optimisation an optimizer may have stepped while the batch still goes on.
        if trainer is None or not trainer.lightning_module.automatic_optimization:
            return
        if (step := trainer.global_step) != self._stepped_at:
            self._end_batch(step)
        stepped = step != self._batch_began_at
        due = packages.logs_now(trainer, stepped) or trainer.is_last_batch or not self._report.begun
        if stepped and due and self.weighting.steps > self.history.newest:
            self._report.record(self.weighting.snapshot())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint of a version in which the name did not follow from the module."""
        states = checkpoint.get("callbacks", {})
        if self.state_key not in states:
            self.load_state_dict(states.get("UncertaintyCallback(uncertainty)", {}))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; before a Trainer has attached the weights, once it does."""
        if self._weighting is None:
            self._loaded_early = state_dict
        elif state_dict:
            self.weighting.load_state_dict(state_dict)
            self._report.begin(state_dict.get("history"))


# At run time the options are untyped: jsonargparse then follows them to the signature of the engine, which also has
# their defaults. What it makes of a TypedDict has none (4.53), or cannot be parsed (4.39).
UncertaintyCallback.__init__.__annotations__["options"] = Any
