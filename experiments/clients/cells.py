"""scvi-tools: SCVI and SCANVI on the library's synthetic cells."""

from __future__ import annotations

from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.clients.client import Client
from lightning_uncertainty import UncertaintyCallback

if TYPE_CHECKING:
    from lightning.pytorch import Callback

EPOCHS = 60


def cells(*, known: float = 1.0) -> Any:
    """Return synthetic counts of 100 genes in 1,200 cells of three kinds; only a part of the kinds is known."""
    from scvi.data import synthetic_iid

    np.random.seed(0)  # noqa: NPY002 - what the library draws from; the same cells for every seed of a training
    table = synthetic_iid(batch_size=600, n_labels=3, n_genes=100)
    random = np.random.default_rng(0)
    # The library's kinds are drawn apart from the counts: here each raises the counts of genes of its own.
    table.obs["kind"] = table.obs["labels"].astype(str)
    for index, kind in enumerate(sorted(set(table.obs["kind"]))):
        rows = np.flatnonzero(table.obs["kind"] == kind)
        marks = np.arange(index * 20, index * 20 + 20)
        table.X[np.ix_(rows, marks)] += random.poisson(4.0, (len(rows), len(marks)))
    hidden = random.random(table.n_obs) > known
    table.obs["told"] = np.where(hidden, "unknown", table.obs["kind"])
    return table


def train_bound(seed: int, callbacks: list[Callback]) -> dict[str, float]:
    """Train SCVI as in its first tutorial, and return the bound on the cells held out, per cell."""
    import scvi

    scvi.settings.seed = seed
    table = cells()
    scvi.model.SCVI.setup_anndata(table, batch_key="batch")
    model = scvi.model.SCVI(table)
    model.train(**_options(callbacks))
    held_out = model.validation_indices
    with TemporaryDirectory() as folder:
        model.save(folder, overwrite=True)
        model = scvi.model.SCVI.load(folder, adata=table)
    return {"elbo": float(model.get_elbo(indices=held_out))}


def train_kinds(seed: int, callbacks: list[Callback]) -> dict[str, float]:
    """Train SCANVI as in its tutorial, and return how many kinds it finds where none was told, and the bound."""
    import scvi

    scvi.settings.seed = seed
    table = cells(known=0.1)
    scvi.model.SCANVI.setup_anndata(table, labels_key="told", unlabeled_category="unknown", batch_key="batch")
    model = scvi.model.SCANVI(table)
    model.train(**_options(callbacks))
    with TemporaryDirectory() as folder:
        model.save(folder, overwrite=True)
        model = scvi.model.SCANVI.load(folder, adata=table)
    untold = np.flatnonzero(table.obs["told"] == "unknown")
    accuracy = float((model.predict(indices=untold) == table.obs["kind"].to_numpy()[untold]).mean())
    return {"accuracy": accuracy, "elbo": float(model.get_elbo(indices=untold))}


def _options(callbacks: list[Callback]) -> dict[str, Any]:
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return {"max_epochs": EPOCHS, "callbacks": callbacks, "accelerator": "cpu", **silent}


def parts(module: Any, output: Any, *tensors: Any, classification_ratio: float = 0.0, **options: Any) -> dict[str, Any]:
    """Return the terms of the bound, as the library adds them up, and what the classifier loses."""
    if output.classification_loss is None:
        return {"bound": output.loss}
    return {
        "bound": output.loss - classification_ratio * output.classification_loss,
        "kind": output.classification_loss,
    }


def terms(module: Any, output: Any, *tensors: Any, **options: Any) -> dict[str, Any]:
    """Return the two terms of SCVI's bound as tasks of their own, which they are not."""
    reconstruction = sum(each.mean() for each in output.reconstruction_loss.values())
    return {"reconstruction": reconstruction, "divergence": output.loss - reconstruction}


def as_one() -> UncertaintyCallback:
    """Return the callback: the terms of the bound belong to one likelihood, so it is one task, with a fixed weight."""
    return UncertaintyCallback({"bound": 1.0}, losses_from="module.loss", split=parts)


def apart() -> UncertaintyCallback:
    """Return the callback that learns a weight for each term of the bound: what the documentation advises against."""
    tasks = {"reconstruction": "gaussian", "divergence": "gaussian"}
    return UncertaintyCallback(tasks, losses_from="module.loss", split=terms)


def kinds(bound: float | str = 1.0) -> UncertaintyCallback:
    """Return the callback: the bound with its fixed weight, and the kinds, whose ratio of 50 stays as importance."""
    tasks = {"bound": bound, "kind": {"likelihood": "softmax", "importance": 50.0}}
    return UncertaintyCallback(tasks, losses_from="module.loss", split=parts)


BOUND = Client("Counts of genes", "scvi-tools", {"elbo": "max"}, train_bound, {"learned": as_one, "terms apart": apart})
KINDS = Client(
    "Counts of genes and kinds of cells",
    "scvi-tools",
    {"accuracy": "max", "elbo": "max"},
    train_kinds,
    {"learned": kinds, "bound learned": partial(kinds, "gaussian")},
)
