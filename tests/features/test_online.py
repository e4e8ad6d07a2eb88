"""Online reads against what plain Feast materialized, and against Feast's own reads of it."""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from feast import FeatureStore
from features import repository
from features.repository import END, START

from hotlap import features
from hotlap.errors import InputError, StoreDown
from hotlap.features import times
from hotlap.features.materialize import rows_of
from hotlap.features.online_stores import through_feast

REFS = ["trips:rate", "trips:count", "weather:rain", "scores:rate"]
NAMES = ["trips__rate", "trips__count", "weather__rain", "scores__rate"]


def keys(rows: int = 60) -> dict[str, list[Any]]:
    asked = repository.asked(rows)
    return {"driver_id": asked["driver_id"].to_list(), "city": asked["city"].to_list()}


@pytest.mark.parametrize("rows", [1, 5, 60, 2000])
def test_feasts_own_read_gives_the_same_values(materialized: Path, rows: int) -> None:
    ours = features.open(materialized).online(keys(rows), REFS, at=END, full_feature_names=True)
    theirs = FeatureStore(str(materialized)).get_online_features(REFS, keys(rows), full_feature_names=True).to_dict()
    assert ours.table.column_names == ["driver_id", "city", *NAMES]
    expired = [one == "expired" for one in ours.status("trips__rate")]
    for name in ("weather__rain", "scores__rate"):
        assert ours.table[name].to_pylist() == theirs[name]
    for name in ("trips__rate", "trips__count"):
        hidden = [None if old else one for one, old in zip(theirs[name], expired, strict=True)]
        assert ours.table[name].to_pylist() == hidden
    assert ours.table.schema.field("trips__count").type == pa.int64()


def test_the_values_are_those_of_the_offline_join_at_the_same_instant(materialized: Path) -> None:
    store = features.open(materialized)
    asked = repository.asked(300).with_columns(event_timestamp=pl.lit(END))
    refs = ["trips:rate", "trips:count", "weather:rain"]  # Feast's own materialization breaks the ties of `scores`
    offline = store.training(asked, refs).read()
    online = store.online(asked.select("driver_id", "city"), refs, at=END)
    names = ["rate", "count", "rain"]
    assert online.table.select(names).to_pydict() == offline.select(names).to_pydict()
    assert online.table.schema.field("rate").type == offline.schema.field("rate").type


def test_a_value_is_withheld_past_its_time_to_live_and_an_age_of_just_that_counts(materialized: Path) -> None:
    store = features.open(materialized)
    first = store.online({"driver_id": [3]}, ["trips:rate"], at=END)
    age = timedelta(seconds=float(first.age("rate")[0]))
    edge = END - age + timedelta(days=2)
    still = store.online({"driver_id": [3]}, ["trips:rate"], at=edge)
    gone = store.online({"driver_id": [3]}, ["trips:rate"], at=edge + timedelta(microseconds=1))
    assert (still.status("rate"), gone.status("rate")) == (["present"], ["expired"])
    assert still.table["rate"][0].as_py() is not None
    assert gone.table["rate"][0].as_py() is None
    assert gone.age("rate")[0] == pytest.approx(2 * 86400)


def test_status_and_age_of_keys_that_nobody_knows_repeat_or_are_null(materialized: Path) -> None:
    got = features.open(materialized).online({"driver_id": [7, None, 4_000, 7]}, ["trips:rate"], at=END)
    assert got.status("rate")[1:3] == ["missing", "missing"]
    assert got.table["rate"][0] == got.table["rate"][3]
    assert got.events["trips"][1] == times.NEVER
    assert np.isnan(got.age("rate")).tolist() == [False, True, True, False]
    assert got.table["driver_id"].to_pylist() == [7, None, 4_000, 7]


