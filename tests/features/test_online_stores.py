"""Redis and PostgreSQL, started for these tests: the same answers as SQLite's, and what happens when one is down."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from feast import FeatureStore
from features import repository, servers
from features.repository import END
from features.test_online import NAMES, REFS, keys

from hotlap import features
from hotlap.errors import InputError, StoreDown
from hotlap.features.materialize import rows_of
from hotlap.features.online_stores import through_feast, way_out
from hotlap.features.store import Store

pytestmark = pytest.mark.slow

YAML = {
    "redis": '{type: redis, connection_string: "127.0.0.1:%d,password=${STORE_PASSWORD}"}',
    "postgres": "{type: postgres, host: 127.0.0.1, port: %d, database: postgres, user: taxi, "
    'password: "${STORE_PASSWORD}", sslmode: disable}',
}
Running = tuple[Path, subprocess.Popen[str]]


@pytest.fixture(scope="module", params=["redis", "postgres"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A repository materialized by plain Feast into that store, and the store's process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORE_PASSWORD", servers.PASSWORD)
        folder = tmp_path_factory.mktemp(request.param)
        with getattr(servers, request.param)() as (port, process):
            repo = repository.write(folder, online=YAML[request.param] % port)
            yield repository.materialize(repo), process


@pytest.fixture
def store(running: Running) -> Store:
    return features.open(running[0], timeout_s=10)


@pytest.mark.parametrize("rows", [1, 60, 1500])
def test_every_store_gives_what_sqlite_gives(store: Store, materialized: Path, rows: int) -> None:
    right = features.open(materialized).online(keys(rows), REFS, at=END, full_feature_names=True)
    got = store.online(keys(rows), REFS, at=END, full_feature_names=True)
    assert got.table.equals(right.table)
    for name in NAMES:
        assert got.status(name) == right.status(name)
        assert got.age(name).tolist() == pytest.approx(right.age(name).tolist(), nan_ok=True)


def newest_wins(repo: Path) -> None:
    """Write a key again and again; only a newer row replaces another, and plain Feast reads each."""
    store = features.open(repo, timeout_s=10)
    view = store.feast.get_feature_view("trips")
    late = END + timedelta(hours=5)
    steps = [  # event, created, value, which value then stands
        (END, END, 1.0, 1.0),
        (END - timedelta(seconds=1), late, 2.0, 1.0),
        (END, END - timedelta(seconds=1), 3.0, 1.0),
        (END, None, 4.0, 1.0),
        (END, END, 5.0, 5.0),
        (END, late, None, None),
        (late, END, 7.0, 7.0),
    ]
    for event, created, value, stands in steps:
        frame = pl.DataFrame(
            {"driver_id": [500, None], "rate": [value, 0.0], "count": [1, 1], "at": [event] * 2, "made": [created] * 2},
            schema_overrides={"rate": pl.Float64, "made": pl.Datetime("us")},
        )
        store.reach.store().write(rows_of(view, "taxi_trips", frame))
        got = store.online({"driver_id": [500]}, ["trips:rate"], at=late)
        assert got.table["rate"].to_pylist() == [stands], (event, created)
    theirs = FeatureStore(str(repo)).get_online_features(["trips:rate", "trips:count"], {"driver_id": [500]}).to_dict()
    assert (theirs["rate"], theirs["count"]) == ([7.0], [1])
    assert got.age("rate").tolist() == [0.0]


def test_only_a_newer_row_replaces_another(running: Running) -> None:
    newest_wins(running[0])


def test_events_before_1970_are_compared_as_others(running: Running) -> None:
    store = features.open(running[0], timeout_s=10)
    event = datetime(1950, 1, 1)
    for value, later in ((1.0, 10), (2.0, 0), (3.0, 11), (4.0, 10)):
        at = event + timedelta(minutes=later)
        frame = pl.DataFrame({"driver_id": [503], "rate": [value], "count": [1], "at": [at], "made": [at]})
        store.reach.store().write(rows_of(store.feast.get_feature_view("trips"), "taxi_trips", frame))
    got = store.online({"driver_id": [503]}, ["trips:rate"], at=event)
    assert got.table["rate"].to_pylist() == [3.0]
    assert got.age("rate").tolist() == [-660]


def test_processes_that_were_forked_read_with_connections_of_their_own(store: Store) -> None:
    def read(driver: int) -> list[dict[str, Any]]:
        return store.online({"driver_id": [driver]}, ["trips:rate"], expired="keep").table.to_pylist()

    def right() -> bool:
        return all(read(driver) == wanted[driver] for _ in range(10) for driver in wanted)

    wanted = {driver: read(driver) for driver in range(40)}
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                os._exit(not right())
            finally:
                os._exit(1)
        children.append(child)
    ours = right()
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert ours


@pytest.mark.parametrize(
    "name", ['x"; DROP TABLE taxi_trips; --', "'; SELECT 1", "\r\nFLUSHALL\r\n", "%s", "\N{SNOWMAN}"]
)
def test_a_hostile_key_is_only_a_key_that_nobody_knows(store: Store, name: str) -> None:
    got = store.online({"city": [name, "Bergen"]}, ["weather:rain"], at=END)
    assert got.status("rain") == ["missing", "present"]
    assert store.online({"driver_id": [3]}, ["trips:rate"], at=END).status("rate") == ["present"]


def test_a_store_that_hangs_is_down_after_the_timeout_and_answers_again(running: Running) -> None:
    repo, process = running
    store = features.open(repo, timeout_s=1, retries=0)
    asked = {"driver_id": [3]}
    assert store.online(asked, ["trips:rate"], at=END).status("rate") == ["present"]
    for child in _family(process.pid):
        child.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreDown, match="does not answer; asked once"):
            store.online(asked, ["trips:rate"])
        assert store.online(asked, ["trips:rate"], down="null").status("rate") == ["unavailable"]
    finally:
        for child in _family(process.pid):
            child.send_signal(signal.SIGCONT)
    assert store.online(asked, ["trips:rate"], at=END).status("rate") == ["present"]


def _family(pid: int) -> list[Any]:
    import psutil

    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_store_that_is_not_there_is_named_and_its_password_is_not(
    kind: str, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "hunter2")
    port = servers.free_port()
    shutil.copytree(repo, tmp_path / "repo")
    text = (repo / "feature_store.yaml").read_text().replace(repository.SQLITE, YAML[kind] % port)
    (tmp_path / "repo/feature_store.yaml").write_text(text)
    with pytest.raises(StoreDown, match=f"{kind} at 127.0.0.1:{port}") as caught:
        features.open(tmp_path / "repo", timeout_s=0.2).online({"driver_id": [3]}, ["trips:rate"])
    assert "hunter2" not in str(caught.value)
    assert "asked 2 times" in str(caught.value)


def test_a_store_reached_through_feast_that_is_not_there_is_down(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "refused")
    text = (repo / "feature_store.yaml").read_text().replace(repository.SQLITE, YAML["redis"] % servers.free_port())
    copy = Path(shutil.copytree(repo, tmp_path / "repo"))
    (copy / "feature_store.yaml").write_text(text)
    store = features.open(copy)
    store.reach._store = through_feast.open_store(store.reach)
    with pytest.raises(StoreDown, match=r"redis, through Feast: ConnectionError: .* connecting to 127\.") as caught:
        store.online({"driver_id": [3]}, ["trips:rate"])
    assert "Connection ***" in str(caught.value)  # the password, as it happens
    assert store.online({"driver_id": [3]}, ["trips:rate"], down="null").status("rate") == ["unavailable"]
    with pytest.raises(StoreDown, match="redis, through Feast"):
        store.materialize(["trips"], end=END)


def read_by(repo: Path, tmp_path: Path, connection_string: str) -> None:
    """Read from a Redis that is named so."""
    shutil.copytree(repo, tmp_path / "repo")
    yaml = (repo / "feature_store.yaml").read_text()
    yaml = yaml.replace(repository.SQLITE, f'{{type: redis, connection_string: "{connection_string}"}}')
    (tmp_path / "repo/feature_store.yaml").write_text(yaml)
    features.open(tmp_path / "repo").online({"driver_id": [3]}, ["trips:rate"])


@pytest.mark.parametrize(
    "text", ["127.0.0.1,password=hunter2", "redis://:hunter2@127.0.0.1:6379", "127.0.0.1:port,password=hunter2", "db=1"]
)
def test_a_connection_string_that_names_no_place_is_said(repo: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="connection_string does not begin with host:port") as caught:
        read_by(repo, tmp_path, text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["password=hunter2,nosuch=1", "password=hun,ter2=x", "ssl=true,ssl_cert_reqs=hunter2", "protocol=7"]
)
def test_an_option_that_redis_does_not_know_is_said_without_the_password(repo: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(
        InputError, match="has an option, or a value of one, that Redis connections don't know"
    ) as caught:
        read_by(repo, tmp_path, f"127.0.0.1:6379,{text}")
    assert "ter2" not in str(caught.value)


def not_let_in(running: Running, tmp_path: Path, old: str, new: str) -> str:
    """What is said where one part of the store's configuration is another, by reads and by materialize alike."""
    text = (running[0] / "feature_store.yaml").read_text()
    assert old in text
    copy = Path(shutil.copytree(running[0], tmp_path / "repo"))
    (copy / "feature_store.yaml").write_text(text.replace(old, new))
    with pytest.raises(StoreDown) as caught:
        features.open(copy).online({"driver_id": [3]}, ["trips:rate"])
    with pytest.raises(StoreDown) as again:
        features.open(copy).materialize(["trips"], end=END)
    assert str(again.value) == str(caught.value)
    assert " refuses: " in str(caught.value)
    assert servers.PASSWORD not in str(caught.value)
    assert "guessed-wrong" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("running", ["postgres"], indirect=True)
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "${STORE_PASSWORD}",
            "guessed-wrong",
            "password authentication failed for user .*; give the user and password",
        ),
        ("user: taxi", "user: nobody", "password authentication failed for user .*; give the user and password"),
        ("database: postgres", "database: none", "database .none. does not exist; give a user and a database that the"),
        ("sslmode: disable", "sslmode: require", "does not support SSL.*; set `sslmode: disable` in online_store"),
    ],
    ids=["password", "user", "database", "SSL"],
)
def test_a_postgres_that_lets_nobody_in_refuses(
    running: Running, tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert re.search(said, not_let_in(running, tmp_path, old, new))


@pytest.mark.parametrize("running", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("${STORE_PASSWORD}", "guessed-wrong", "invalid username-password pair.*; give the user and password that the"),
        (",password=${STORE_PASSWORD}", "", "Authentication required.*; give its password in connection_string"),
        (",password", ",db=99,password", "DB index is out of range; give a `db` that the server has: 0 to 15"),
    ],
    ids=["password", "no password", "database"],
)
def test_a_redis_that_lets_nobody_in_refuses(running: Running, tmp_path: Path, old: str, new: str, said: str) -> None:
    assert re.search(said, not_let_in(running, tmp_path, old, new))


