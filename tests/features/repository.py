"""A real Feast repository in a folder: drivers' statistics, late and twice, with values missing."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

START = datetime(2026, 3, 1)

CONFIG = """
project: taxi
provider: local
registry: data/registry.db
online_store: {type: sqlite, path: data/online.db}
offline_store: {type: hotlap.features.PolarsOfflineStore%s}
entity_key_serialization_version: 3
"""

SQLITE = "{type: sqlite, path: data/online.db}"

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
city = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)

trips = FeatureView(
    name="trips", entities=[driver], ttl=timedelta(days=2),
    schema=[Field(name="rate", dtype=Float64), Field(name="count", dtype=Int64)],
    source=FileSource(
        path="data/trips.parquet", timestamp_field="at", created_timestamp_column="made", field_mapping={"n": "count"}
    ),
)
weather = FeatureView(
    name="weather", entities=[city], schema=[Field(name="rain", dtype=Float64)],
    source=FileSource(path="data/weather", timestamp_field="at"),
)
scores = FeatureView(
    name="scores", entities=[driver, city], schema=[Field(name="rate", dtype=Float64)],
    source=FileSource(path="data/scores.parquet", timestamp_field="at", created_timestamp_column="made"),
)
service = FeatureService(name="both", features=[trips, weather])
"""

FUNCTION = """
import pandas as pd
from feast.on_demand_feature_view import on_demand_feature_view

@on_demand_feature_view(sources=[trips], schema=[Field(name="double", dtype=Float64)])
def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"double": inputs["rate"] * 2})
"""

END = START + timedelta(hours=200)

CITIES = ("Bergen", "Oslo")


def write(
    folder: Path,
    *,
    options: str = "",
    more: str = "",
    rows: int = 2000,
    online: str = SQLITE,
) -> Path:
    """The repository, applied by Feast's own command line; its data is made from a fixed seed. more: further
    definitions. online: the online store."""
    rng = np.random.default_rng(5)
    data = folder / "data"
    (data / "weather/day=1").mkdir(parents=True)
    (data / "weather/day=2").mkdir()
    config = (CONFIG % options).replace(SQLITE, online)
    (folder / "feature_store.yaml").write_text(config)
    (folder / "definitions.py").write_text(DEFINITIONS + more)
    hour = timedelta(hours=1)
    at = [START + hour * int(h) for h in rng.integers(0, 200, rows)]
    pl.DataFrame(
        {"driver_id": rng.integers(0, 40, rows), "at": at, "made": [one + hour * int(h) for one, h in
         zip(at, rng.integers(0, 30, rows), strict=True)], "rate": rng.normal(size=rows), "n": rng.integers(0, 9, rows)}
    ).write_parquet(data / "trips.parquet")  # fmt: skip
    for day in (1, 2):
        hours = np.arange(100) + 100 * (day - 1)
        frame = pl.DataFrame({"at": [START + hour * int(h) for h in hours], "rain": rng.random(100)})
        frame = frame.with_columns(city=pl.lit(CITIES[0])).cast({"at": pl.Datetime("us" if day == 1 else "ns")})
        frame.write_parquet(data / f"weather/day={day}/part.parquet")
    pl.DataFrame(
        {"driver_id": rng.integers(0, 4, rows), "city": rng.choice(CITIES, rows), "rate": rng.normal(size=rows),
         "at": at, "made": at}
    ).write_parquet(data / "scores.parquet")  # fmt: skip
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "feast.cli.cli", "-c", str(folder), "apply"],
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    return folder


def materialize(folder: Path) -> Path:
    """All views from START to END, by Feast itself."""
    from feast import FeatureStore

    FeatureStore(str(folder)).materialize(START - timedelta(days=1), END)
    return folder


def asked(rows: int = 500, column: str = "event_timestamp") -> pl.DataFrame:
    """Entity rows; some of drivers that nobody knows, many twice."""
    rng = np.random.default_rng(6)
    return pl.DataFrame(
        {
            "driver_id": rng.integers(0, 44, rows),
            "city": rng.choice([*CITIES, "Nowhere"], rows),
            column: [START + timedelta(hours=int(h)) for h in rng.integers(-5, 260, rows)],
            "label": rng.random(rows) > 0.5,
        }
    )
