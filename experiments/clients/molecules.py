"""chemprop: eight properties of real molecules in one message passing network, most of their labels missing."""

from __future__ import annotations

from functools import cache
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.clients.client import Client, quiet_trainer, reloaded
from lightning_uncertainty import UncertaintyCallback

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from numpy.typing import NDArray

# Part of the molecules with a label, and the noise of the label as a multiple of the property's standard deviation.
PROPERTIES = {
    "weight": (1.0, 0.0),
    "logp": (0.9, 0.1),
    "refractivity": (0.5, 0.0),
    "surface": (0.7, 0.3),
    "likeness": (0.4, 0.5),
    "saturation": (0.3, 1.0),
    "rotatable": (0.2, 0.0),
    "complexity": (0.1, 0.2),
}
TRAINED, EPOCHS = 1600, 12


@cache
def molecules() -> tuple[list[str], NDArray[np.float64]]:
    """Return 2,497 molecules that rdkit brings along, as SMILES, and their properties of shape (molecules, 8)."""
    from rdkit import Chem, RDConfig, RDLogger
    from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors

    RDLogger.DisableLog("rdApp.*")
    with open(f"{RDConfig.RDDataDir}/NCI/first_5K.smi", encoding="utf-8") as file:
        smiles = [line.split()[0] for line, _ in zip(file, range(2500), strict=False)]
    found = {name: molecule for name in smiles if (molecule := Chem.MolFromSmiles(name)) and molecule.GetNumBonds() > 2}
    measures = (
        Descriptors.MolWt,
        Crippen.MolLogP,
        Crippen.MolMR,
        rdMolDescriptors.CalcTPSA,
        QED.qed,
        rdMolDescriptors.CalcFractionCSP3,
        rdMolDescriptors.CalcNumRotatableBonds,
        Descriptors.BertzCT,
    )
    return list(found), np.array([[measure(molecule) for measure in measures] for molecule in found.values()])


def noisy(properties: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return what an assay would tell: with noise, and NaN where there is no label."""
    known, noise = np.array(list(PROPERTIES.values())).T
    random = np.random.default_rng(seed)
    labels = properties + random.normal(size=properties.shape) * noise * properties.std(axis=0)
    return np.where(random.random(properties.shape) < known, labels, np.nan)


def train(seed: int, callbacks: list[Callback]) -> dict[str, float]:
    """Train as in chemprop's notebook "Training" and return errors on molecules held out, without noise."""
    import torch
    from chemprop import data, models, nn

    smiles, properties = molecules()
    order = np.random.default_rng(seed).permutation(len(smiles))
    trained, tested = order[:TRAINED], order[TRAINED:]
    labels = noisy(properties[trained], seed)
    points = [data.MoleculeDatapoint.from_smi(smiles[i], y) for i, y in zip(trained, labels, strict=True)]
    train_data = data.MoleculeDataset(points)
    scaler = train_data.normalize_targets()
    train_data.cache = True
    unscale = nn.UnscaleTransform.from_standard_scaler(scaler)
    head = nn.RegressionFFN(n_tasks=len(PROPERTIES), output_transform=unscale)
    model = models.MPNN(nn.BondMessagePassing(), nn.MeanAggregation(), head)
    trainer = quiet_trainer(callbacks, max_epochs=EPOCHS)
    trainer.fit(model, data.build_dataloader(train_data, num_workers=0))
    with TemporaryDirectory() as folder:
        model = reloaded(trainer, models.MPNN, folder)
    test_data = data.MoleculeDataset([data.MoleculeDatapoint.from_smi(smiles[i]) for i in tested])
    loader = data.build_dataloader(test_data, num_workers=0, shuffle=False)
    predictions: Any = quiet_trainer([]).predict(model, loader)
    predicted = torch.cat(predictions)
    truth = torch.tensor(properties[tested], dtype=torch.float32)
    error = (predicted - truth).square().mean(0).sqrt() / truth.std(0)
    return {"rmse": float(error.mean())}


def by_property(criterion: Any, output: Any, predicted: Any, labels: Any, mask: Any, *more: Any) -> dict[str, Any]:
    """Return the squared errors of shape (molecules, properties), which of them count, and the part of the labels."""
    return {"losses": (predicted - labels).square(), "mask": mask, "importance": mask.sum(0) / mask.sum()}


def learned() -> UncertaintyCallback:
    """Return the callback: one task for each property."""
    return UncertaintyCallback(
        dict.fromkeys(PROPERTIES, "gaussian"), losses_from="predictor.criterion", split=by_property
    )


CLIENT = Client(
    "Eight properties of molecules, labels missing", "chemprop", {"rmse": "min"}, train, {"learned": learned}
)
