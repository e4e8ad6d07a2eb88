"""PolarsOfflineStore through Feast itself: its FeatureStore, its command line, its configuration file."""

from __future__ import annotations

import json
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from feast import FeatureStore
from features import repository
from features.naive import as_of

from hotlap import features
from hotlap.errors import InputError
from hotlap.features.job import METADATA

FEATURES = ["trips:rate", "trips:count", "weather:rain"]


def expected(
    repo: Path, rows: pl.DataFrame, *, at: str = "event_timestamp", known_only: bool = False
) -> dict[str, Any]:
    trips = pl.read_parquet(repo / "data/trips.parquet").to_dicts()
    weather = pl.concat(
        [
            pl.read_parquet(repo / f"data/weather/day={day}/part.parquet").cast({"at": pl.Datetime("us")})
            for day in (1, 2)
        ]
    ).to_dicts()
    common = {"at": at, "event": "at", "known_only": known_only}
    found = [
        (
            as_of(row, trips, keys=(("driver_id",) * 2,), created="made", ttl=timedelta(days=2), **common),
            as_of(row, weather, keys=(("city",) * 2,), created=None, ttl=None, **common),
        )
        for row in rows.to_dicts()
    ]
    return {
        "rate": [one and one["rate"] for one, _ in found],
        "count": [one and one["n"] for one, _ in found],
        "rain": [one and one["rain"] for _, one in found],
    }


def of(table: pa.Table, names: list[str]) -> dict[str, Any]:
    return {name: table.column(name).to_pylist() for name in names}


def test_every_entity_row_comes_back_once_in_its_order_with_what_the_definition_says(repo: Path) -> None:
    rows = repository.asked()
    job = FeatureStore(str(repo)).get_historical_features(rows.to_pandas(), FEATURES)
    table = job.to_arrow()
    assert of(table, ["rate", "count", "rain"]) == expected(repo, rows)
    assert of(table, ["driver_id", "city", "label"]) == of(rows.to_arrow(), ["driver_id", "city", "label"])
    assert table.column("event_timestamp").to_pylist() == [one.replace(tzinfo=UTC) for one in rows["event_timestamp"]]
    assert job.to_df().shape == (len(rows), 7)
    report = {one.view: one for one in job.report}
    assert report["trips"].missing == table.column("rate").null_count
    assert 0 < (report["trips"].leak_share or 0) < 1
    assert report["weather"].leak_share is None
    assert json.loads(table.schema.metadata[METADATA])[0]["view"] == "trips"


def test_known_only_leaves_nothing_in_that_was_created_later(repo: Path, tmp_path: Path) -> None:
    rows = repository.asked(200)
    store = FeatureStore(str(repo))
    asked = store.get_historical_features(rows.to_pandas(), FEATURES, filter_by_created_timestamp=True)
    right = expected(repo, rows, known_only=True)
    assert of(asked.to_arrow(), ["rate", "count", "rain"]) == right
    assert right["rate"] != expected(repo, rows)["rate"]
    assert asked.report[0].created_after == 0
    config = store.config.model_copy()
    config._offline_store = store.config.offline_store.model_copy(update={"known_only": True})
    always = FeatureStore(str(repo), config=config).get_historical_features(rows.to_pandas(), FEATURES)
    assert of(always.to_arrow(), ["rate", "count", "rain"]) == right


def test_the_newest_created_wins_among_equal_event_times_at_sizes_where_unstable_sorts_show(tmp_path: Path) -> None:
    repo = repository.write(tmp_path, rows=50_000)
    source = pl.read_parquet(repo / "data/trips.parquet").with_row_index("place")
    best = source.sort("at", "made", "place").unique(["driver_id", "at"], keep="last")
    assert len(best) < len(source) / 5
    rows = best.select("driver_id", event_timestamp="at")
    table = FeatureStore(str(repo)).get_historical_features(rows.to_pandas(), ["trips:rate"]).to_arrow()
    assert table.column("rate").to_pylist() == best["rate"].to_list()


def test_two_keys_full_names_and_a_name_taken_twice(repo: Path) -> None:
    rows = repository.asked(300)
    store = FeatureStore(str(repo))
    features = ["trips:rate", "scores:rate"]
    table = store.get_historical_features(rows.to_pandas(), features, full_feature_names=True).to_arrow()
    scores = pl.read_parquet(repo / "data/scores.parquet").to_dicts()
    keys = (("driver_id",) * 2, ("city",) * 2)
    right = [
        as_of(row, scores, keys=keys, at="event_timestamp", event="at", created="made", ttl=None, known_only=False)
        for row in rows.to_dicts()
    ]
    assert table.column("scores__rate").to_pylist() == [one and one["rate"] for one in right]
    assert table.column("trips__rate").to_pylist() == expected(repo, rows)["rate"]
    taken = rows.with_columns(rate=pl.lit(1.0)).to_pandas()
    with pytest.raises(InputError, match="view trips: there is a column rate already"):
        store.get_historical_features(taken, ["trips:rate"]).to_arrow()


