"""The smallest models and data that train for real."""

import lightning as L
import torch

from lightning_uncertainty import UncertaintyMixin
from tests.paper import UncertaintyCallback, UncertaintyWeighting

TASKS = {"a": "gaussian", "b": "laplace"}


class Loader:
    """Batches in a fixed order, resumable in the middle of an epoch."""

    def __init__(self, *tensors, size):
        self.batches = list(zip(*(tensor.split(size) for tensor in tensors), strict=True))
        self.position = self.start = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        start, self.start = self.start, 0  # a new epoch starts at 0, a resumed one where it was
        for position in range(start, len(self)):
            self.position = position + 1
            yield list(self.batches[position])

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.start = state["position"] % len(self)


def batches(count=24, size=8, *, seed=0, scale=(1.0, 1.0), noise=(0.5, 0.5)):
    """A loader of two linear targets with Gaussian noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count * size, 4, generator=generator)
    clean = x @ torch.randn(4, 2, generator=generator)
    y = (clean + torch.randn(clean.shape, generator=generator) * torch.tensor(noise)) * torch.tensor(scale)
    return Loader(x, y, size=size)


class Plain(L.LightningModule):
    """Two regressions on one linear layer, and the plain sum of their losses."""

    def __init__(self, lr=0.05):
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Linear(4, 2)
        self.lr = lr

    def losses(self, batch):
        x, y = batch
        error = self.net(x) - y
        return {"a": error[:, 0].square().mean(), "b": error[:, 1].abs().mean()}

    def training_step(self, batch, batch_idx):
        return sum(self.losses(batch).values())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Returned(Plain):
    """For the callback alone: the losses by name in what training_step returns."""

    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        return {"loss": sum(losses.values()), "losses": losses}


class Weighed(UncertaintyMixin, Plain):
    """With the mixin."""

    tasks = TASKS

    def training_step(self, batch, batch_idx):
        return self.weigh(self.losses(batch))


class Recorded(Weighed):
    """Remembers its losses, from which s follows."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def losses(self, batch):
        losses = super().losses(batch)
        self.seen.append({name: loss.detach().clone().requires_grad_() for name, loss in losses.items()})
        return losses


class Validated(Weighed):
    """With the mixin, which also weighs the losses of validation and test."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.weigh(self.losses(batch)))

    test_step = validation_step


def learned_from(seen, state=None):
    """The state of an engine by itself, told of an Adam, after these losses, a step for each and 24 an epoch."""
    weighting = UncertaintyWeighting(TASKS)
    weighting.suit([torch.optim.Adam([torch.zeros((), requires_grad=True)])])
    if state is not None:
        weighting.load_state_dict(state)
    for step, losses in enumerate(seen, start=weighting.steps):
        if step % 24 == 0:
            weighting.relative.begin_epoch()
        weighting(losses).backward()
        weighting.step()
    return weighting.state_dict()


def load(path):
    """A checkpoint, in which nothing is pickled as an object; before torch 2.6 the state of SWALR held a function."""
    return torch.load(path, weights_only=not torch.__version__.startswith("2.5."))


def trainer(folder, *callbacks, **options):
    """A quiet Trainer on the CPU that leaves files only in ``folder``."""
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return L.Trainer(callbacks=list(callbacks), **{**defaults, **options})


def fit(folder, module=None, *, data=None, callback=None, ckpt_path=None, callbacks=(), **options):
    """Train; returns the module and the Trainer."""
    module = Weighed() if module is None else module
    callback = UncertaintyCallback() if callback is None else callback
    runner = trainer(folder, callback, *callbacks, **options)
    runner.fit(module, data or batches(), ckpt_path=ckpt_path)
    return module, runner
