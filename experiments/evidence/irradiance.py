"""Peers from physics: pvlib's models of direct and diffuse irradiance, on the hours that the networks are tested on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.evidence.sets.weather import hours, parts_of

__all__ = ["MODELS", "errors"]

MODELS = ("disc", "dirint", "erbs", "boland")


def errors(seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Return the RMSE of each model in W/m2, by quantity and seed. disc and dirint give direct irradiance alone."""
    year, place = hours()
    found: dict[str, dict[str, list[float]]] = {}
    for model, quantities in modelled(year, place).items():
        for quantity, values in quantities.items():
            wrong = values - year[{"direct": "dni", "diffuse": "dhi"}[quantity]].to_numpy("float64")
            rmse = [float(np.sqrt(np.mean(wrong[parts_of(year, seed)[2]] ** 2))) for seed in seeds]
            found.setdefault(model, {})[quantity] = rmse
    return found


def modelled(year: Any, place: dict[str, float]) -> dict[str, dict[str, np.ndarray]]:
    """Return what each model makes of the global irradiance, with the sun at the middle of each hour."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of pvlib about pandas
        return _modelled(year, place)


def _modelled(year: Any, place: dict[str, float]) -> dict[str, dict[str, np.ndarray]]:
    import pandas as pd
    from pvlib import irradiance
    from pvlib.solarposition import get_solarposition

    middle = year.index - pd.Timedelta(minutes=30)
    sun = get_solarposition(middle, place["latitude"], place["longitude"], altitude=place["altitude"])
    zenith, ghi = sun["zenith"].set_axis(year.index), year["ghi"].astype("float64")
    pressure = 100.0 * year["pressure"]
    split = {name: getattr(irradiance, name)(ghi, zenith, year.index) for name in ("disc", "erbs", "boland")}
    dirint = irradiance.dirint(ghi, zenith, year.index, pressure=pressure, temp_dew=year["temp_dew"])
    parts = {
        "disc": {"direct": split["disc"]["dni"]},
        "dirint": {"direct": dirint},
        **{name: {"direct": split[name]["dni"], "diffuse": split[name]["dhi"]} for name in ("erbs", "boland")},
    }
    return {
        model: {quantity: np.nan_to_num(np.asarray(values, dtype=float)) for quantity, values in each.items()}
        for model, each in parts.items()
    }
