"""A callback that looks at the gradients of the tasks on what they share: that is what the weights balance."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_uncertainty._arguments import check_steps, lookup
from lightning_uncertainty._warnings import Notices
from lightning_uncertainty.reporting.gradients import GradientSnapshot, from_state, state_of
from lightning_uncertainty.trainer.attachment import attached_weighting
from lightning_uncertainty.trainer.packages import CallbackBase, callbacks_of, is_compiled, log_row, publish
from lightning_uncertainty.trainer.task_gradients import TaskGradients
from lightning_uncertainty.weighting import UncertaintyWeighting

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

# On each process, parameters and gradients are whole; DeepSpeed's is a DDPStrategy that shards them.
_WHOLE, _SHARDED = {"SingleDeviceStrategy", "DDPStrategy"}, {"DeepSpeedStrategy"}
_KEPT = 1000  # snapshots
_NUMBERS = 200_000  # in all of them: less than 1 MB in a checkpoint


class GradientView(CallbackBase):
    r"""A callback that watches the gradient of each task on a shared part of the network.

    Every ``every_n_steps`` optimizer steps it computes, for the raw losses ``L_k`` and the parameters ``w`` of
    ``module``,

    .. math:: g_k = \nabla_w L_k, \quad \lVert g_k \rVert, \quad c_k \lVert g_k \rVert, \quad
              \frac{g_j \cdot g_k}{\lVert g_j \rVert \lVert g_k \rVert}

    - ``g_k`` is that of the whole optimizer step: the mean over its micro-batches (a task that is missing in one counts
      as 0 there, as in the total) and over all processes; under manual optimisation, the sum over a batch,
    - ``c_k`` is the factor of the task in the total, so that ``c_k g_k`` is its part of the gradient of the network.

    Logged on these steps, to every logger and to ``trainer.callback_metrics``, under ``log_prefix``:

    ===========================  =============================================================================
    ``/norm/<task>``             norm of the gradient of the raw loss; NaN for a task that did not take part, 0 for
                                 one that does not reach the shared part
    ``/weighted/<task>``         the same times the factor of the task in the total
    ``/cosine/<task>/<task>``    cosine between the gradients of a pair, -1 to 1; for up to 8 tasks
    ``/cosine/lowest``           the lowest of all pairs: below 0, two tasks pull against each other
    ``/cosine/mean``             the mean over all pairs
    ===========================  =============================================================================

    What is trained is the same, bit for bit. `docs/report.md` says what it costs and where it refuses to work.

    Args:
        module: Name of the shared part in the LightningModule, ``"encoder"`` or ``"net.trunk"``. Where several modules
            weigh for themselves, the tasks are those of the innermost one that contains it.
        every_n_steps: Number of optimizer steps from one look to the next.
        log_prefix: First part of all keys; another one for each view.

    Attributes:
        snapshots: The looks so far; of a long run, evenly thinned out, with the first and the last. Plot them by
            :func:`~lightning_uncertainty.reporting.gradients.plot_gradient_norms` and ``plot_cosines``.

    Raises:
        ValueError: If an argument is not valid.

    Example:
        >>> GradientView("encoder", every_n_steps=50).state_key
        'GradientView(encoder)'
    """

    def __init__(self, module: str, *, every_n_steps: int = 100, log_prefix: str = "gradients") -> None:
        super().__init__()
        every_n_steps = check_steps("every_n_steps", every_n_steps)
        if not (every_n_steps and module and log_prefix):
            raise ValueError(
                "GradientView needs the name of the shared module, every_n_steps of at least 1 and a log_prefix; got "
                f"{module!r}, {every_n_steps!r} and {log_prefix!r}."
            )
        self.module, self.every_n_steps, self.log_prefix = module, every_n_steps, log_prefix
        self.snapshots: list[GradientSnapshot] = []
        self._steps = 0  # batches after which an optimizer has stepped
        self._looks, self._spacing = 0, 1  # of all looks, and between those kept
        self._stepped_at = 0  # value of trainer.global_step
        self._weighting: UncertaintyWeighting | None = None  # in training
        self._gradients: TaskGradients | None = None  # while it looks
        self._notices = Notices()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what would fail later, or look right and be wrong."""
        if stage == "fit":
            self._refuse(trainer, pl_module)

    def _refuse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shared(pl_module)
        for other in callbacks_of(trainer):
            if isinstance(other, GradientView) and other is not self and other.log_prefix == self.log_prefix:
                raise ValueError(
                    f"The GradientViews of {other.module!r} and {self.module!r} would log under the same keys: "
                    f"give one of them another log_prefix than {self.log_prefix!r}."
                )
        kinds = {base.__name__ for base in type(trainer.strategy).__mro__}
        obstacle = ""
        if kinds.isdisjoint(_WHOLE) or not kinds.isdisjoint(_SHARDED):
            obstacle = f"{type(trainer.strategy).__name__} may not hold whole parameters and gradients on each process"
        if is_compiled(pl_module):
            obstacle = "torch.compile frees what a second backward pass needs"
        if trainer.world_size > 1 and any(isinstance(module, nn.SyncBatchNorm) for module in pl_module.modules()):
            obstacle = "SyncBatchNorm talks to the other processes in each backward pass, and their tasks may differ"
        if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers):
            obstacle = "LBFGS evaluates the losses many times in a step"
        if obstacle:
            raise ValueError(f"GradientView cannot work here: {obstacle}. Train this without it.")

    def _shared(self, pl_module: LightningModule) -> list[Tensor]:
        modules = {name: module for name, module in pl_module.named_modules() if name}
        shared = list(lookup("module", self.module, modules).parameters())
        if not shared:
            raise ValueError(f"The module {self.module!r} has no parameters. Name one that the tasks share.")
        return shared

    def _weighting_of(self, pl_module: LightningModule) -> UncertaintyWeighting:
        """Return the engine of the innermost module around the shared part; or the only one there is."""
        modules = pl_module.named_modules(remove_duplicate=False)
        found = {path: weighting for path, module in modules if (weighting := attached_weighting(module)) is not None}
        around = [path for path in found if f"{self.module}.".startswith(f"{path}." if path else "")]
        if not found:
            raise ValueError(
                "GradientView has no tasks to look at: add an UncertaintyCallback to the Trainer's callbacks, or "
                f"derive {type(pl_module).__name__} from UncertaintyMixin."
            )
        if not around and len(set(map(id, found.values()))) > 1:
            raise ValueError(
                f"GradientView cannot tell whose tasks to look at: {', '.join(map(repr, found))} weigh for themselves, "
                f"and {self.module!r} is in none of them. Name a module inside one of them."
            )
        return found[max(around or found, key=len)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting from where training starts."""
        self._refuse(trainer, pl_module)  # once more, as some of it shows only now
        self._stepped_at, self._gradients = trainer.global_step, None
        self._weighting = self._weighting_of(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Listen to what the engine is called with, on a step that is looked at."""
        if self._steps % self.every_n_steps:
            return
        assert self._weighting is not None  # since training started
        if self._gradients is None:
            shared = self._shared(pl_module)
            if not any(parameter.requires_grad for parameter in shared):
                frozen = f"GradientView sees no gradients while all parameters of {self.module!r} are frozen."
                self._notices.warn("frozen", frozen)
                return
            self._gradients = TaskGradients(self._weighting, shared)
        self._stop_listening()  # a batch that was skipped has no end
        self._weighting.observers.append(self._gradients.note)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Run one backward pass per task, which ends at the shared module, while the graph is there."""
        if self._gradients is None:
            return
        if self._gradients.behind_a_checkpoint():
            raise ValueError(
                "GradientView cannot see behind reentrant activation checkpointing, which gives the parameters there "
                "no gradients of single losses. Write `torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`, "
                "or train without GradientView."
            )
        batches = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # of 16-mixed
        self._gradients.add(1.0 / batches, 1.0 if scaler is None else float(scaler.get_scale()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log and keep what was seen, if an optimizer has stepped."""
        self._stop_listening()
        if trainer.global_step == self._stepped_at:
            return
        self._stepped_at = trainer.global_step
        if self._gradients is not None:
            snapshot, self._gradients = self._gradients.close(self._steps), None
            publish(trainer, metrics := snapshot.metrics(self.log_prefix))
            log_row(trainer, metrics)
            self._keep(snapshot)
        self._steps += 1

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind; Lightning calls no teardown then."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the weights."""
        self._stop_listening()
        self._weighting = self._gradients = None

    def _stop_listening(self) -> None:
        if self._gradients is not None and self._weighting is not None:
            with suppress(ValueError):
                self._weighting.observers.remove(self._gradients.note)

    def _keep(self, snapshot: GradientSnapshot) -> None:
        """Keep every look; once there are too many, every second, and so on; and the newest."""
        if self.snapshots and (self._looks - 1) % self._spacing:
            self.snapshots.pop()  # it was only the newest
        self.snapshots.append(snapshot)
        self._looks += 1
        if len(self.snapshots) > max(min(_KEPT, _NUMBERS // (2 * len(snapshot.norms) + len(snapshot.cosines))), 2):
            self._spacing *= 2
            self.snapshots = self.snapshots[:-1:2] + self.snapshots[-1:]

    @property
    def state_key(self) -> str:
        """The key of its entry in checkpoints, unique per module."""
        return f"GradientView({self.module})"

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen so far, as tensors."""
        counts = {"steps": self._steps, "looks": self._looks, "spacing": self._spacing}
        return {**counts, **state_of(self.snapshots)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._steps, self._looks, self._spacing = (state_dict[key] for key in ("steps", "looks", "spacing"))
        self.snapshots = from_state(state_dict)