def refused(running: Running, spoil: Any, mend: Any) -> str:
    """What is said of a write while the server is spoiled; it takes the same write before and after."""
    store = features.open(running[0], timeout_s=10)
    frame = pl.DataFrame({"driver_id": [501], "rate": [1.0], "count": [1], "at": [END], "made": [END]})
    rows = rows_of(store.feast.get_feature_view("trips"), "taxi_trips", frame)
    store.reach.store().write(rows)
    spoil()
    try:
        with pytest.raises(StoreDown) as caught:
            features.open(running[0], timeout_s=10).reach.store().write(rows)
    finally:
        mend()
    features.open(running[0], timeout_s=10).reach.store().write(rows)
    assert servers.PASSWORD not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("running", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("spoil", "mend", "said"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "give it more memory"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "give the address of the primary"),
        (
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
            "too few replicas",
        ),
    ],
    ids=["full", "replica", "replicas missing"],
)
def test_a_redis_that_takes_no_writes_says_what_helps(
    running: Running, spoil: tuple[str, ...], mend: tuple[str, ...], said: str
) -> None:
    import redis

    own = features.open(running[0]).feast.config.online_store
    port = int(own.connection_string.partition(":")[2].partition(",")[0])
    with redis.Redis(port=port, password=servers.PASSWORD) as client:
        told = refused(running, lambda: client.execute_command(*spoil), lambda: client.execute_command(*mend))
    assert f"redis at 127.0.0.1:{port} refuses: " in told
    assert said in told


