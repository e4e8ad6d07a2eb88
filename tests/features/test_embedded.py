"""hotlap's own online store: what SQLite's gives, newest wins, through plain Feast too, while a writer is at work."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from feast import FeatureStore
from features import repository
from features.repository import END, START
from features.test_online import NAMES, REFS, keys
from features.test_online_stores import newest_wins

from hotlap import features
from hotlap.errors import InputError
from hotlap.features import embedded, materialize
from hotlap.features.materialize import rows_of
from hotlap.features.online_stores import Ask
from hotlap.features.online_stores import embedded as own
from hotlap.features.online_stores.embedded import column_name

pytestmark = pytest.mark.slow

EMBEDDED = "{type: hotlap.features.EmbeddedOnlineStore, path: data/online.db}"


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository.write(tmp_path_factory.mktemp("embedded"), online=EMBEDDED)


@pytest.fixture
def copy(applied: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(applied, tmp_path / "repo"))


@pytest.fixture(scope="module")
def by_feast(applied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Materialized by Feast's own command, through the plugin."""
    copy = Path(shutil.copytree(applied, tmp_path_factory.mktemp("feast") / "repo"))
    return repository.materialize(copy)


@pytest.mark.parametrize("rows", [1, 60, 20_000])
def test_it_gives_what_sqlite_gives(by_feast: Path, materialized: Path, rows: int) -> None:
    """The most keys take several statements."""
    right = features.open(materialized).online(keys(rows), REFS, at=END, full_feature_names=True)
    got = features.open(by_feast).online(keys(rows), REFS, at=END, full_feature_names=True)
    assert got.table.equals(right.table)
    for name in NAMES:
        assert got.status(name) == right.status(name)
        assert got.age(name).tolist() == pytest.approx(right.age(name).tolist(), nan_ok=True)


