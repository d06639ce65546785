"""PINA: the acoustic wave equation by a physics-informed network; a residual, a boundary and two initial conditions."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.clients.client import Client, reloaded
from lightning_uncertainty import UncertaintyCallback

if TYPE_CHECKING:
    from lightning.pytorch import Callback

STEPS = 1500


def train(seed: int, callbacks: list[Callback]) -> dict[str, float]:
    """Train as in PINA's tutorial on the wave equation and return the relative error to the exact solution."""
    import torch
    from pina import Trainer
    from pina.model import FeedForward
    from pina.problem.zoo import AcousticWaveProblem
    from pina.solver import PINN

    problem = AcousticWaveProblem(c=1.0)
    problem.discretise_domain(500, "random", domains="D")
    problem.discretise_domain(100, "random", domains=["t0", "boundary"])
    size: dict[str, Any] = {
        "input_dimensions": 2,
        "output_dimensions": 1,
        "layers": [32, 32, 32],
        "func": torch.nn.Tanh,
    }
    solver = PINN(problem, FeedForward(**size))
    silent: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        solver, max_epochs=STEPS, accelerator="cpu", enable_model_summary=False, callbacks=callbacks, **silent
    )
    trainer.train()
    with TemporaryDirectory() as folder:
        solver = reloaded(trainer, PINN, folder, problem=problem, model=FeedForward(**size), weights_only=False)
    points = problem.spatial_domain.update(problem.temporal_domain).sample(2000, "random")
    with torch.no_grad():
        exact, found = problem.solution(points), solver(points)
    error = (found - exact).norm() / exact.norm()
    return {"relative error": float(error)}


def by_condition(weighting: Any, total: Any, losses: dict[str, Any]) -> dict[str, Any]:
    """Return the losses of the conditions, as PINA's own weighting gets them by name."""
    return losses


def learned() -> UncertaintyCallback:
    """Return the callback: one task for each condition."""
    tasks = dict.fromkeys(["D", "boundary", "t0"], "gaussian")
    return UncertaintyCallback(tasks, losses_from="weighting.aggregate", split=by_condition)


CLIENT = Client("The wave equation", "pina-mathlab", {"relative error": "min"}, train, {"learned": learned})
