"""Hydra: ``python docs/examples/hydra_app.py trainer.max_epochs=3 'trainer.callbacks.0.tasks.sold=0.5'``."""

import hydra
from house import loader
from hydra.utils import instantiate


@hydra.main(config_path=".", config_name="hydra_config", version_base="1.3")
def main(config):
    """Train what the configuration says."""
    trainer, model = instantiate(config.trainer), instantiate(config.model)
    trainer.fit(model, loader())
    print(model.uncertainty.weights)


if __name__ == "__main__":
    main()