@pytest.mark.parametrize("one_row", [True, False], ids=["a row for all views", "a row for each"])
def test_a_key_alone_gives_what_it_gives_among_others(
    by_feast: Path, one_row: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known or not, living or not."""
    if not one_row:
        monkeypatch.setattr(own, "_fit_one_row", lambda asks: False)
    store, asked, late = features.open(by_feast), keys(60), END + timedelta(hours=46)
    together = store.online(asked, REFS, at=late, full_feature_names=True)
    assert {*together.status(NAMES[0])} >= {"present", "missing", "expired"}
    for place in range(60):
        alone = store.online(
            {name: [column[place]] for name, column in asked.items()}, REFS, at=late, full_feature_names=True
        )
        assert alone.table.equals(together.table.slice(place, 1).combine_chunks())
        assert alone.to_dict() == alone.table.to_pydict()
        for name in NAMES:
            assert alone.status(name) == together.status(name)[place : place + 1]
            assert alone.age(name).tolist() == pytest.approx(together.age(name)[place : place + 1], nan_ok=True)


def test_more_views_than_sqlite_joins_are_read_in_rows_of_their_own() -> None:
    few = tuple(Ask(view=None, table="t", features=("x",)) for _ in range(60))
    assert own._fit_one_row(few)
    assert not own._fit_one_row((*few, few[0]))
    assert not own._fit_one_row((Ask(view=None, table="t", features=tuple(map(str, range(1_990)))),))
    assert not own._fit_one_row(())


def test_plain_feast_reads_what_hotlap_materialized(copy: Path) -> None:
    features.open(copy).materialize(end=END)
    ours = features.open(copy).online(keys(60), REFS, at=START, full_feature_names=True)  # nothing is old then
    theirs = FeatureStore(str(copy)).get_online_features(REFS, keys(60), full_feature_names=True).to_dict()
    assert {name: theirs[name] for name in NAMES} == ours.table.select(NAMES).to_pydict()


def test_only_a_newer_row_replaces_another(copy: Path) -> None:
    newest_wins(copy)


def test_feasts_own_writes_keep_what_is_newer(copy: Path) -> None:
    repository.materialize(copy)
    before = features.open(copy).online(keys(60), REFS, at=END, full_feature_names=True).table
    FeatureStore(str(copy)).materialize(START - timedelta(days=1), START + timedelta(hours=50))
    assert features.open(copy).online(keys(60), REFS, at=END, full_feature_names=True).table.equals(before)


def test_times_are_kept_to_the_microsecond(copy: Path) -> None:
    store = features.open(copy)
    view = store.feast.get_feature_view("trips")
    for event, value in ((END, 1.0), (END + timedelta(microseconds=2), 2.0), (END + timedelta(microseconds=1), 3.0)):
        frame = pl.DataFrame({"driver_id": [9], "rate": [value], "count": [1], "at": [event], "made": [END]})
        store.reach.store().write(rows_of(view, "taxi_trips", frame))
    got = store.online({"driver_id": [9]}, ["trips:rate"], at=END + timedelta(seconds=1))
    assert got.table["rate"].to_pylist() == [2.0]
    assert got.age("rate").tolist() == [pytest.approx(0.999998)]


def test_a_feature_that_is_added_later_is_null_in_what_was_there(copy: Path) -> None:
    store = features.open(copy)
    store.materialize(["trips"], end=END)
    text = (copy / "definitions.py").read_text()
    # A name that differs in case alone is another feature.
    old, new = (f'Field(name="{name}", dtype=Float64), ' for name in ("rate", "Rate"))
    wider = text.replace(f'{old}Field(name="count"', f'{old}{new}Field(name="count"')
    (copy / "definitions.py").write_text(wider)
    trips = pl.read_parquet(copy / "data/trips.parquet")
    trips.with_columns(Rate=pl.col("rate") + 100).write_parquet(copy / "data/trips.parquet")
    before = store.online(keys(60), ["trips:rate"], at=END)
    features.apply(copy)
    store = features.open(copy)
    got = store.online(keys(60), ["trips:rate", "trips:Rate"], at=END)
    assert got.table["rate"].equals(before.table["rate"])
    assert set(got.status("Rate")) <= {"null", "missing", "expired"}
    store.materialize(["trips"], start=START, end=END)
    got = features.open(copy).online(keys(60), ["trips:rate", "trips:Rate"], at=START)
    present = [pair for pair in zip(*got.table.select(["rate", "Rate"]).to_pydict().values(), strict=True) if pair[0]]
    assert present
    assert all(more == pytest.approx(rate + 100) for rate, more in present)


def test_a_table_that_lacks_a_feature_is_said(copy: Path) -> None:
    store = features.open(copy)
    with closing(sqlite3.connect(copy / "data/online.db")) as connection:
        connection.execute('ALTER TABLE "taxi_trips:rows" DROP COLUMN "f:rate"')
    with pytest.raises(InputError, match=r"no such column.*run `hotlap features apply`"):
        store.online({"driver_id": [1]}, ["trips:rate"])
    with pytest.raises(InputError, match="run `hotlap features apply`"):
        store.materialize(["trips"], end=END)


def test_a_file_that_feasts_own_store_wrote_serves_both(copy: Path, materialized: Path, tmp_path: Path) -> None:
    """Another type over the same path: its tables stay as they are, and empty ones stand beside them."""
    other = Path(shutil.copytree(materialized, tmp_path / "other"))
    features.open(other).materialize(start=START, end=END)
    shutil.copy(materialized / "data/online.db", copy / "data/online.db")
    for left in copy.glob("data/online.db-*"):
        left.unlink()
    with pytest.raises(InputError, match="run `hotlap features apply`"):
        features.open(copy).online({"driver_id": [1]}, ["trips:rate"])
    features.apply(copy)
    features.open(copy).materialize(end=END)
    got = features.open(copy).online(keys(60), REFS, at=END, full_feature_names=True)
    right = features.open(other).online(keys(60), REFS, at=END, full_feature_names=True)
    assert got.table.equals(right.table)


def test_a_view_that_is_gone_loses_its_table_and_the_others_stay(copy: Path) -> None:
    features.open(copy).materialize(end=END)
    text = (copy / "definitions.py").read_text()
    (copy / "definitions.py").write_text(text.replace("scores = FeatureView(", "scores = dict("))
    features.apply(copy)
    with closing(sqlite3.connect(copy / "data/online.db")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"taxi_trips:rows", "taxi_weather:rows"}
    FeatureStore(str(copy)).teardown()
    with closing(sqlite3.connect(copy / "data/online.db")) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone() == (0,)


@pytest.mark.parametrize("name", ['x"; DROP TABLE "taxi_trips:rows"; --', "'; SELECT 1", "%s", "?", "\N{SNOWMAN}"])
def test_a_hostile_key_is_only_a_key_that_nobody_knows(by_feast: Path, name: str) -> None:
    got = features.open(by_feast).online({"city": [name, "Bergen"]}, ["weather:rain"], at=END)
    assert got.status("rain") == ["missing", "present"]


def test_names_that_sqlite_takes_for_one_have_columns_of_their_own() -> None:
    names = ["rate", "Rate", "RATE", 'a"b', "Ärger", "ärger", "event", "entity_key", "rate:" + "0" * 8]
    assert len({column_name(name).lower() for name in names}) == len(names)


def test_more_features_than_a_table_can_have_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "MOST_FEATURES", 1)
    with pytest.raises(InputError, match="view trips has 2 features; this store holds 1 a view"):
        features.apply(copy)


def test_a_writer_holds_no_reader_up(copy: Path) -> None:
    """One that has begun and not yet ended, too."""
    store = features.open(copy, timeout_s=0.2, retries=0)
    store.materialize(end=END)
    right = store.online(keys(60), REFS, at=END, full_feature_names=True).table
    with closing(sqlite3.connect(copy / "data/online.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute('DELETE FROM "taxi_trips:rows"')
        assert store.online(keys(60), REFS, at=END, full_feature_names=True).table.equals(right)
        connection.execute("ROLLBACK")
    failed: list[Any] = []

    def write() -> None:
        try:
            for _ in range(3):
                materialize.run(features.open(copy), start=START, end=END, share_rows=300)
        except Exception as error:  # noqa: BLE001 - told by the test
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert store.online(keys(60), REFS, at=END, full_feature_names=True).table.equals(right)
    assert not failed