@pytest.mark.parametrize("running", ["postgres"], indirect=True)
def test_a_postgres_that_may_only_be_read_says_what_helps(running: Running) -> None:
    import psycopg

    own = features.open(running[0]).feast.config.online_store
    place = {"host": own.host, "port": own.port, "dbname": own.database, "user": own.user, "password": own.password}

    def only_read(value: str) -> None:
        with psycopg.connect(**place, options="-c default_transaction_read_only=off") as connection:
            connection.execute(f"ALTER USER taxi SET default_transaction_read_only = {value}")

    told = refused(running, lambda: only_read("on"), lambda: only_read("off"))
    assert "postgres at 127.0.0.1" in told
    assert "refuses: cannot execute INSERT in a read-only transaction; it is a replica, or its user may only" in told


def test_a_password_that_the_environment_lacks_is_named_before_anything_is_sent(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORE_PASSWORD", raising=False)
    shutil.copytree(repo, tmp_path / "repo")
    text = (repo / "feature_store.yaml").read_text().replace(repository.SQLITE, YAML["redis"] % 6399)
    (tmp_path / "repo/feature_store.yaml").write_text(text)
    store = features.open(tmp_path / "repo")
    assert len(store.training(repository.asked(5), ["trips:rate"]).read()) == 5  # it needs none
    with pytest.raises(InputError, match=r"online_store.connection_string takes \$\{STORE_PASSWORD\} from the env"):
        store.online({"driver_id": [3]}, ["trips:rate"])


def test_a_sqlite_that_another_process_holds_says_what_helps(repo: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(repo, tmp_path / "repo"))
    holder = sqlite3.connect(copy / "data/online.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    store = features.open(copy, timeout_s=0.1, retries=0)
    with pytest.raises(StoreDown, match="database is locked; another process writes it all the while; wait for that"):
        store.materialize(["trips"], end=END)
    holder.close()
    assert store.materialize(["trips"], end=END)["views"]["trips"]["rows"] > 0


def test_nothing_asked_gives_nothing(store: Store) -> None:
    """A service of views that are computed from the request alone."""
    assert store.reach.store().read((), []) == []


@pytest.mark.parametrize(
    ("told", "helps"),
    [
        ('FATAL: too many connections for role "reader"', "or raise the limit of its user or database"),
        ("FATAL: remaining connection slots are reserved for superusers", "or raise the server's limit"),
        ("No connection available.", "raise `connections`, or read from fewer threads"),
    ],
)
def test_what_helps_against_a_limit_of_connections_is_said(told: str, helps: str) -> None:
    assert way_out(told).endswith(helps)
