"""Instants written as text: ISO 8601, and nothing that could be read in two ways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hotlap.errors import InputError
from hotlap.features import entities, rows_file, times


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("2024-03-02", datetime(2024, 3, 2)),
        ("2024-03-02 01:30", datetime(2024, 3, 2, 1, 30)),
        ("2024-03-02T01:30:05.25Z", datetime(2024, 3, 2, 1, 30, 5, 250_000)),
        ("2024-03-02T01:30:05+02:00", datetime(2024, 3, 1, 23, 30, 5)),
        ("2024-03-02T01:30:05.000001000-0530", datetime(2024, 3, 2, 7, 0, 5, 1)),
    ],
)
def test_iso_is_read_also_mixed_in_one_column(text: str, right: datetime) -> None:
    frame = pl.DataFrame({"at": [text, None, "2024-01-01"]})
    told = entities.in_utc(frame.lazy(), "at").collect()["at"].to_list()
    assert told == [right.replace(tzinfo=UTC), None, datetime(2024, 1, 1, tzinfo=UTC)]
    assert rows_file.typed(frame["at"], pl.Datetime("us", "UTC"), "x").to_list() == told


@pytest.mark.parametrize(
    "text",
    ["02/03/2024", "31/12/2024", "20240102", "1704067200", "2024-02-30", "2024-01-01T25:00", "2024-01-01Z", "",
     "2024-01-01T01:00:00.000000999", "2024-W01-1"],
)  # fmt: skip
def test_all_else_is_refused_with_the_value(text: str) -> None:
    frame = pl.DataFrame({"at": ["2024-01-01", text]})
    with pytest.raises(InputError, match=f"column at is text that can't be read as ISO 8601: '{text}'; write it as"):
        entities.in_utc(frame.lazy(), "at")
    with pytest.raises(InputError, match=f"has '{text}', which is no Datetime"):
        rows_file.typed(frame["at"], pl.Datetime("us", "UTC"), "x")


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)), st.integers(-14 * 60, 14 * 60), st.sampled_from("T "))
def test_what_python_writes_comes_back(moment: datetime, minutes: int, between: str) -> None:
    from datetime import timezone

    stamped = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    frame = pl.DataFrame({"at": [stamped.isoformat(between)]})
    assert frame.select(times.from_iso(pl.col("at"))).item() == stamped


ZONES = (
    "Europe/Berlin",
    "Europe/Amsterdam",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "UTC",
    None,
)


@given(
    st.datetimes(datetime(1883, 1, 1), datetime(2261, 12, 31), timezones=st.just(UTC)),
    st.sampled_from(ZONES),
    st.sampled_from(("ms", "us", "ns")),
    st.sampled_from(("us", "ns")),
)
@example(datetime(2150, 7, 1, 12, tzinfo=UTC), "Europe/Berlin", "us", "us")
@example(datetime(1915, 7, 1, 12, tzinfo=UTC), "Europe/Amsterdam", "ms", "ns")
def test_what_lies_within_is_never_let_go_in_any_zone(
    moment: datetime, zone: str | None, kept: pl.datatypes.TimeUnit, unit: times.Unit
) -> None:
    """Python's rules for a zone's wall clock and polars' own differ in far years."""
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    at = times.microseconds(moment)
    column = pl.Series("t", [at]).cast(pl.Datetime("us")).dt.cast_time_unit(kept).cast(pl.Datetime(kept, zone))
    edge = at * (1000 if unit == "ns" else 1)

    def within(oldest: int, newest: int) -> bool:
        condition = times.between("t", pl.Schema({"t": column.dtype}), unit, oldest, newest)
        told: bool = column.to_frame().select(condition).item()
        return told

    assert within(edge, edge)
    second = 1_000_000_000 if unit == "ns" else 1_000_000
    assert not within(edge + second, edge + 2 * second)
    assert not within(edge - 2 * second, edge - second)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("kept", ["ms", "us", "ns"])
def test_parts_of_a_file_that_lie_outside_are_not_read(
    tmp_path: Path, zone: str | None, kept: pl.datatypes.TimeUnit
) -> None:
    """Their pages are damaged here."""
    import pyarrow.parquet as pq

    hours = np.arange(100) * 3_600_000_000 + times.microseconds(datetime(2150, 7, 1))
    stamps = pl.Series("t", hours).cast(pl.Datetime("us")).dt.cast_time_unit(kept).cast(pl.Datetime(kept, zone))
    pl.DataFrame({"t": stamps, "v": np.arange(100)}).write_parquet(tmp_path / "f", row_group_size=10)
    damaged = bytearray((tmp_path / "f").read_bytes())
    meta = pq.read_metadata(tmp_path / "f")
    for group in [*range(3), *range(6, 10)]:
        column = meta.row_group(group).column(1)
        start = column.dictionary_page_offset or column.data_page_offset
        damaged[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (tmp_path / "f").write_bytes(damaged)
    rows = pl.scan_parquet(tmp_path / "f")
    condition = times.between("t", rows.collect_schema(), "us", int(hours[35]), int(hours[52]))
    assert rows.filter(condition).collect(engine="streaming")["v"].to_list() == list(range(35, 53))
