"""Another offline store than hotlap's, by feature_store.yaml alone: Feast's file store (dask), a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from features import repository, servers
from features.repository import END, START

from hotlap import features
from hotlap.cli.main import run
from hotlap.errors import HotlapError, InputError, Refusal, StoreDown
from hotlap.features.other_offline import OtherOffline
from hotlap.features.store import Store

pytestmark = pytest.mark.slow

OWN = "{type: hotlap.features.PolarsOfflineStore}"
REFS = ["trips:rate", "trips:count", "weather:rain", "scores:rate", "first:rate"]
MORE = """
first = FeatureView(
    name="first", entities=[], ttl=timedelta(days=5), schema=[Field(name="rate", dtype=Float64)],
    source=FileSource(path="data/first.parquet", timestamp_field="at"),
)
"""
FILES = ("trips.parquet", "weather/day=2/part.parquet", "scores.parquet", "first.parquet")
TABLE = """
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource

def FileSource(path, **options):
    return PostgreSQLSource(table=path.split("/")[1].split(".")[0], **options)
"""
POSTGRES = (
    "{type: postgres, host: 127.0.0.1, port: %d, database: postgres, user: taxi, db_schema: public, "
    'password: "${STORE_PASSWORD}", sslmode: disable}'
)


def changed(repo: Path, folder: Path, offline: str) -> Store:
    """The repository with another offline store, in a folder of its own."""
    import shutil

    shutil.copytree(repo, folder)
    yaml = folder / "feature_store.yaml"
    yaml.write_text(yaml.read_text().replace(OWN, offline))
    return features.open(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without equal times, which other stores decide as they like, and with times in UTC."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "data").mkdir()
    pl.DataFrame({"at": [START, START + timedelta(days=4)], "rate": [1.0, 2.0]}).write_parquet(
        folder / "data/first.parquet"
    )
    repository.write(folder, more=MORE)
    (folder / "data/weather/day=1/part.parquet").unlink()
    for file in FILES:
        path = folder / "data" / file
        rows = pl.read_parquet(path)
        keys = [name for name in ("driver_id", "city", "at") if name in rows.columns]
        rows = rows.unique(keys, keep="first", maintain_order=True)
        rows.with_columns(pl.col(pl.Datetime).dt.replace_time_zone("UTC").dt.cast_time_unit("us")).write_parquet(path)
    return folder


@pytest.fixture(scope="module")
def dask(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return changed(plain, tmp_path_factory.mktemp("dask") / "repo", "{type: dask}")


@pytest.fixture(scope="module")
def postgres(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The same views and rows; the sources are tables of the same names."""
    import psycopg

    folder = tmp_path_factory.mktemp("postgres")
    with pytest.MonkeyPatch.context() as patch, servers.postgres() as (port, _):
        patch.setenv("STORE_PASSWORD", servers.PASSWORD)
        (folder / "data").mkdir()
        (folder / "feature_store.yaml").write_text((repository.CONFIG % "").replace(OWN, POSTGRES % port))
        told = repository.DEFINITIONS.replace(", FileSource", "").replace("from datetime", TABLE + "from datetime", 1)
        (folder / "definitions.py").write_text(told + MORE)
        place = f"host=127.0.0.1 port={port} dbname=postgres user=taxi password={servers.PASSWORD} sslmode=disable"
        with psycopg.connect(place) as connection:
            for file in FILES:
                load(connection, file.split("/")[0].split(".")[0], pl.read_parquet(plain / "data" / file))
        features.apply(folder)
        yield features.open(folder)


def load(connection: object, table: str, rows: pl.DataFrame) -> None:
    kinds = {pl.Int64: "bigint", pl.Float64: "double precision", pl.String: "text"}
    columns = ", ".join(f'"{name}" {kinds.get(type(kind), "timestamptz")}' for name, kind in rows.schema.items())
    with connection.cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute(f"CREATE TABLE {table} ({columns})")
        with cursor.copy(f"COPY {table} FROM STDIN") as copy:
            for row in rows.iter_rows():
                copy.write_row(row)


