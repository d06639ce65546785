"""Ray Train on two workers: ``python docs/examples/ray_train.py``."""

from pathlib import Path

import lightning as L
import ray.train
from house import House, loader
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer
from ray.train.torch import TorchTrainer

from lightning_uncertainty import UncertaintyCallback


def train_on_worker():
    """Train on one worker; its ranks share sigma as those of any DDP do."""
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        callbacks=[UncertaintyCallback(), RayTrainReportCallback()],
        enable_checkpointing=False,
        logger=False,
    )
    prepare_trainer(trainer).fit(House(), loader(ray.train.get_context().get_world_rank()), loader(7))


def train(folder, workers=2):
    """Return what the last epoch reported: the weights among the metrics, and a checkpoint."""
    scaling = ray.train.ScalingConfig(num_workers=workers)
    run = ray.train.RunConfig(storage_path=str(folder), name="house")
    return TorchTrainer(train_on_worker, scaling_config=scaling, run_config=run).fit()


if __name__ == "__main__":
    result = train(Path("ray_output").resolve())
    print({key: value for key, value in result.metrics.items() if "weight" in key})
    with result.checkpoint.as_directory() as folder:
        print(House.load_from_checkpoint(f"{folder}/checkpoint.ckpt").uncertainty.sigmas)
