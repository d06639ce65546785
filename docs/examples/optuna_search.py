"""Optuna, which prunes trials that fall behind: ``python docs/examples/optuna_search.py``."""

import lightning as L
import optuna
from house import House, loader
from optuna_integration import PyTorchLightningPruningCallback

from lightning_uncertainty import UncertaintyCallback


def objective(trial):
    """Train one network; return what is minimised, which must not depend on the weights."""
    L.seed_everything(trial.number, verbose=False)
    net = House(width=trial.suggest_int("width", 4, 32), lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True))
    weights = UncertaintyCallback(
        strategy=trial.suggest_categorical("strategy", ["uncertainty", "log_sum", "equal"]), summary=False
    )
    pruning = PyTorchLightningPruningCallback(trial, monitor="val/score")
    trainer = L.Trainer(
        max_epochs=8,
        accelerator="cpu",
        callbacks=[weights, pruning],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, loader(0), loader(1))
    for name, weight in weights.weighting.weights.items():
        trial.set_user_attr(f"weight/{name}", weight)
    return trainer.callback_metrics["val/score"].item()


def search(trials=12):
    """Return the study."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner)
    study.optimize(objective, n_trials=trials)
    return study


if __name__ == "__main__":
    print(search().best_trial)