@pytest.mark.parametrize("form", ["polars", "lazy", "arrow", "path", "folder", "zone", "text"])
def test_entities_in_any_form(repo: Path, tmp_path: Path, form: str) -> None:
    rows = repository.asked(50)
    right = expected(repo, rows)
    (tmp_path / "parts").mkdir()
    rows.write_parquet(tmp_path / "rows.parquet")
    rows.head(20).write_parquet(tmp_path / "parts/0.parquet")
    rows.tail(30).write_parquet(tmp_path / "parts/1.parquet")
    zoned = rows.to_pandas()
    zoned["event_timestamp"] = zoned["event_timestamp"].dt.tz_localize("UTC").dt.tz_convert("Asia/Kolkata")
    given: Any = {
        "polars": rows, "lazy": rows.lazy(), "arrow": rows.to_arrow(), "path": str(tmp_path / "rows.parquet"),
        "folder": str(tmp_path / "parts"), "zone": zoned,
        "text": rows.with_columns(pl.col("event_timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")),
    }[form]  # fmt: skip
    table = FeatureStore(str(repo)).get_historical_features(given, FEATURES).to_arrow()
    assert of(table, ["rate", "count", "rain"]) == right


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("select * from drivers", "no such file"),
        (pl.DataFrame({"driver_id": [1]}), "no column is a timestamp"),
        (pl.DataFrame({"driver_id": [1], "event_timestamp": [5]}), "event_timestamp is Int64, not a timestamp"),
        (pl.DataFrame({"city": ["Oslo"], "event_timestamp": [repository.START]}), "which the entity frame lacks"),
        ([1, 2], "a list; give a pandas or polars frame"),
    ],
)
def test_entities_that_cant_be_used_are_refused_with_the_way_out(repo: Path, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FeatureStore(str(repo)).get_historical_features(given, ["trips:rate"]).to_arrow()


def test_without_entities_each_keys_newest_value_at_the_end(repo: Path) -> None:
    end = repository.START + timedelta(hours=150)
    table = FeatureStore(str(repo)).get_historical_features(None, ["trips:rate"], end_date=end).to_arrow()
    drivers = pl.read_parquet(repo / "data/trips.parquet")["driver_id"].unique().sort()
    rows = pl.DataFrame({"driver_id": drivers, "city": "Oslo"}).with_columns(event_timestamp=pl.lit(end))
    right = dict(zip(drivers.to_list(), expected(repo, rows)["rate"], strict=True))
    got = dict(zip(table.column("driver_id").to_pylist(), table.column("rate").to_pylist(), strict=True))
    assert got == {driver: rate for driver, rate in right.items() if rate is not None}


def test_materialized_values_are_each_keys_newest_and_written_rows_are_added(tmp_path: Path) -> None:
    repo = repository.write(tmp_path, rows=300)
    store = FeatureStore(str(repo))
    source = pl.read_parquet(repo / "data/trips.parquet")
    end = repository.START + timedelta(hours=300)
    late = pd.DataFrame({"driver_id": [3], "at": [end - timedelta(hours=1)], "made": [end], "rate": [0.5], "n": [4]})
    store.write_to_offline_store("trips", late)
    assert pl.read_parquet(repo / "data/trips.parquet").height == source.height + 1
    store.materialize(repository.START, end)
    got = store.get_online_features(["trips:rate"], [{"driver_id": driver} for driver in range(45)]).to_dict()
    ranked = source.with_row_index("place").sort("at", "made", "place").unique("driver_id", keep="last")
    right = dict(ranked.select("driver_id", "rate").iter_rows()) | {3: 0.5}
    assert dict(zip(got["driver_id"], got["rate"], strict=True)) == {d: right.get(d) for d in range(45)}


DELTA = """
from feast.data_format import DeltaFormat

kept = FeatureView(
    name="kept", entities=[driver], ttl=timedelta(days=2), schema=[Field(name="rate", dtype=Float64)],
    source=FileSource(
        path="data/kept", file_format=DeltaFormat(), timestamp_field="at", created_timestamp_column="made"
    ),
)
"""


def test_a_delta_table_is_joined_as_it_is_now(tmp_path: Path) -> None:
    """Appended to and deleted from, it gives what a Parquet file of its present rows gives; and is materialized."""
    repo = repository.write(tmp_path / "repo", rows=300)
    rows = pl.read_parquet(repo / "data/trips.parquet")
    table = str(repo / "data/kept")
    rows[:100].write_delta(table)
    rows[100:].write_delta(table, mode="append")
    DeltaTable(table).delete("driver_id = 3")
    (repo / "definitions.py").write_text(repository.DEFINITIONS + DELTA)
    features.apply(repo)
    rows.filter(pl.col("driver_id") != 3).write_parquet(repo / "data/trips.parquet")
    store, asked = features.open(repo), repository.asked()
    with_parquet = store.training(asked, ["trips:rate"], at="event_timestamp").table
    assert store.training(asked, ["kept:rate"], at="event_timestamp").table.equals(with_parquet)
    store.materialize(["kept", "trips"], end=repository.END)
    keys = {"driver_id": list(range(45))}
    online = [store.online(keys, [f"{view}:rate"], at=repository.END).table for view in ("kept", "trips")]
    assert online[0].equals(online[1])
    assert online[0]["rate"].null_count < 40
