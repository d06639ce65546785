"""Hugging Face's Trainer: the callback below is all that it needs. ``python docs/examples/transformers_trainer.py``."""

import base64
import io

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from lightning_uncertainty import UncertaintyWeighting


class UncertaintyTrainerCallback(TrainerCallback, ExportableState):
    """Steps the weights with the optimizer, logs them, and keeps them in the checkpoints.

    They are in the ``trainer_state.json`` of a checkpoint: who resumes it gets them, from whatever folder it comes.

    Args:
        weighting: The weighting whose total is the ``loss`` of the model.
    """

    def __init__(self, weighting):
        self.weighting = weighting

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        """Follow the optimizer; go on from the checkpoint that the Trainer resumes."""
        self.weighting.to(args.device).follow(optimizer).expect(state.max_steps)
        if state.global_step:
            saved = state.stateful_callbacks[type(self).__name__]["attributes"]["saved"]
            self.weighting.load_state_dict(torch.load(io.BytesIO(base64.b64decode(saved)), weights_only=True))

    def state(self):
        """Return what the Trainer writes into a checkpoint: the weights, bit for bit, as text."""
        torch.save(self.weighting.state_dict(), file := io.BytesIO())
        return {"args": {}, "attributes": {"saved": base64.b64encode(file.getvalue()).decode()}}

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Add the weights to the numbers of the training, for the state and the callbacks that come after this one."""
        if "loss" in logs:
            logs |= self.weighting.snapshot().metrics("uncertainty")
            state.log_history[-1] |= logs


class Net(nn.Module):
    """A model as the Trainer wants it: its forward pass returns ``loss``."""

    def __init__(self, weighting):
        super().__init__()
        self.layer, self.weighting = nn.Linear(4, 2), weighting

    def forward(self, x, price, size):
        """Return the total; an evaluation neither learns from it nor changes anything."""
        first, second = self.layer(x).unbind(dim=1)
        self.weighting.train(self.training)
        losses = {"price": (first - price).abs().mean(), "size": (second - size).square().mean()}
        return {"loss": self.weighting(losses), "predictions": torch.stack([first, second], 1)}


def rows(count=256):
    """Return made data: a list of dicts, as a dataset is."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return [{"x": row, "price": 100.0 * row[0], "size": row[1]} for row in x]


def train(folder, resume=None, **options):
    """Train and return the weighting, the model and the Trainer."""
    torch.manual_seed(0)
    weighting = UncertaintyWeighting({"price": "laplace", "size": "gaussian"})
    settings = {
        "num_train_epochs": 4,
        "learning_rate": 0.05,
        "logging_steps": 8,
        "save_steps": 20,
        "report_to": [],
        **options,
    }
    arguments = TrainingArguments(folder, use_cpu=True, disable_tqdm=True, seed=0, **settings)
    model = Net(weighting)
    trainer = Trainer(model, arguments, train_dataset=rows(), eval_dataset=rows(32))
    trainer.callback_handler.callbacks.insert(0, UncertaintyTrainerCallback(weighting))  # before those that log
    trainer.train(resume_from_checkpoint=resume)
    return weighting, model, trainer


if __name__ == "__main__":
    print(train("transformers_output")[0].sigmas)
