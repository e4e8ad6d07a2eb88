"""Values in another type: the same ones, or refused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.features.fitting import Unfit, fitted

UTC_US = pl.Datetime("us", "UTC")
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "kind", "right"),
    [
        (pl.Series([1, None], dtype=pl.UInt8), pl.Int64(), [1, None]),
        (pl.Series([3.0]), pl.Int32(), [3]),
        (pl.Series([2**53]), pl.Float64(), [2.0**53]),
        (pl.Series([0.1, float("nan"), float("inf")]), pl.Float32(), None),
        (pl.Series([Decimal("2.0")]), pl.Int64(), [2]),
        (pl.Series([Decimal("1.5")]), pl.Float32(), [1.5]),
        (pl.Series([None, None]), pl.String(), [None, None]),
        (pl.Series([date(2024, 1, 1)]), UTC_US, [datetime(2024, 1, 1, tzinfo=UTC)]),
        (pl.Series([datetime(2024, 1, 1, 12)], dtype=pl.Datetime("ns")), UTC_US, [NOON]),
        (pl.Series([NOON], dtype=UTC_US), pl.Datetime("ms"), [datetime(2024, 1, 1, 12)]),
        (pl.Series([datetime(2024, 1, 1)]), pl.Date(), [date(2024, 1, 1)]),
        (pl.Series(["a"], dtype=pl.Categorical), pl.String(), ["a"]),
        (pl.Series([[1.0, None], [], None]), pl.List(pl.Int64), [[1, None], [], None]),
        (pl.Series([[]], dtype=pl.List(pl.Null)), pl.List(pl.Int64), [[]]),
        (pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2)), pl.List(pl.Float64), [[1.0, 2.0]]),
    ],
)
def test_what_loses_nothing_is_taken(given: pl.Series, kind: pl.DataType, right: list[Any] | None) -> None:
    made = fitted(given, kind)
    assert made.dtype == kind
    assert right is None or made.to_list() == right


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (pl.Series([True]), pl.Int64()),
        (pl.Series([1]), pl.Boolean()),
        (pl.Series(["7"]), pl.Int64()),
        (pl.Series(["nan"]), pl.Float32()),
        (pl.Series([5]), pl.String()),
        (pl.Series([b"a"]), pl.String()),
        (pl.Series([NOON]), pl.Int64()),
        (pl.Series([NOON]), pl.String()),
        (pl.Series([NOON]), pl.Date()),
        (pl.Series([1_700_000_000]), UTC_US),
        (pl.Series(["2024-01-01"]), UTC_US),
        (pl.Series([NOON.replace(microsecond=1)]), pl.Datetime("ms")),
        (pl.Series([2.0**63]), pl.Int64()),
        (pl.Series([1.5]), pl.Int64()),
        (pl.Series([float("nan")]), pl.Int64()),
        (pl.Series([1e300]), pl.Float32()),
        (pl.Series([2**53 + 1]), pl.Float64()),
        (pl.Series([2**24 + 1]), pl.Float32()),
        (pl.Series([Decimal("1.5")]), pl.Int64()),
        (pl.Series([Decimal("1.1")]), pl.Float64()),
        (pl.Series([[1.0], [2.7]]), pl.List(pl.Int64)),
        (pl.Series([[1]]), pl.Int64()),
        (pl.Series([1]), pl.List(pl.Int64)),
    ],
)
def test_all_else_is_refused(given: pl.Series, kind: pl.DataType) -> None:
    with pytest.raises(Unfit, match=r"\(.*\), where only .* may stand"):
        fitted(given, kind)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.sampled_from([pl.Int8(), pl.Int32(), pl.Float32(), pl.Float64()]),
)
def test_a_whole_number_comes_back_or_is_refused(values: list[int], kind: pl.DataType) -> None:
    column = pl.Series(values, dtype=pl.Int64)
    try:
        made = fitted(column, kind)
    except Unfit:
        return
    assert [int(one) for one in made.to_list()] == values
