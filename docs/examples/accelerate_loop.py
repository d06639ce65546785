"""Hugging Face Accelerate: ``torchrun --nproc-per-node 2 docs/examples/accelerate_loop.py`` starts two processes."""

import sys

import torch
from accelerate import Accelerator

from lightning_uncertainty import UncertaintyWeighting


def train(folder, steps=40, until=None, resume=False):
    """Train, accumulating 2 batches for a step, up to a step; then save. Returns weighting and model."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.05))
    weighting = UncertaintyWeighting({"price": "laplace", "size": "gaussian"}).to(accelerator.device)
    weighting.follow(optimizer).expect(steps)  # where it steps, the processes exchange a few numbers per task
    accelerator.register_for_checkpointing(weighting)
    if resume:
        accelerator.load_state(folder)
    for batch in range(2 * weighting.steps, 2 * (until or steps)):
        data = torch.Generator().manual_seed(1000 * accelerator.process_index + batch)  # of this process
        x = torch.randn(8, 4, generator=data)
        with accelerator.accumulate(model):
            price, size = model(x).unbind(dim=1)
            losses = {"price": (price - 100.0 * x[:, 0]).abs().mean(), "size": (size - x[:, 1]).square().mean()}
            accelerator.backward(weighting(losses))
            optimizer.step()
            optimizer.zero_grad()
    accelerator.save_state(folder)
    return weighting, accelerator.unwrap_model(model)


if __name__ == "__main__":
    print(train(sys.argv[1] if len(sys.argv) > 1 else "accelerate_output")[0].sigmas)
