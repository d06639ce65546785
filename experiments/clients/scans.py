"""MONAI: what belongs to round objects in made scans, by Dice and cross entropy."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.clients.client import Client, quiet_trainer, reloaded
from lightning_uncertainty import UncertaintyCallback

if TYPE_CHECKING:
    from lightning.pytorch import Callback

IMAGES, EPOCHS, SIZE, CLASSES = 160, 20, 64, 4


def train(seed: int, callbacks: list[Callback]) -> dict[str, float]:
    """Train the LightningModule of MONAI's tutorial on the spleen, in two dimensions, and return its Dice metric."""
    import torch
    from lightning.pytorch import LightningModule
    from monai.data import DataLoader, Dataset, create_test_image_2d, decollate_batch
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.metrics import DiceMetric
    from monai.networks.nets import UNet
    from monai.transforms import AsDiscrete

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = UNet(
                spatial_dims=2, in_channels=1, out_channels=CLASSES, channels=(8, 16, 32), strides=(2, 2), norm="batch"
            )
            self.loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
            self.dice = DiceMetric(include_background=False, reduction="mean")
            self.one_hot = AsDiscrete(to_onehot=CLASSES)
            self.highest = AsDiscrete(argmax=True, to_onehot=CLASSES)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.model.parameters(), 1e-3)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss_function(self.model(batch["image"]), batch["label"])
            self.log("train_loss", loss.item())
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            found = sliding_window_inference(batch["image"], (SIZE, SIZE), 4, self.model)
            predicted = [self.highest(each) for each in decollate_batch(found)]
            self.dice(y_pred=predicted, y=[self.one_hot(each) for each in decollate_batch(batch["label"])])

        def on_validation_epoch_end(self) -> None:
            self.log("val_dice", self.dice.aggregate().item())
            self.dice.reset()

    def scans(count: int, offset: int) -> Any:
        pairs = [
            create_test_image_2d(
                SIZE, SIZE, num_objs=6, rad_max=9, noise_max=0.8, num_seg_classes=CLASSES - 1,
                random_state=np.random.RandomState(offset + index),  # what the library takes
            )
            for index in range(count)
        ]  # fmt: skip
        return Dataset([{"image": torch.tensor(i[None]).float(), "label": torch.tensor(s[None])} for i, s in pairs])

    trainer = quiet_trainer(callbacks, max_epochs=EPOCHS)
    trainer.fit(Net(), DataLoader(scans(IMAGES, 1000 * seed), batch_size=8, shuffle=True))
    with TemporaryDirectory() as folder:
        net = reloaded(trainer, Net, folder)
    unseen = DataLoader(scans(60, 1000 * seed + 500), batch_size=8)
    (metrics,) = quiet_trainer([]).validate(net, unseen, verbose=False)
    return {"dice": metrics["val_dice"]}


def parts(criterion: Any, output: Any, scores: Any, labels: Any) -> dict[str, Any]:
    """Return the two losses that the criterion adds up."""
    return {"overlap": criterion.dice(scores, labels), "pixels": criterion.ce(scores, labels)}


def learned() -> UncertaintyCallback:
    """Return the callback: an overlap and a cross entropy."""
    return UncertaintyCallback({"overlap": "gaussian", "pixels": "softmax"}, losses_from="loss_function", split=parts)


CLIENT = Client("Objects in made scans", "monai", {"dice": "max"}, train, {"learned": learned})
