"""Materialization: as the offline join says, newest wins, killed at any moment, read while it runs."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from feast import FeatureStore
from features import repository
from features.repository import END, START
from features.test_online import NAMES, REFS, keys
from features.test_online_stores import newest_wins

from hotlap import features
from hotlap.errors import InputError, StoreDown
from hotlap.features import materialize, registry

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(repo: Path, tmp_path: Path) -> Path:
    """A repository that was applied and never materialized."""
    return Path(shutil.copytree(repo, tmp_path / "repo"))


def contents(repo: Path) -> dict[str, list[Any]]:
    """All that the online store holds."""
    with sqlite3.connect(repo / "data/online.db") as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = "entity_key, feature_name, value, event_ts, created_ts"
        held = {
            name: sorted(connection.execute(f'SELECT {columns} FROM "{name}" WHERE feature_name != ""'))
            for name in tables
        }
    connection.close()
    return held


def test_online_is_what_the_offline_join_gives_at_the_same_instant_ties_included(copy: Path) -> None:
    store = features.open(copy)
    told = store.materialize(end=END)
    assert told["views"]["weather"]["rows"] == 1
    asked = repository.asked(300).with_columns(event_timestamp=pl.lit(END))
    offline = store.training(asked, REFS, full_feature_names=True).read()
    online = store.online(asked.select("driver_id", "city"), REFS, at=END, full_feature_names=True)
    assert online.table.select(NAMES).to_pydict() == offline.select(NAMES).to_pydict()


def test_plain_feast_reads_what_was_written_and_goes_on_where_it_ended(copy: Path) -> None:
    features.open(copy).materialize(end=END)
    plain = FeatureStore(str(copy))
    theirs = plain.get_online_features(REFS, keys(), full_feature_names=True).to_dict()
    ours = features.open(copy).online(keys(), REFS, at=START, full_feature_names=True)  # nothing is old then
    assert {name: theirs[name] for name in NAMES} == ours.table.select(NAMES).to_pydict()
    assert plain.get_feature_view("trips").most_recent_end_time == END.replace(tzinfo=UTC)


def test_shares_don_t_change_what_is_written(copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    features.open(copy).materialize(end=END)
    seen: list[tuple[str, int, int]] = []
    store = features.open(other)
    materialize.run(store, end=END, share_rows=150, progress=lambda *step: seen.append(step))
    assert contents(copy) == contents(other)
    assert max(shares for _, _, shares in seen) > 5
    assert all(through <= shares for _, through, shares in seen)


def test_the_next_run_takes_what_is_new_and_what_came_late(copy: Path) -> None:
    middle = START + timedelta(hours=100)
    first = features.open(copy).materialize(["trips"], end=middle)
    assert first["views"]["trips"]["start"] == (middle - timedelta(days=2)).replace(tzinfo=UTC).isoformat()
    late = pl.read_parquet(copy / "data/trips.parquet").head(1).with_columns(
        driver_id=pl.lit(77, pl.Int64), at=pl.lit(middle - timedelta(hours=1)), made=pl.lit(middle + timedelta(hours=9))
    )  # fmt: skip
    pl.concat([pl.read_parquet(copy / "data/trips.parquet"), late]).write_parquet(copy / "data/trips.parquet")
    second = features.open(copy).materialize(["trips"], end=END)
    assert second["views"]["trips"]["start"] == middle.replace(tzinfo=UTC).isoformat()
    got = features.open(copy).online({"driver_id": [77]}, ["trips:rate"], at=middle)
    assert got.status("rate") == ["present"]
    assert features.open(copy).materialize(["trips"], end=END)["views"]["trips"]["start"] is not None


def test_an_older_row_never_replaces_a_newer_one(copy: Path) -> None:
    features.open(copy).materialize(end=END)
    before = contents(copy)
    features.open(copy).materialize(start=START, end=START + timedelta(hours=120))
    features.open(copy).materialize(start=START, end=END)
    assert contents(copy) == before


def test_only_a_newer_row_replaces_another(copy: Path) -> None:
    newest_wins(copy)


def test_killed_at_any_moment_it_goes_on_and_ends_as_an_uninterrupted_run(copy: Path, tmp_path: Path) -> None:
    right = Path(shutil.copytree(copy, tmp_path / "right"))
    features.open(right).materialize(["trips"], end=END)
    code = (
        "import sys, datetime\nfrom hotlap import features\nfrom hotlap.features import materialize\n"
        "store = features.open(sys.argv[1])\nprint('open', flush=True)\n"
        "told = materialize.run(store, ['trips'], end=datetime.datetime.fromisoformat(sys.argv[2]), share_rows=40,"
        " progress=lambda view, through, shares: print(through, flush=True))\n"
        "import json; print(json.dumps(told))\n"
    )
    draw = np.random.default_rng(3)
    killed = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(copy), END.isoformat()], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        until = int(draw.integers(1, 9)) if killed < 3 else 10**6
        last = ""
        for count, line in enumerate(process.stdout):
            last = line
            if count == until:
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
        process.stdout.close()
        if process.wait() == 0:
            break
        with sqlite3.connect(copy / "data/online.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
    assert killed == 3
    assert json.loads(last)["views"]["trips"]["resumed_after_shares"] > 0
    assert contents(copy)["taxi_trips"] == contents(right)["taxi_trips"]


def test_rows_of_a_store_that_was_replaced_meanwhile_are_written_again(copy: Path) -> None:
    empty = copy / "data/empty.db"
    shutil.copy(copy / "data/online.db", empty)

    def replace(view: str, through: int, shares: int) -> None:
        if through == 2 and empty.exists():
            empty.replace(copy / "data/online.db")

    with pytest.raises(StoreDown, match="may have lost those of before; run `hotlap features materialize` again"):
        materialize.run(features.open(copy), ["trips"], end=END, share_rows=40, progress=replace)
    told = materialize.run(features.open(copy), ["trips"], end=END, share_rows=40)
    assert told["views"]["trips"]["resumed_after_shares"] == 0
    asked = pl.read_parquet(copy / "data/trips.parquet")["driver_id"].unique()
    assert "missing" not in features.open(copy).online({"driver_id": asked}, ["trips:rate"], at=END).status("rate")


def test_reading_works_while_it_runs(copy: Path) -> None:
    """Feast issue 6780: no read fails, and none sees half a row."""
    store = features.open(copy)
    store.materialize(end=END)
    right = store.online(keys(), REFS, at=END, full_feature_names=True).table
    stop, failed = threading.Event(), []

    def write() -> None:
        try:
            while not stop.is_set():
                materialize.run(features.open(copy), start=START, end=END, share_rows=300)
        except Exception as error:  # noqa: BLE001 - told by the test
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):
            assert store.online(keys(), REFS, at=END, full_feature_names=True).table.equals(right)
    finally:
        stop.set()
        writer.join()
    assert not failed


def test_an_end_that_lies_ahead_leaves_nothing_out_of_the_next_run(copy: Path) -> None:
    store = features.open(copy)
    store.materialize(["trips"], start=START, end=datetime.now(UTC) + timedelta(days=365))
    noted = registry.materialized_until(store.registry_path, "taxi", "trips")
    assert noted is not None
    assert noted <= datetime.now(UTC)


def test_an_end_that_feast_noted_ahead_of_now_hides_nothing(copy: Path) -> None:
    """Feast notes the end that it was given, though rows may come until then."""
    store = features.open(copy)
    ahead = datetime.now(UTC) + timedelta(days=365)
    registry.note_materialized(store.registry_path, "taxi", "trips", START.replace(tzinfo=UTC), ahead)
    assert store.materialize(["trips"])["views"]["trips"]["rows"] > 30


@pytest.mark.parametrize(
    ("views", "start", "end", "message"),
    [
        (["nothing"], None, END, "no view nothing; there are scores, trips, weather"),
        (None, END, START, "lies after end"),
    ],
)
def test_what_cant_be_materialized_is_said(
    copy: Path, views: list[str] | None, start: datetime | None, end: datetime, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        features.open(copy).materialize(views, start=start, end=end)


def test_a_disabled_view_is_left_out_and_refused_by_name(copy: Path) -> None:
    path = copy / "data/registry.db"
    held: Any = registry.read(path)
    for view in held.feature_views:
        view.spec.disabled = view.spec.name == "trips"
    path.write_bytes(held.SerializeToString())
    told = features.open(copy).materialize(end=END)
    assert sorted(told["views"]) == ["scores", "weather"]
    with pytest.raises(InputError, match="view trips is disabled; `feast feature-views enable trips` lets it be mat"):
        features.open(copy).materialize(["trips"], end=END)
    for view in held.feature_views:
        view.spec.disabled = True
    path.write_bytes(held.SerializeToString())
    with pytest.raises(InputError, match=r"no views with online=True are registered; disabled is \w+, \w+, \w+; def"):
        features.open(copy).materialize(end=END)


def test_a_source_whose_values_are_of_another_type_is_named(copy: Path) -> None:
    path = copy / "data/trips.parquet"
    pl.read_parquet(path).with_columns(rate=pl.lit("fast")).write_parquet(path)
    with pytest.raises(InputError, match="feature rate: string can't be written as DOUBLE"):
        features.open(copy).materialize(["trips"], end=END)


def test_noting_it_leaves_the_rest_of_the_registry_as_it_is(copy: Path) -> None:
    path = copy / "data/registry.db"
    before: Any = registry.read(path)
    features.open(copy).materialize(["trips"], end=END)
    after: Any = registry.read(path)
    for one in (*before.feature_views, *after.feature_views):
        one.meta.ClearField("materialization_intervals")
    for field in ("version_id", "last_updated"):
        before.ClearField(field)
        after.ClearField(field)
    assert after == before