@pytest.fixture(params=["dask", "postgres"])
def other(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


def asked() -> pl.DataFrame:
    """Rows many of which are there twice, some without a key or an instant."""
    rows = repository.asked(300)
    holes = rows.head(3).with_columns(
        driver_id=pl.Series([None, 1, 2], dtype=pl.Int64), event_timestamp=pl.Series([START, None, None])
    )
    return pl.concat([rows, rows.head(100), holes.cast(rows.schema)])  # type: ignore[arg-type]


@pytest.mark.parametrize("known_only", [False, True])
def test_training_rows_are_the_same_whoever_joins(plain: Path, other: Store, known_only: bool) -> None:
    right = features.open(plain).training(asked(), REFS, full_feature_names=True, known_only=known_only)
    made = other.training(asked(), REFS, full_feature_names=True, known_only=known_only)
    rows, theirs = pl.from_arrow(right.read()), pl.from_arrow(made.read())
    assert isinstance(theirs, pl.DataFrame)
    assert theirs.equals(rows)
    for name in ("trips__rate", "first__rate"):
        assert 0 < theirs[name].null_count() < len(theirs)
    for view, told in made.report["views"].items():
        assert told["missing"] == right.report["views"][view]["missing"]
        assert (told["age_seconds"], told["leak_share"]) == (None, None)
    assert made.report["lineage"]["offline_store"] in ("dask", "postgres")


def test_rows_that_a_store_loses_come_back_empty_and_are_counted(dask: Store, postgres: Store) -> None:
    """Feast's file store drops rows whose values are all too old or too new; so many are known to be without."""
    lost = dask.training(asked(), REFS, full_feature_names=True).report["views"]
    assert 0 < lost["trips"]["lost_rows"] <= lost["trips"]["missing"]
    kept = postgres.training(asked(), REFS, full_feature_names=True).report["views"]
    assert [told["lost_rows"] for told in kept.values()] == [0] * len(kept)


def test_what_is_materialized_and_checked_is_the_same(plain: Path, other: Store, tmp_path: Path) -> None:
    ours = changed(plain, tmp_path / "ours", OWN)
    keys = {"driver_id": list(range(44)), "city": ["Bergen"] * 44}
    tables = []
    for store in (ours, other):
        told = store.materialize(start=START - timedelta(days=1), end=END)["views"]
        tables.append((store.online(keys, REFS, at=END, full_feature_names=True).table, told["trips"]["rows"]))
    assert tables[0][0].equals(tables[1][0])
    assert tables[0][1] == tables[1][1] > 0
    found = other.check(REFS, keys=keys, at=END)
    assert found.breaches() == []
    assert found.report["features"]["trips:rate"]["both"] > 0
    assert other.materialize(["trips"], end=END)["views"]["trips"]["rows"] <= tables[0][1]


def test_the_command_says_who_joined_and_what_was_lost(
    dask: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked().write_parquet(tmp_path / "rows.parquet")
    common = ["features", "train", "--repo", str(dask.repo), "--entities", str(tmp_path / "rows.parquet")]
    assert run([*common, "--feature", "trips:rate", "--out", str(tmp_path / "a.parquet")]) == 0
    said = capsys.readouterr().out
    assert "joined by the offline store dask, ties by its rules" in said
    assert "the store lost " in said
    assert run([*common, "--feature", "trips:rate", "--out", str(tmp_path / "b.parquet"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"]["trips"]["lost_rows"] > 0


def test_pushed_rows_go_where_the_store_writes_them(tmp_path: Path) -> None:
    from features.test_push import VIEW, offline, online, rows

    (tmp_path / "data").mkdir()
    moment = pl.Series([START] * 2).dt.replace_time_zone("UTC")
    first = pl.DataFrame({"driver_id": [1, 2], "at": moment, "made": moment, "n": [10, 20]})
    first.write_parquet(tmp_path / "data/clicks.parquet")
    repository.write(tmp_path, more=VIEW, rows=50)
    yaml = tmp_path / "feature_store.yaml"
    yaml.write_text(yaml.read_text().replace(OWN, "{type: dask}"))
    store = features.open(tmp_path)
    store.push("clicked", rows([1, 3], [5, 5], [11, 31]))
    assert online(store, 1, 3) == offline(store, 1, 3) == [11, 31]
    with pytest.raises(InputError, match=r"view clicks: column clicked has 1\.7 \(Float64\), where only whole numbers"):
        store.push("clicked", rows([1], [6], [1]).with_columns(clicked=pl.lit(1.7)), to="offline")
    assert offline(store, 1, 2) == [11, 20]


@pytest.mark.parametrize(
    ("offline", "message"),
    [
        ("", r"no offline_store; set `offline_store: {type: hotlap.features.PolarsOfflineStore}`, or another"),
        ("offline_store: {type: nonsense}", "'nonsense' should end with the string `OfflineStore`"),
        ("offline_store: {type: nowhere.NoOfflineStore}", "'nowhere' .* it needs nowhere, which is not installed"),
    ],
)
def test_a_store_that_cant_be_had_is_named(tmp_path: Path, offline: str, message: str) -> None:
    yaml = f"project: taxi\nprovider: local\nregistry: data/registry.db\n{offline}\n"
    (tmp_path / "feature_store.yaml").write_text(yaml)
    with pytest.raises(InputError, match=message):
        features.open(tmp_path)


class OperationalError(Exception):
    """What database drivers raise, by PEP 249."""


class ConnectionTimeout(OperationalError):
    """Their own kinds of it."""


@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (
            ConnectionTimeout("Connection refused\n for hunter2"),
            StoreDown,
            "ConnectionTimeout: Connection refused for ***; start the server, or give its host and port",
        ),
        (ConnectionResetError(), StoreDown, "ConnectionResetError: no reason given"),
        (FileNotFoundError("no file"), InputError, "FileNotFoundError: no file"),
        (NotImplementedError(), InputError, None),
    ],
)
def test_what_a_client_raises_is_told_as_ours(raised: Exception, kind: type[Exception], told: str | None) -> None:
    config = SimpleNamespace(offline_store=SimpleNamespace(password="hunter2"))
    store: Any = SimpleNamespace(feast=SimpleNamespace(config=config))
    made = OtherOffline(store=store, offline=None, name="postgres")
    with pytest.raises(HotlapError) as caught, made._asked("view trips"):
        raise raised
    assert type(caught.value) is kind
    words = f"offline store postgres, view trips: {told}" if told else "offline store postgres can't do this"
    assert str(caught.value).startswith(words)


def test_a_store_that_gives_a_row_twice_is_refused(plain: Path, tmp_path: Path) -> None:
    store = changed(plain, tmp_path / "twice", "{type: features.twice.TwiceOfflineStore}")
    with pytest.raises(Refusal, match=r"view trips came back with \d+ rows for \d+, so which are right can't be told"):
        store.training(asked(), ["trips:rate"])
    with pytest.raises(InputError, match="can't leave out what was created later; join without known_only"):
        store.training(asked(), ["trips:rate"], known_only=True)
    with pytest.raises(InputError, match="view trips is joined on driver_id, which the entity frame lacks"):
        store.training(asked().drop("driver_id"), ["trips:rate"])
    (store.repo / "data/weather").rename(store.repo / "data/gone")
    with pytest.raises(InputError, match=r"offline store .*, view weather: FileNotFoundError: .*data/weather"):
        store.training(asked(), ["weather:rain"])
