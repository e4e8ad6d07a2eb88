"""The fast join gives what its definition says, whatever the data; DuckDB's ASOF join is a second witness."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from features.naive import as_of
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlap.errors import InputError
from hotlap.features.asof import View, look_up

START = datetime(2026, 3, 29)
UNITS = st.sampled_from(["ms", "us", "ns"])
ZONES = st.sampled_from([None, "UTC", "Europe/Berlin", "Asia/Kolkata"])
FEW = st.integers(0, 6)


def moments(unit: str, zone: str | None) -> pl.Datetime:
    return pl.Datetime(unit, zone)  # type: ignore[arg-type]


def frame(rows: list[dict[str, Any]], kinds: dict[str, pl.DataType]) -> pl.DataFrame:
    """Rows whose times are wall time in UTC, with each column as the kind asked for."""
    stamps = {name: kind for name, kind in kinds.items() if isinstance(kind, pl.Datetime)}
    made = pl.DataFrame(rows, schema={**kinds, **dict.fromkeys(stamps, pl.Datetime("us"))}, orient="row")
    for name, kind in stamps.items():
        column = pl.col(name).dt.cast_time_unit(kind.time_unit)
        if kind.time_zone:
            column = column.dt.replace_time_zone("UTC").dt.convert_time_zone(kind.time_zone)
        made = made.with_columns(column)
    return made


def hours(least: int = 0, most: int = 6) -> st.SearchStrategy[datetime | None]:
    """Few instants, so that many are equal; a millisecond beside the hour now and then; sometimes none."""
    moment = st.builds(
        lambda hour, ms: START + timedelta(hours=hour, milliseconds=ms),
        st.integers(least, most),
        st.sampled_from([0, 0, 0, 1, -1]),
    )
    return st.one_of(moment, moment, moment, st.none())


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    several = draw(st.booleans())
    names = ("who", "where") if several else ("who",)
    key = {"who": st.one_of(st.integers(0, 2), st.none()), "where": st.sampled_from(["a", "b", None])}
    kinds = {"who": pl.Int64(), "where": pl.String()}
    source = draw(
        st.lists(st.fixed_dictionaries({n: key[n] for n in names} | {"at": hours(), "made": hours(0, 8)}), max_size=12)
    )
    asked = draw(st.lists(st.fixed_dictionaries({n: key[n] for n in names} | {"now": hours(-1, 8)}), max_size=8))
    own = {n: kinds[n] for n in names}
    return {
        "source": [{**row, "value": place} for place, row in enumerate(source)],
        "asked": asked,
        "source_kinds": {
            **own, "at": moments(draw(UNITS), draw(ZONES)), "made": moments(draw(UNITS), draw(ZONES)),
            "value": pl.Int64(),
        },
        "asked_kinds": {**own, "now": moments(draw(UNITS), draw(ZONES))},
        "keys": tuple((n, n) for n in names),
        "created": draw(st.sampled_from(["made", None])),
        "ttl": draw(st.sampled_from([None, timedelta(hours=1), timedelta(hours=2, milliseconds=1)])),
        "known_only": draw(st.booleans()),
        "memory": draw(st.sampled_from([1e9, 200.0])),
    }  # fmt: skip


@given(cases())
@settings(max_examples=100)
def test_equals_the_definition(case: dict[str, Any]) -> None:
    source = frame(case["source"], case["source_kinds"])
    asked = frame(case["asked"], case["asked_kinds"])
    view = View(
        name="v", source=source.lazy(), keys=case["keys"], event="at", created=case["created"], ttl=case["ttl"],
        features=(("value", "value"),),
    )  # fmt: skip
    found = look_up(asked, "now", view, known_only=case["known_only"], memory_bytes=case["memory"])
    right = [
        as_of(row, case["source"], keys=case["keys"], at="now", event="at", created=case["created"], ttl=case["ttl"],
              known_only=case["known_only"])
        for row in case["asked"]
    ]  # fmt: skip
    assert found.values["value"].to_list() == [row and row["value"] for row in right]
    events = [one and one.replace(tzinfo=None) for one in found.event.to_list()]
    assert events == [row and row["at"] for row in right]
    assert found.found == sum(row is not None for row in right)
    if case["created"]:
        late = [
            bool(row and row["made"] and row["made"] > asked["now"])
            for row, asked in zip(right, case["asked"], strict=True)
        ]
        assert found.created_after == sum(late)
    else:
        assert found.created_after is None


def many(rows: int, entities: int, seed: int, unit: str = "us") -> pl.DataFrame:
    """Rows at 50 event times and 40 created times, so that nearly every row is tied with another."""
    import numpy as np

    rng = np.random.default_rng(seed)
    hour = pl.duration(hours=1)
    return pl.DataFrame(
        {"who": rng.integers(0, entities, rows), "h": rng.integers(0, 50, rows), "c": rng.integers(0, 40, rows),
         "value": np.arange(rows)}
    ).select(
        "who", "value",
        at=(pl.lit(START) + pl.col("h") * hour).cast(pl.Datetime(unit)),  # type: ignore[arg-type]
        made=(pl.lit(START) + pl.col("c") * hour).cast(pl.Datetime(unit)),  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("known_only", [False, True])
@pytest.mark.parametrize("ttl", [None, timedelta(hours=7)])
@pytest.mark.parametrize("memory", [1e9, 2e5])
def test_equals_duckdbs_asof_join_where_nearly_every_row_is_tied(
    known_only: bool, ttl: timedelta | None, memory: float
) -> None:
    import duckdb

    source, asked = many(6_000, 60, seed=1), many(1_500, 66, seed=2).select("who", now="at")
    view = View(name="v", source=source.lazy(), keys=(("who", "who"),), event="at", created="made", ttl=ttl,
                features=(("value", "value"),))  # fmt: skip
    found = look_up(asked, "now", view, known_only=known_only, memory_bytes=memory)
    # DuckDB's ASOF knows no ties and no created times: it gets one row per key and time for every instant of knowing.
    rows = source.with_row_index("place")
    if known_only:
        instants = asked["now"].unique().sort()
        parts = []
        for instant in instants:
            best = rows.filter(pl.col("made") <= instant).sort("at", "made", "place").unique(["who", "at"], keep="last")
            here = asked.with_row_index("row").filter(pl.col("now") == instant)
            parts.append(_duckdb_asof(duckdb, here, best))
        witness = pl.concat(parts).sort("row")
    else:
        best = rows.sort("at", "made", "place").unique(["who", "at"], keep="last")
        witness = _duckdb_asof(duckdb, asked.with_row_index("row"), best).sort("row")
    if ttl is not None:
        fresh = pl.col("at") >= pl.col("now") - ttl
        witness = witness.with_columns(pl.when(fresh).then(pl.col("value")).alias("value"))
    assert found.values["value"].to_list() == witness["value"].to_list()
    assert 0 < found.found < len(asked)


def _duckdb_asof(duckdb: Any, asked: pl.DataFrame, source: pl.DataFrame) -> pl.DataFrame:
    with duckdb.connect() as connection:
        connection.register("asked", asked.to_arrow())
        connection.register("source", source.to_arrow())
        query = (
            "select row, now, source.at, source.value from asked asof left join source "
            "on asked.who = source.who and asked.now >= source.at"
        )
        return pl.from_arrow(connection.execute(query).to_arrow_table())  # type: ignore[return-value]


def test_key_and_time_that_do_not_fit_64_bits_together_still_join() -> None:
    source = pl.concat([many(2_000, 2_000, 3, "ns"), many(2_000, 2_000, 4, "ns").with_columns(
        pl.col("at").dt.offset_by("80000d"))])  # fmt: skip
    asked = many(1_000, 2_000, 5, "ns").select("who", now=pl.col("at").dt.offset_by("1ns"))
    view = View(name="v", source=source.lazy(), keys=(("who", "who"),), event="at", created="made", ttl=None,
                features=(("value", "value"),))  # fmt: skip
    for known_only in (False, True):
        found = look_up(asked, "now", view, known_only=known_only, memory_bytes=1e9)
        names = {"keys": view.keys, "at": "now", "event": "at", "created": "made", "ttl": None}
        rows = source.to_dicts()
        right = [as_of(row, rows, known_only=known_only, **names) for row in asked.head(15).to_dicts()]
        assert found.values["value"].head(15).to_list() == [row and row["value"] for row in right]


def test_a_nanosecond_counts_although_the_source_has_microseconds() -> None:
    source = pl.DataFrame({"who": [1], "at": [START], "value": [7]}).cast({"at": pl.Datetime("us")})
    later = pl.Series("now", [START, START], dtype=pl.Datetime("ns")).to_frame().select(
        now=(pl.col("now").to_physical() + pl.Series([-1, 0])).cast(pl.Datetime("ns")), who=pl.lit(1)
    )  # fmt: skip
    view = View(name="v", source=source.lazy(), keys=(("who", "who"),), event="at", created=None, ttl=None,
                features=(("value", "value"),))  # fmt: skip
    assert look_up(later, "now", view, known_only=False, memory_bytes=1e9).values["value"].to_list() == [None, 7]


@pytest.mark.parametrize("year", [1, 1700, 9999])
def test_times_beyond_what_nanoseconds_hold_stand_at_their_end(year: int) -> None:
    source = pl.DataFrame({"who": [1, 1], "at": [datetime(year, 1, 2), START], "value": [1, 2]})
    asked = pl.DataFrame({"who": [1], "now": [START - timedelta(days=1)]}).cast({"now": pl.Datetime("ns")})
    view = View(name="v", source=source.lazy(), keys=(("who", "who"),), event="at", created=None, ttl=None,
                features=(("value", "value"),))  # fmt: skip
    found = look_up(asked, "now", view, known_only=False, memory_bytes=1e9)
    assert found.values["value"].to_list() == [None if year == 9999 else 1]


def view_of(**columns: Any) -> View:
    source = pl.DataFrame({"who": [1], "at": [START], "value": [7], **columns})
    return View(name="stats", source=source.lazy(), keys=(("who", "who"),), event="at", created=None, ttl=None,
                features=(("value", "value"),))  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "right"),
    [
        (pl.Series([1, 2, None], dtype=pl.Int8), [7, None, None]),
        (pl.Series([1.0, 1.5, None]), [7, None, None]),
        (pl.Series([2**63, 1], dtype=pl.UInt64), [None, 7]),
        (pl.Series([float("nan"), float("inf"), 1]), [None, None, 7]),
        (pl.Series([None, None]), [None, None]),
    ],
)
def test_keys_match_by_value_across_types_of_numbers(asked: pl.Series, right: list[int | None]) -> None:
    entities = pl.DataFrame({"who": asked}).with_columns(now=pl.lit(START, pl.Datetime("us")))
    found = look_up(entities, "now", view_of(), known_only=False, memory_bytes=1e9)
    assert found.values["value"].to_list() == right


def test_keys_of_types_that_cant_be_equal_are_refused() -> None:
    entities = pl.DataFrame({"who": ["1"], "now": [START]})
    with pytest.raises(InputError, match="view stats: who is String in the entity frame and Int64 in the source"):
        look_up(entities, "now", view_of(), known_only=False, memory_bytes=1e9)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="view stats is joined on who, which the entity frame lacks"):
        look_up(pl.DataFrame({"now": [START]}), "now", view_of(), known_only=False, memory_bytes=1e9)
    bare = View(name="stats", source=pl.LazyFrame({"who": [1], "at": [START]}), keys=(("who", "who"),), event="at",
                created=None, ttl=None, features=(("value", "value"),))  # fmt: skip
    with pytest.raises(InputError, match="view stats: its source has no column value; it has who, at"):
        look_up(pl.DataFrame({"who": [1], "now": [START]}), "now", bare, known_only=False, memory_bytes=1e9)
    texts = view_of(at=["2026-03-29"])
    with pytest.raises(InputError, match="column at is String, not a timestamp"):
        look_up(pl.DataFrame({"who": [1], "now": [START]}), "now", texts, known_only=False, memory_bytes=1e9)


def test_a_view_without_keys_gives_its_newest_value_to_all() -> None:
    source = pl.DataFrame({"at": [START, START + timedelta(hours=1)], "value": [1, 2]})
    view = View(name="v", source=source.lazy(), keys=(), event="at", created=None, ttl=None, features=(("value", "v"),))
    asked = pl.DataFrame({"now": [START + timedelta(minutes=m) for m in (-1, 0, 59, 60, 61)]})
    found = look_up(asked, "now", view, known_only=False, memory_bytes=1e9)
    assert found.values["v"].to_list() == [None, 1, 1, 2, 2]


def test_utc_is_what_a_time_without_a_zone_is_in() -> None:
    aware = pl.DataFrame({"who": [1], "now": [datetime(2026, 3, 29, tzinfo=UTC)]})
    found = look_up(aware, "now", view_of(), known_only=False, memory_bytes=1e9)
    assert found.values["value"].to_list() == [7]


def test_a_time_to_live_longer_than_there_are_times_does_not_overflow() -> None:
    at = datetime(2024, 1, 1)
    source = pl.DataFrame({"k": [1], "at": [at], "f": [3]}).cast({"at": pl.Datetime("ns")}).lazy()
    view = View(
        name="v", source=source, keys=(("k", "k"),), event="at", created=None, ttl=timedelta(days=200_000),
        features=(("f", "f"),),
    )  # fmt: skip
    rows = pl.DataFrame({"k": [1, 1], "asked": [at + timedelta(days=9), datetime(1700, 1, 1)]})
    assert look_up(rows, "asked", view, known_only=False, memory_bytes=1e9).values["f"].to_list() == [3, None]
