"""A run that is killed again and again, in a process of its own, which forks a child for each attempt.

The final checkpoint of the killed run is ``FOLDER/killed/end.ckpt``, that of a run without interruption
``FOLDER/whole/end.ckpt``.
"""

import os
import random
import signal
import time
import warnings

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from tests.models import Weighed, batches, trainer

KILLS, EPOCHS, BATCHES = 20, 12, 24


class Tell(Callback):
    """One byte for each batch, so that the parent knows that there was progress."""

    def __init__(self, pipe):
        self.pipe = pipe

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        os.write(self.pipe, b".")


def loadable(path):
    try:
        return torch.load(path, weights_only=True)
    except Exception:
        return None


def step_of(path):
    return int(path.stem.split("=")[1])


def newest(folder):
    """The last checkpoint that can be read, None if there is none.

    Those of the last batch of an epoch are passed over: of a run that goes on from one of them, Lightning saves a
    wrong batch progress in the next epoch, with or without the plugin (a test of test_faults.py shows it).
    """
    found = sorted((path for path in folder.glob("*.ckpt") if step_of(path) % BATCHES), key=step_of)
    return next((path for path in reversed(found) if loadable(path)), None)


def train(folder, pipe):
    often = ModelCheckpoint(
        folder / "steps", filename="{step}", every_n_train_steps=1, save_top_k=-1, enable_version_counter=False
    )
    runner = trainer(folder, often, Tell(pipe), max_epochs=EPOCHS, enable_checkpointing=True)
    runner.fit(Weighed(), batches(BATCHES), ckpt_path=newest(folder / "steps"))
    runner.save_checkpoint(folder / "end.ckpt")


def fork(folder):
    """A child that trains; returns its id and the end of the pipe that tells its progress."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            train(folder, writer)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    return child, reader


def attempt(folder, chance):
    """Train until a random moment; True if the child came to its end before."""
    child, reader = fork(folder)
    progress = 0
    for _ in range(chance.randint(2, 20)):
        progress += len(os.read(reader, 1))
    until = time.perf_counter() + chance.uniform(0.0, 0.006)  # anywhere within a step, its checkpoint included
    while time.perf_counter() < until:
        pass
    os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"ended by itself after {progress} batches"


def finish(folder):
    child, reader = fork(folder)
    while os.read(reader, 4096):
        pass
    os.close(reader)
    _, status = os.waitpid(child, 0)
    assert os.WEXITSTATUS(status) == 0


def killed_and_whole(folder):
    """Both runs; returns the step of the newest checkpoint after each kill."""
    warnings.simplefilter("ignore")
    for name in ("whole", "killed"):
        (folder / name).mkdir()
    finish(folder / "whole")
    chance = random.Random(0)
    steps = []
    for _ in range(KILLS):
        attempt(folder / "killed", chance)
        last = newest(folder / "killed" / "steps")
        steps.append(step_of(last) if last else 0)
    finish(folder / "killed")
    return steps
