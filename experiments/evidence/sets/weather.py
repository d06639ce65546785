"""The typical year of Greensboro [TMY3, shipped in pvlib]: from the sun outside and on the ground to light and weather.

From the global irradiance and the hour, as the models of pvlib do it (see :mod:`experiments.evidence.irradiance`), to
direct and diffuse irradiance; and from the same to temperature, humidity, wind, and whether it is cloudy.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from experiments.evidence.table import Table, make_table, split_rows
from lightning_uncertainty.demo.diamonds import packaged_file

__all__ = ["TASKS", "hours", "parts_of", "weather"]

TASKS = {
    "direct": {"likelihood": "gaussian", "unit": "W/m2"},
    "diffuse": {"likelihood": "gaussian", "unit": "W/m2"},
    "temperature": {"likelihood": "gaussian", "unit": "°C"},
    "humidity": {"likelihood": "gaussian", "unit": "%"},
    "wind": {"likelihood": "gaussian", "unit": "m/s"},
    "cloudy": {"likelihood": "bernoulli"},
}
COLUMNS = {
    "direct": "dni",
    "diffuse": "dhi",
    "temperature": "temp_air",
    "humidity": "relative_humidity",
    "wind": "wind_speed",
}
CLOUDY_FROM = 5  # tenths of the sky


@cache
def hours() -> tuple[Any, dict[str, float]]:
    """Return the hours of daylight, as a table by the end of each, and what is known of the place.

    Raises:
        MissingExtraError: without pvlib.
    """
    file = packaged_file("pvlib", "data/723170TYA.CSV", extra="evidence")
    from pvlib.iotools import read_tmy3

    year, place = read_tmy3(file, map_variables=True, coerce_year=1990)
    return year[(year["ghi_extra"] > 50) & (year["ghi"] > 0)], place


def parts_of(year: Any, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the masks of the three parts: all hours of a day are in the same one."""
    return split_rows(year.index.day_of_year.to_numpy(), seed)


def weather(seed: int) -> Table:
    """Return the hours with labels in their units."""
    year, _ = hours()
    day, hour = 2 * np.pi * year.index.day_of_year / 365, 2 * np.pi * year.index.hour / 24
    light = [year["ghi"], year["ghi_extra"], year["dni_extra"], year["ghi"] / year["ghi_extra"]]
    inputs = np.stack([*light, np.sin(day), np.cos(day), np.sin(hour), np.cos(hour)], axis=1)
    labels = {task: year[column].to_numpy("float64") for task, column in COLUMNS.items()}
    labels["cloudy"] = (year["TotCld (tenths)"] >= CLOUDY_FROM).to_numpy()
    return make_table(TASKS, inputs, labels, parts_of(year, seed))
