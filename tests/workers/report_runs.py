"""Runs as a user finds them on disk: whole, and killed."""

import os
import signal

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from lightning_uncertainty import GradientView
from lightning_uncertainty.trainer import run_report
from tests.models import fit
from tests.paper import UncertaintyCallback
from tests.trainer.test_gradient_view import COUNT, Shared, data

STEPS = 10 * COUNT  # of a whole run


class Dies(Callback):
    """SIGKILL, which nobody can catch, after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder, *, dies_at=None, prefix="uncertainty"):
    """Train with files in ``folder``, and with a view of the gradients."""
    if dies_at:
        run_report.WRITING = 1.0  # on a busy machine an epoch this short may come too soon after the last write
    callback = UncertaintyCallback(summary=False, log_prefix=prefix)
    fit(
        folder,
        Shared(),
        data=data(),
        callback=callback,
        callbacks=[GradientView("encoder", every_n_steps=4), *([Dies(dies_at)] if dies_at else [])],
        logger=CSVLogger(folder, name="", version=""),
        max_epochs=STEPS // COUNT,
        log_every_n_steps=2,
    )
    return callback.history
