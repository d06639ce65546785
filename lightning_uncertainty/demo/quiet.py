"""Lightning without its banners: by its name here, for those who import it from the demo."""

from lightning_uncertainty.trainer.packages import quiet_lightning

__all__ = ["quiet_lightning"]
