"""Runs as a user finds them on disk: with every kind of source, and killed."""

import os
import signal

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_uncertainty import GradientView, UncertaintyCallback
from tests.models import fit
from tests.trainer.test_gradient_view import COUNT, Shared, data

STEPS = 10 * COUNT  # of a whole run


class Dies(Callback):
    """SIGKILL, which nobody can catch, after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder, *, module=None, dies_at=None, saves=True, prefix="uncertainty", ckpt_path=None, tensorboard=True):
    """Train with files in ``folder``: of both loggers, checkpoints of each epoch, and a view of the gradients."""
    loggers = [CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)]  # by default a run loses up to 100
    loggers += [TensorBoardLogger(folder, name="", version="")] if tensorboard else []
    callbacks = [GradientView("encoder", every_n_steps=4)]
    callbacks += [ModelCheckpoint(folder / "checkpoints", filename="{step}", save_top_k=-1)] if saves else []
    callbacks += [Dies(dies_at)] if dies_at else []
    callback = UncertaintyCallback(summary=False, log_prefix=prefix)
    fit(
        folder,
        Shared() if module is None else module,
        data=data(),
        callback=callback,
        callbacks=callbacks,
        logger=loggers,
        max_epochs=STEPS // COUNT,
        log_every_n_steps=2,
        enable_checkpointing=saves,
        ckpt_path=ckpt_path,
    )
    return callback.history
