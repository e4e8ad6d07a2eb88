"""Pushed rows serve and train as if they had always been in the source, late ones too."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from features import repository, servers
from features.repository import END, START
from features.test_online_stores import YAML

from hotlap import features
from hotlap.cli.main import run
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
KINDS = """
from feast.types import Bool, Float32, Int32

kinds = FeatureView(
    name="kinds", entities=[city], schema=[
        Field(name="small", dtype=Int32), Field(name="flag", dtype=Bool), Field(name="share", dtype=Float32),
    ],
    source=PushSource(name="kinds", batch_source=FileSource(path="data/kinds.parquet", timestamp_field="at")),
)
"""
RULES = """
import pandera.polars as pa
import polars as pl

rules = {"clicks": pa.DataFrameSchema({"clicked": pa.Column(pl.Int64, pa.Check.ge(0))})}
"""


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("applied")
    (folder / "data").mkdir()
    first = pl.DataFrame({"driver_id": [1, 2], "at": [START] * 2, "made": [START] * 2, "n": [10, 20]})
    first.write_parquet(folder / "data/clicks.parquet")
    kinds = {"small": pl.Int32, "flag": pl.Boolean, "share": pl.Float32}
    pl.DataFrame({"city": ["007"], "at": [START], "small": [1], "flag": [True], "share": [0.5]}).cast(
        kinds  # type: ignore[arg-type]
    ).write_parquet(folder / "data/kinds.parquet")
    return repository.write(folder, more=VIEW + KINDS, rows=50)


@pytest.fixture
def store(applied: Path, tmp_path: Path) -> Store:
    """Of a repository of its own, since to apply one takes seconds."""
    return features.open(shutil.copytree(applied, tmp_path, dirs_exist_ok=True))


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
        ("nothing", rows([1], [5], [1]), "no view has a push source 'nothing'; there are clicked, kinds"),
        ("clicked", rows([1], [5], [1]).drop("at"), "have no column at, the time of the event"),
        ("clicked", rows([1], [5], [1]).drop("clicked"), "no column clicked"),
        ("clicked", rows([1], [5], [1]).with_columns(at=pl.lit(None, pl.Datetime)), "1 pushed rows have no at"),
        (
            "clicked",
            rows([1], [5], [1]).with_columns(driver_id=pl.lit(None, pl.Int64)),
            "1 pushed rows have no driver_id",
        ),
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


def at(*hours: float) -> list[str]:
    return [(START + timedelta(hours=hour)).isoformat() for hour in hours]


def kinds(store: Store, *cities: str) -> list[dict[str, Any]]:
    """What is served, once it is seen that training has the same."""
    refs = ["kinds:small", "kinds:flag", "kinds:share"]
    served = store.online({"city": list(cities)}, refs, at=END).table
    asked = pl.DataFrame({"city": cities, "event_timestamp": [END] * len(cities)})
    trained = store.training(asked, refs).read().drop(["event_timestamp"])
    assert served.to_pylist() == trained.to_pylist()
    return served.drop(["city"]).to_pylist()


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_the_command_takes_the_usual_files(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """A key that looks like a number stays text, and times that have no zone are UTC."""
    frame = pl.DataFrame(
        {"city": ["007", "Oslo"], "at": at(5, 6), "small": [2, None], "flag": [False, True], "share": [0.25, None],
         "sharre": [1, 2]}
    )  # fmt: skip
    path = tmp_path / f"rows.{form}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[form](path)
    common = ["features", "push", "kinds", "--repo", str(store.repo), "--rows", str(path)]
    assert run([*common, "--to", "both"]) == 0
    said = capsys.readouterr().out
    assert "2 rows of kinds to the online store and the sources, for kinds" in said
    assert "left out: sharre, which no view of it has" in said
    right = [{"small": 2, "flag": False, "share": 0.25}, {"small": None, "flag": True, "share": None}]
    assert kinds(store, "007", "Oslo") == right
    assert run([*common, "--json", "--to", "online"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "source": "kinds", "rows": 2, "views": ["kinds"], "to": "online", "left_out": ["sharre"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "city,at,small,flag,share\nA,2026-03-01,2147483648,true,0",
            "column small has '2147483648', which is no Int32",
        ),
        ("city,at,small,flag,share\nA,2026-03-01,1.7,true,0", "column small has '1.7', which is no Int32"),
        ("city,at,small,flag,share\nA,2026-03-01,1,maybe,0", "column flag has 'maybe', which is no Boolean"),
        ("city,at,small,flag,share\nA,yesterday,1,true,0", "column at is text that can't be read as ISO 8601"),
        ("city,at,small,flag\nA,2026-03-01,1,true", "the (rows have no|pushed rows have no) column share"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    before = (store.repo / "data/kinds.parquet").read_bytes()
    (tmp_path / "rows.csv").write_text(text)
    assert run(["features", "push", "kinds", "--repo", str(store.repo), "--rows", str(tmp_path / "rows.csv")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert (store.repo / "data/kinds.parquet").read_bytes() == before


@pytest.mark.parametrize("to", ["online", "offline"])
@pytest.mark.parametrize(
    ("column", "values"), [("small", [2**31, -(2**31) - 1]), ("flag", [2, 3]), ("share", [1e300, -1e300])]
)
def test_what_a_type_cant_hold_is_refused(store: Store, to: To, column: str, values: list[float]) -> None:
    frame = pl.DataFrame(
        {"city": ["A", "B"], "at": [START] * 2, "small": [1, 2], "flag": [True] * 2, "share": [0.5] * 2}
    )
    before = (store.repo / "data/kinds.parquet").read_bytes()
    with pytest.raises(InputError, match=column):
        store.push("kinds", frame.with_columns(pl.Series(column, values)), to=to)
    assert (store.repo / "data/kinds.parquet").read_bytes() == before
    assert store.online({"city": ["A"]}, ["kinds:small"], at=END).status("small") == ["missing"]


@pytest.mark.parametrize("to", ["online", "offline", "both"])
@pytest.mark.parametrize(
    ("push", "column", "value", "message"),
    [
        ("clicked", "clicked", True, r"clicked has True \(Boolean\)"),
        ("clicked", "clicked", "7", r"clicked has '7' \(String\), where only whole numbers \(Int64\) may stand"),
        ("clicked", "clicked", END, "clicked has 2026-"),
        ("clicked", "clicked", Decimal("1.5"), "clicked has 1.5"),
        ("clicked", "driver_id", True, "view clicks: key driver_id: True is no whole number"),
        ("clicked", "driver_id", "1", "view clicks: key driver_id: '1' is no whole number"),
        ("clicked", "at", datetime.now() + timedelta(days=3), "more than a day ahead of now"),
        ("kinds", "share", 2**24 + 1, r"share has 16777217 \(Int64\)"),
        ("kinds", "flag", 1, r"flag has 1 \(Int64\), where only true or false may stand in the view"),
        ("kinds", "city", 5, "key city: 5 is a int"),
    ],
)
def test_all_ways_refuse_the_same(store: Store, to: To, push: str, column: str, value: Any, message: str) -> None:
    frames = {
        "clicked": rows([1], [5], [1]),
        "kinds": pl.DataFrame({"city": ["A"], "at": [START], "small": [1], "flag": [True], "share": [0.5]}),
    }
    before = (store.repo / f"data/{'clicks' if push == 'clicked' else push}.parquet").read_bytes()
    with pytest.raises(InputError, match=message):
        store.push(push, frames[push].with_columns(pl.Series(column, [value])), to=to)
    assert (store.repo / f"data/{'clicks' if push == 'clicked' else push}.parquet").read_bytes() == before
    assert online(store, 1) == [None]


def test_a_created_time_of_ours_fits_a_source_in_milliseconds(store: Store) -> None:
    path = store.repo / "data/clicks.parquet"
    pl.read_parquet(path).cast({"at": pl.Datetime("ms"), "made": pl.Datetime("ms")}).write_parquet(path)
    store.push("clicked", rows([1], [5], [11]), to="offline")
    assert pl.read_parquet(path)["n"].to_list() == [10, 20, 11]
