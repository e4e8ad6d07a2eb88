"""A run that was stopped in its midst goes on only where the store still has what was written."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from features import repository, servers
from features.repository import END, START
from features.test_online_stores import YAML

from hotlap import features
from hotlap.errors import StoreDown
from hotlap.features import materialize

pytestmark = pytest.mark.slow

ONLINE = YAML | {
    "sqlite": repository.SQLITE,
    "embedded": "{type: hotlap.features.EmbeddedOnlineStore, path: data/online.db}",
}


@pytest.fixture(scope="module", params=sorted(ONLINE))
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A kind of store, and a repository that was applied to one."""
    folder, online = tmp_path_factory.mktemp(request.param), ONLINE[request.param]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as life:
        patch.setenv("STORE_PASSWORD", servers.PASSWORD)
        if request.param in YAML:
            online %= life.enter_context(getattr(servers, request.param)())[0]
        yield request.param, repository.write(folder, online=online)


RESTORE = """
CREATE TABLE dumped AS SELECT * FROM taxi_trips WHERE feature_name = '';
TRUNCATE taxi_trips;
INSERT INTO taxi_trips SELECT * FROM dumped;
DROP TABLE dumped
"""
"""What a dump from before the rows does to their table: the mark stays."""


class Stopped(Exception):
    pass


def outlived(repo: Path, lose: Any) -> None:
    """A run is stopped in its midst, the store loses its rows, and the next run writes all of them."""

    def stop(view: str, through: int, shares: int) -> None:
        if through == 3:
            raise Stopped

    def run(progress: Any = None) -> Any:
        store = features.open(repo, timeout_s=10)
        return materialize.run(store, ["trips"], start=START, end=END, share_rows=40, progress=progress)

    for _ in range(2):
        with pytest.raises(Stopped):
            run(stop)
    lose()
    assert run()["views"]["trips"]["rows"] > 30
    asked = pl.read_parquet(repo / "data/trips.parquet")["driver_id"].unique()
    got = features.open(repo, timeout_s=10).online({"driver_id": asked}, ["trips:rate"], at=END)
    assert "missing" not in got.status("rate")


def put_back(repo: Path) -> None:
    """The view is taken out of the repository, and put back."""
    text = (repo / "definitions.py").read_text()
    (repo / "definitions.py").write_text(text.replace("trips = FeatureView(", "trips = dict(").split("service =")[0])
    features.apply(repo)
    (repo / "definitions.py").write_text(text)
    shutil.rmtree(repo / "__pycache__", ignore_errors=True)
    features.apply(repo)


def test_rows_that_went_with_their_view_are_written_again(held: tuple[str, Path]) -> None:
    outlived(held[1], lambda: put_back(held[1]))


def test_rows_that_were_removed_are_written_again(held: tuple[str, Path]) -> None:
    kind, repo = held
    own: Any = features.open(repo).reach.store()

    def asked_of_sqlite(query: str) -> None:
        with closing(sqlite3.connect(repo / "data/online.db", isolation_level=None)) as connection:
            connection.execute(query)

    def asked_of_postgres(query: str) -> None:
        with own._pool.connection() as connection:
            connection.execute(query)

    ways: dict[str, list[Callable[[], object]]] = {
        "sqlite": [lambda: asked_of_sqlite("DELETE FROM taxi_trips")],
        "embedded": [lambda: asked_of_sqlite('DELETE FROM "taxi_trips:rows"')],
        "redis": [lambda: own._asked_for(b"FLUSHDB\r\n")],
        "postgres": [
            lambda: asked_of_postgres("DELETE FROM taxi_trips"),
            lambda: asked_of_postgres("TRUNCATE taxi_trips"),
            lambda: asked_of_postgres(RESTORE),
        ],
    }
    for lose in ways[kind]:
        outlived(repo, lose)


def test_rows_that_a_redis_lost_with_a_restart_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps nothing on its disk here, so that what a journal says of an earlier life of it is not so."""
    monkeypatch.setenv("STORE_PASSWORD", servers.PASSWORD)
    port = servers.free_port()
    with ExitStack() as life:
        life.enter_context(servers.redis(port))
        repo = repository.write(tmp_path, online=YAML["redis"] % port)

        def stop(view: str, through: int, shares: int) -> None:
            if through == 3:
                raise Stopped

        def restart(view: str, through: int, shares: int) -> None:
            if through == 3:
                life.close()
                life.enter_context(servers.redis(port))

        def run(progress: Any = None) -> Any:
            return materialize.run(features.open(repo), ["trips"], end=END, share_rows=40, progress=progress)

        with pytest.raises(Stopped):
            run(stop)
        with pytest.raises(Stopped):
            run(stop)  # the same life: it goes on, from the third share
        restart("trips", 3, 10)
        with pytest.raises(StoreDown, match="view trips: the online store was started or made anew while rows were"):
            run(restart)
        told = run()["views"]["trips"]
        assert told["resumed_after_shares"] == 0
        asked = pl.read_parquet(repo / "data/trips.parquet")["driver_id"].unique()
        got = features.open(repo).online({"driver_id": asked}, ["trips:rate"], at=END)
        assert "missing" not in got.status("rate")
