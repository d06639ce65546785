"""Modules that worker processes of a comparison train, and scripts that are interrupted or killed meanwhile."""

import os
import signal
import sys
import time
import warnings

import torch

from lightning_uncertainty import compare
from tests.comparison.test_study import METRICS, QUICK, Net, serve


class Telling(Net):
    """Logs the number of threads, warns, and has what cannot be sent to another process."""

    def __init__(self):
        super().__init__()
        self.unsendable = lambda: self

    def training_step(self, batch, batch_idx):
        warnings.warn("once is enough", DeprecationWarning, stacklevel=1)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("threads", float(torch.get_num_threads()))


class Failing(Net):
    """Fails after the rehearsal."""

    def training_step(self, batch, batch_idx):
        if not self.trainer.fast_dev_run:
            self.fail()
        return super().training_step(batch, batch_idx)

    def fail(self):
        raise OSError("the disk is full")


class Killed(Failing):
    """Is killed by the system."""

    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Waiting(Failing):
    """Says the number of its process and waits."""

    def fail(self):
        os.write(sys.stdout.fileno(), f"{os.getpid()}\n".encode())  # in one piece: workers share the pipe
        time.sleep(600)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a shell lacks
    try:
        compare(Waiting, serve, metrics=METRICS, trainer=QUICK, seeds=(0, 1), workers=2, folder=sys.argv[1])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        # Without this Python would die of SIGINT, or end with 1 if a package runs `exec` at exit: it then forgets why.
        sys.exit(130)