@pytest.mark.parametrize(
    "form",
    [
        lambda columns: columns,
        pd.DataFrame,
        pl.DataFrame,
        pa.table,
        lambda columns: [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        lambda columns: {"driver_id": np.array(columns["driver_id"], np.int32), "city": np.array(columns["city"])},
    ],
)
def test_keys_come_in_any_form(materialized: Path, form: Any) -> None:
    store = features.open(materialized)
    assert store.online(form(keys()), REFS, at=END, full_feature_names=True).table.equals(
        store.online(keys(), REFS, at=END, full_feature_names=True).table
    )


def test_a_pandas_column_with_a_missing_key_holds_floats(materialized: Path) -> None:
    got = features.open(materialized).online(pd.DataFrame({"driver_id": [7, None]}), ["trips:rate"], at=END)
    assert got.table["driver_id"].to_pylist() == [7, None]


def test_a_nullable_pandas_column_holds_na(materialized: Path) -> None:
    given = pd.DataFrame({"driver_id": pd.array([7, None], dtype="Int64")})
    got = features.open(materialized).online(given, ["trips:rate"], at=END)
    assert got.table["driver_id"].to_pylist() == [7, None]
    assert got.status("rate") == ["present", "missing"]


@pytest.mark.parametrize(
    ("given", "refs", "message"),
    [
        ({"driver_id": ["7"]}, ["trips:rate"], "key driver_id: '7' is no whole number"),
        ({"driver_id": [1.5]}, ["trips:rate"], "key driver_id: 1.5 is no whole number"),
        ({"driver_id": [2**63]}, ["trips:rate"], "does not fit INT64"),
        ({"driver_id": [float("inf")]}, ["trips:rate"], "key driver_id: inf is no whole number"),
        ({"driver_id": [1], "note": [2**70]}, ["trips:rate"], "column note holds what no table can"),
        ({"driver_id": [1], "note": ["\ud800"]}, ["trips:rate"], "column note holds what no table can"),
        (pa.table([[1], [2]], ["driver_id", "driver_id"]), ["trips:rate"], "two columns are named driver_id"),
        (pd.DataFrame([[1, 2]], columns=["driver_id"] * 2), ["trips:rate"], "two columns are named driver_id"),
        ({"driver_id": 7}, ["trips:rate"], r"is one value; give a column of them, as in \[7\]"),
        ({"city": [7]}, ["weather:rain"], "key city: 7 is a int, and the entity's keys are STRING"),
        ({"city": ["\ud800"]}, ["weather:rain"], "can be written as UTF-8"),
        ({"city": ["Oslo"]}, ["trips:rate"], "view trips is joined on driver_id, which the keys lack"),
        ({"driver_id": [1, 2], "city": ["Oslo"]}, ["scores:rate"], r"differ in length \(driver_id 2, city 1\)"),
        ([{"driver_id": 1}, {"city": "Oslo"}], ["trips:rate"], "the rows have different names"),
        ([], ["trips:rate"], "keys: an empty list, so not even their names are known"),
        ("driver_id", ["trips:rate"], "keys: a str; give a dict of columns"),
        (
            {"driver_id": [1], "city": ["Oslo"]},
            ["trips:rate", "scores:rate"],
            "view scores: there is a column rate already",
        ),
        ({"driver_id": [1], "rate": [1]}, ["trips:rate"], "view trips: there is a column rate already"),
        ({"driver_id": [1]}, ["trips:nothing"], "view trips has no feature 'nothing'; it has rate, count"),
        ({"driver_id": [1]}, "nothing", "no feature service nothing"),
    ],
)
def test_what_cant_be_asked_is_said(materialized: Path, given: Any, refs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        features.open(materialized).online(given, refs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"down": "nul"}, "down is 'nul'; give raise or null"),
        ({"expired": "kept"}, "expired is 'kept'; give null or keep"),
        ({"at": "2026-03-01"}, "at is '2026-03-01'; give a datetime"),
    ],
)
def test_an_option_that_is_misspelt_is_none_of_the_others(
    materialized: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        features.open(materialized).online({"driver_id": [1]}, ["trips:rate"], **options)


def test_no_keys_give_no_rows(materialized: Path) -> None:
    got = features.open(materialized).online({"driver_id": [], "city": []}, "both")
    assert got.table.num_rows == 0
    assert got.table.schema.field("rain").type == pa.float64()


def test_a_repository_without_an_online_store_says_what_to_run(materialized: Path, tmp_path: Path) -> None:
    shutil.copytree(materialized, tmp_path / "repo")
    database = tmp_path / "repo/data/online.db"
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE taxi_trips")
    connection.close()
    with pytest.raises(InputError, match="no such table: taxi_trips; run `hotlap features apply`"):
        features.open(tmp_path / "repo").online({"driver_id": [1]}, ["trips:rate"])
    database.unlink()
    with pytest.raises(InputError, match="no such file; run `hotlap features apply`"):
        features.open(tmp_path / "repo").online({"driver_id": [1]}, ["trips:rate"])


def test_a_store_that_is_locked_is_down_and_nulls_are_given_only_where_asked(
    materialized: Path, tmp_path: Path
) -> None:
    shutil.copytree(materialized, tmp_path / "repo")
    connection = sqlite3.connect(tmp_path / "repo/data/online.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    store = features.open(tmp_path / "repo", timeout_s=0.05)
    with pytest.raises(StoreDown, match=r"asked 2 times, each within 0.05 s: database is locked"):
        store.online({"driver_id": [1]}, ["trips:rate"])
    got = store.online({"driver_id": [1]}, ["trips:rate"], down="null")
    assert got.table["rate"].to_pylist() == [None]
    assert got.status("rate") == ["unavailable"]
    assert "database is locked" in got.unavailable["trips"]
    connection.execute("ROLLBACK")
    assert store.online({"driver_id": [1]}, ["trips:rate"], at=END).status("rate") == ["present"]
    connection.close()


@pytest.mark.parametrize("online", [repository.SQLITE, "{type: hotlap.features.EmbeddedOnlineStore, path: data/o.db}"])
def test_a_file_that_was_removed_and_made_anew_is_read_and_written(repo: Path, tmp_path: Path, online: str) -> None:
    shutil.copytree(repo, tmp_path / "repo")
    yaml = tmp_path / "repo/feature_store.yaml"
    yaml.write_text(yaml.read_text().replace(repository.SQLITE, online))
    features.apply(tmp_path / "repo")
    store = features.open(tmp_path / "repo")
    store.materialize(["trips"], end=END)
    assert store.online({"driver_id": [3]}, ["trips:rate"], at=END).status("rate") == ["present"]
    for left in (tmp_path / "repo/data").glob("o*.db*"):
        left.unlink()
    with pytest.raises(InputError, match="no such file; run `hotlap features apply`"):
        store.online({"driver_id": [3]}, ["trips:rate"])
    features.apply(tmp_path / "repo")
    assert store.online({"driver_id": [3]}, ["trips:rate"], at=END).status("rate") == ["missing"]
    store.materialize(["trips"], start=START, end=END)
    again = features.open(tmp_path / "repo")
    assert again.online({"driver_id": [3]}, ["trips:rate"], at=END).status("rate") == ["present"]


def test_rows_whose_times_an_old_feast_wrote_as_text_are_replaced_by_newer_ones(
    materialized: Path, tmp_path: Path
) -> None:
    shutil.copytree(materialized, tmp_path / "repo")
    with sqlite3.connect(tmp_path / "repo/data/online.db") as connection:
        connection.execute("UPDATE taxi_trips SET event_ts = '2026-03-01T10:00:00', created_ts = event_ts")
    connection.close()
    store = features.open(tmp_path / "repo")
    for event, value, age in (("09:59:59", 1.0, -1), ("10:00:01", 2.0, 0)):
        at = datetime.fromisoformat(f"2026-03-01T{event}")
        frame = pl.DataFrame({"driver_id": [3], "rate": [value], "count": [1], "at": [at], "made": [at]})
        store.reach.store().write(rows_of(store.feast.get_feature_view("trips"), "taxi_trips", frame))
        got = store.online({"driver_id": [3]}, ["trips:rate"], at=at)
        assert got.age("rate").tolist() == [age]
        assert (got.table["rate"].to_pylist() == [value]) is (age == 0)


def test_threads_share_a_store(materialized: Path) -> None:
    store = features.open(materialized, connections=2)
    right = store.online(keys(), REFS, at=END, full_feature_names=True).table
    with ThreadPoolExecutor(6) as pool:
        tables = pool.map(lambda _: store.online(keys(), REFS, at=END, full_feature_names=True).table, range(30))
    assert all(one.equals(right) for one in tables)


def test_a_store_without_a_file_of_its_own_is_reached_through_feast(materialized: Path) -> None:
    own, through = features.open(materialized), features.open(materialized)
    through.reach._store = through_feast.open_store(through.reach)
    right = own.online(keys(), REFS, at=END, full_feature_names=True)
    got = through.online(keys(), REFS, at=END, full_feature_names=True)
    assert got.table.equals(right.table)
    assert got.age("trips__rate").tolist() == pytest.approx(right.age("trips__rate").tolist(), nan_ok=True)


FLOAT_KEY = """
sensor = Entity(name="sensor", join_keys=["place"], value_type=ValueType.DOUBLE)
warmth = FeatureView(
    name="warmth", entities=[sensor], schema=[Field(name="rate", dtype=Float64)],
    source=FileSource(path="data/warmth.parquet", timestamp_field="at"),
)
"""


def test_a_key_of_a_type_that_feast_makes_none_of_is_said(repo: Path, tmp_path: Path) -> None:
    shutil.copytree(repo, tmp_path / "repo")
    pl.DataFrame({"place": [1.5], "at": [END], "rate": [2.0]}).write_parquet(tmp_path / "repo/data/warmth.parquet")
    with (tmp_path / "repo/definitions.py").open("a") as file:
        file.write(FLOAT_KEY)
    features.apply(tmp_path / "repo")
    with pytest.raises(InputError, match="key place is of type DOUBLE, of which Feast makes no keys"):
        features.open(tmp_path / "repo").online({"place": [1.5]}, ["warmth:rate"])
