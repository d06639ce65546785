"""pytorch-forecasting: a Temporal Fusion Transformer for two series of different units, by MultiLoss."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.clients.client import Client, quiet_trainer, reloaded
from lightning_uncertainty import UncertaintyCallback

if TYPE_CHECKING:
    import pandas as pd
    from lightning.pytorch import Callback

TARGETS = {"volume": 1000.0, "price": 1.0}  # and the unit in which each is told
AHEAD, BEHIND, EPOCHS = 10, 40, 8


def series() -> pd.DataFrame:
    """Return twenty made series of two targets: volumes in the thousands, prices about one."""
    from pytorch_forecasting.data.examples import generate_ar_data

    table: pd.DataFrame = generate_ar_data(n_series=20, timesteps=200, seasonality=10.0, trend=2.0, seed=42)
    prices = generate_ar_data(n_series=20, timesteps=200, seasonality=8.0, trend=1.0, seed=7)
    table = table.rename(columns={"value": "volume"}).assign(price=prices["value"], series=table["series"].astype(str))
    for target, unit in TARGETS.items():
        table[target] *= unit
    return table


def train(seed: int, callbacks: list[Callback]) -> dict[str, float]:
    """Train as in the library's tutorial on demand, and return errors of the last days in units of their spread.

    With the tutorial's learning rate of 0.03, so few steps end where chance takes them, in every arm; here it is 0.01.
    """
    from pytorch_forecasting import GroupNormalizer, MultiNormalizer, TemporalFusionTransformer, TimeSeriesDataSet
    from pytorch_forecasting.metrics import MAE, MultiLoss, QuantileLoss

    table = series()
    last = int(table["time_idx"].max())
    training = TimeSeriesDataSet(
        table[table["time_idx"] <= last - AHEAD],
        time_idx="time_idx",
        target=list(TARGETS),
        group_ids=["series"],
        max_encoder_length=BEHIND,
        max_prediction_length=AHEAD,
        static_categoricals=["series"],
        time_varying_known_reals=["time_idx"],
        time_varying_unknown_reals=list(TARGETS),
        target_normalizer=MultiNormalizer([GroupNormalizer(groups=["series"]) for _ in TARGETS]),
    )
    validation = TimeSeriesDataSet.from_dataset(training, table, predict=True, stop_randomization=True)
    model = TemporalFusionTransformer.from_dataset(
        training,
        learning_rate=0.01,
        hidden_size=16,
        hidden_continuous_size=8,
        loss=MultiLoss([QuantileLoss() for _ in TARGETS]),
        output_size=[7 for _ in TARGETS],
        log_interval=0,
    )
    trainer = quiet_trainer(callbacks, max_epochs=EPOCHS, gradient_clip_val=0.1)
    trainer.fit(model, training.to_dataloader(train=True, batch_size=64, num_workers=0))
    with TemporaryDirectory() as folder:
        best = reloaded(trainer, TemporalFusionTransformer, folder, weights_only=False)
    silent: Any = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    found = best.predict(validation.to_dataloader(train=False, num_workers=0), return_y=True, trainer_kwargs=silent)
    errors = {
        target: float(MAE()(predicted, actual) / table[target].std())
        for target, predicted, actual in zip(TARGETS, found.output, found.y[0], strict=True)
    }
    return {
        "mae": sum(errors.values()) / len(errors),
        **{f"mae of {target}": error for target, error in errors.items()},
    }


def learned() -> UncertaintyCallback:
    """Return the callback: one task for each metric inside the MultiLoss."""
    paths = {target: f"loss.metrics.{index}" for index, target in enumerate(TARGETS)}
    return UncertaintyCallback(dict.fromkeys(TARGETS, "laplace"), losses_from=paths)


CLIENT = Client(
    "Forecasts of a volume and a price",
    "pytorch-forecasting",
    {"mae": "min", **{f"mae of {target}": "min" for target in TARGETS}},
    train,
    {"learned": learned},
)
