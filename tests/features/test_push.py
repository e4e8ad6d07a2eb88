"""Pushed rows serve and train as if they had always been in the source, late ones too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from features import repository, servers
from features.repository import END, START
from features.test_online_stores import YAML

from hotlap import features
from hotlap.errors import InputError
from hotlap.features.push import To
from hotlap.features.store import Store

pytestmark = pytest.mark.slow

VIEW = """
from feast import PushSource

clicks = FeatureView(
    name="clicks", entities=[driver], schema=[Field(name="clicked", dtype=Int64)],
    source=PushSource(name="clicked", batch_source=FileSource(
        path="data/clicks.parquet", timestamp_field="at", created_timestamp_column="made",
        field_mapping={"n": "clicked"},
    )),
)
"""
RULES = """
import pandera.polars as pa
import polars as pl

rules = {"clicks": pa.DataFrameSchema({"clicked": pa.Column(pl.Int64, pa.Check.ge(0))})}
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "data").mkdir()
    first = pl.DataFrame({"driver_id": [1, 2], "at": [START] * 2, "made": [START] * 2, "n": [10, 20]})
    first.write_parquet(tmp_path / "data/clicks.parquet")
    return features.open(repository.write(tmp_path, more=VIEW, rows=50))


@pytest.fixture(params=["redis", "postgres"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The same with another online store, in a server of its own."""
    monkeypatch.setenv("STORE_PASSWORD", servers.PASSWORD)
    (tmp_path / "data").mkdir()
    first = pl.DataFrame({"driver_id": [1, 2], "at": [START] * 2, "made": [START] * 2, "n": [10, 20]})
    first.write_parquet(tmp_path / "data/clicks.parquet")
    with getattr(servers, request.param)() as (port, _):
        repo = repository.write(tmp_path, more=VIEW, rows=50, online=YAML[request.param] % port)
        yield features.open(repo, timeout_s=10)


def rows(driver: list[int], hours: list[float], clicked: list[int]) -> pl.DataFrame:
    at = [START + timedelta(hours=hour) for hour in hours]
    return pl.DataFrame({"driver_id": driver, "at": at, "clicked": clicked})


def online(store: Store, *drivers: int) -> list[int | None]:
    return store.online({"driver_id": list(drivers)}, ["clicks:clicked"], at=END).table["clicked"].to_pylist()


def offline(store: Store, *drivers: int) -> list[int | None]:
    asked = pl.DataFrame({"driver_id": drivers, "event_timestamp": [END] * len(drivers)})
    return store.training(asked, ["clicks:clicked"]).read()["clicked"].to_pylist()


def test_a_late_row_goes_into_history_and_replaces_nothing(store: Store) -> None:
    store.push("clicked", rows([1, 2, 3], [5, 5, 5], [11, 21, 31]))
    assert online(store, 1, 2, 3) == offline(store, 1, 2, 3) == [11, 21, 31]
    store.push("clicked", rows([1, 2], [3, 7], [12, 22]))
    assert online(store, 1, 2, 3) == offline(store, 1, 2, 3) == [11, 22, 31]
    asked = pl.DataFrame({"driver_id": [1], "event_timestamp": [START + timedelta(hours=4)]})
    assert store.training(asked, ["clicks:clicked"]).read()["clicked"].to_pylist() == [12]
    found = store.check(["clicks:clicked"], keys={"driver_id": [1, 2, 3, 4]}, at=END)
    assert found.breaches() == []
    assert found.report["features"]["clicks:clicked"]["both"] == 3


def test_redis_and_postgres_take_pushed_rows_alike_and_a_check_finds_what_is_only_online(elsewhere: Store) -> None:
    test_a_late_row_goes_into_history_and_replaces_nothing(elsewhere)
    elsewhere.push("clicked", rows([1], [8], [99]), to="online")
    told = elsewhere.check(["clicks:clicked"], keys={"driver_id": [1, 2]}, at=END).report["features"]["clicks:clicked"]
    assert (told["both"], told["mismatch"]["count"], told["newer"]) == (2, 1, 1)


def test_equal_events_are_decided_by_when_they_were_made(store: Store) -> None:
    made = [START + timedelta(hours=hour) for hour in (9, 8)]
    for moment, clicked in zip(made, (1, 2), strict=True):
        store.push("clicked", rows([1], [5], [clicked]).with_columns(made=pl.lit(moment)))
    assert online(store, 1) == offline(store, 1) == [1]
    twice = rows([1, 1], [6, 6], [3, 4]).with_columns(made=pl.Series([made[0], made[1]]))
    store.push("clicked", twice)
    assert online(store, 1) == offline(store, 1) == [3]


@pytest.mark.parametrize("to", ["online", "offline"])
def test_either_may_be_pushed_to_alone(store: Store, to: str) -> None:
    store.push("clicked", rows([1], [5], [11]).to_pandas(), to=to)  # type: ignore[arg-type]
    assert online(store, 1) == ([11] if to == "online" else [None])
    assert offline(store, 1) == ([11] if to == "offline" else [10])


def test_rows_that_break_a_rule_go_nowhere(store: Store) -> None:
    (store.repo / "rules.py").write_text(RULES)
    with pytest.raises(InputError, match=r"push clicked: view clicks breaks .* clicked breaks .*\(0\) in 1 of 2 rows"):
        store.push("clicked", rows([1, 2], [5, 5], [3, -1]))
    assert (online(store, 1, 2), offline(store, 1, 2)) == ([None, None], [10, 20])


@pytest.mark.parametrize(
    ("source", "frame", "message"),
    [
        ("nothing", rows([1], [5], [1]), "no view has a push source 'nothing'; there are clicked"),
        ("clicked", rows([1], [5], [1]).drop("at"), "have no column at, the time of the event"),
        ("clicked", rows([1], [5], [1]).drop("clicked"), "no column clicked"),
        ("clicked", rows([1], [5], [1]).with_columns(at=pl.lit(None, pl.Datetime)), "1 pushed rows have no at"),
        ("clicked", rows([1], [5], [1]).with_columns(clicked=pl.lit("x")), "clicked"),
        ("clicked", rows([1], [5], [1]).with_columns(clicked=pl.lit(1.7)), "clicked"),
        ("clicked", rows([1], [5], [1]).with_columns(clicked=pl.lit(float("nan"))), "clicked"),
        ("clicked", rows([1], [5], [1]).with_columns(clicked=pl.lit(2**63, pl.UInt64)), "clicked"),
    ],
)
def test_what_cant_be_pushed_says_why_and_changes_nothing(
    store: Store, source: str, frame: pl.DataFrame, message: str
) -> None:
    before = (store.repo / "data/clicks.parquet").read_bytes()
    with pytest.raises(InputError, match=message):
        store.push(source, frame)
    assert (store.repo / "data/clicks.parquet").read_bytes() == before
    assert online(store, 1) == [None]


@pytest.mark.parametrize("to", ["online", "offline", "both"])
@pytest.mark.parametrize("value", [1.7, float("nan"), float("inf"), 1e300])
def test_a_fraction_is_never_cut_off_to_fit_whole_numbers(store: Store, to: To, value: float) -> None:
    frame = rows([1], [5], [1]).with_columns(clicked=pl.lit(value))
    before = (store.repo / "data/clicks.parquet").read_bytes()
    with pytest.raises(InputError, match=r"clicked|column '?n\b"):
        store.push("clicked", frame, to=to)
    assert (store.repo / "data/clicks.parquet").read_bytes() == before
    assert online(store, 1) == [None]
    store.push("clicked", frame.with_columns(clicked=pl.lit(2.0)), to=to)
    assert online(store, 1) == ([2] if to != "offline" else [None])
