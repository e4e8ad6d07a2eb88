"""Instants written as text: ISO 8601, and nothing that could be read in two ways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
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
