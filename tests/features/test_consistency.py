"""Differences planted at known rates are found at those rates, and nothing is found where nothing differs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from hotlap.features import consistency
from hotlap.features.consistency import Limits, compare

EVENTS = np.full(4, 5_000_000, np.int64)


def one(online: Any, offline: Any, dtype: Any = None, tolerance: float = 1e-6) -> dict[str, list[bool]]:
    a, b = (pl.Series("x", side, dtype=dtype, strict=False) for side in (online, offline))
    events = np.zeros(len(a), np.int64)
    found = compare(a, b, events, events, tolerance=tolerance)
    return {name: getattr(found, name).tolist() for name in ("mismatch", "missing", "extra")}


def test_each_kind_is_told_apart() -> None:
    found = one([1, None, 3, None], [1, 2, None, None])
    assert found["mismatch"] == [False] * 4
    assert found["missing"] == [False, True, False, False]
    assert found["extra"] == [False, False, True, False]


@pytest.mark.parametrize(
    ("online", "offline", "dtype", "same"),
    [
        (1.0, 1.0 + 1e-9, pl.Float64, True),
        (1.0, 1.001, pl.Float64, False),
        (1e-30, 1.1e-30, pl.Float64, False),
        (0.0, -0.0, pl.Float64, True),
        (float("inf"), float("inf"), pl.Float64, True),
        (float("inf"), -float("inf"), pl.Float64, False),
        (float("inf"), 1.0, pl.Float64, False),
        (2**60, 2**60 + 1, pl.Int64, False),
        ("a", "a", pl.String, True),
        ("a", "A", pl.String, False),
        (True, False, pl.Boolean, False),
        ([1.0, 2.0], [1.0, 2.0 + 1e-12], pl.List(pl.Float64), True),
        ([1.0, 2.0], [1.0, 2.1], pl.List(pl.Float64), False),
        ([1.0], [1.0, 2.0], pl.List(pl.Float64), False),
        ([], [], pl.List(pl.Float64), True),
        ([1, 2], [2, 1], pl.List(pl.Int64), False),
    ],
)
def test_what_counts_as_equal(online: Any, offline: Any, dtype: Any, same: bool) -> None:
    assert one([online], [offline], dtype)["mismatch"] == [not same]


def test_nan_is_no_value_and_a_float32_is_near_its_float64() -> None:
    assert one([float("nan"), None], [None, float("nan")], pl.Float64) == {
        "mismatch": [False, False], "missing": [False, False], "extra": [False, False]
    }  # fmt: skip
    single = pl.Series("x", [0.1], dtype=pl.Float32)
    found = compare(single, pl.Series("x", [0.1]), np.zeros(1, np.int64), np.zeros(1, np.int64))
    assert not found.mismatch.any()


def test_instants_of_any_zone_and_unit_are_equal() -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    a = pl.Series("x", [moment]).dt.cast_time_unit("ns")
    b = pl.Series("x", [moment.replace(tzinfo=None)]).dt.cast_time_unit("ms")
    assert not compare(a, b, np.zeros(1, np.int64), np.zeros(1, np.int64)).mismatch.any()
    later = b + timedelta(seconds=1)
    assert compare(a, later, np.zeros(1, np.int64), np.zeros(1, np.int64)).mismatch.all()


def test_stale_is_by_events_and_seconds_where_the_store_keeps_no_more() -> None:
    value = pl.Series("x", [1.0, 1.0, 1.0, None])
    offline = np.array([5_300_000, 6_000_000, 4_000_000, 9_000_000])
    found = compare(value, value, EVENTS, offline)
    assert found.stale.tolist() == [False, True, False, False]
    assert found.newer.tolist() == [False, False, True, False]
    exact = compare(value, value, EVENTS + 1, offline)
    assert exact.stale.tolist() == [True, True, False, False]


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.one_of(st.none(), st.floats(-9, 9)) for _ in range(2)]), min_size=1, max_size=30))
def test_smape_is_chronons(pairs: list[tuple[float | None, float | None]]) -> None:
    a, b = (pl.Series("x", [pair[side] for pair in pairs], dtype=pl.Float64) for side in (0, 1))
    events = np.zeros(len(a), np.int64)
    found = compare(a, b, events, events).smape
    assert found is not None
    right = [
        float("nan") if x is None or y is None else 0.0 if x == y else 2 * abs(x - y) / (abs(x) + abs(y))
        for x, y in pairs
    ]
    np.testing.assert_allclose(found, right, rtol=1e-9)


def test_planted_rates_are_found() -> None:
    rng = np.random.default_rng(3)
    n = 20_000
    truth = pl.Series("x", rng.normal(size=n))
    kind = rng.choice(5, n, p=[0.9, 0.04, 0.03, 0.02, 0.01])
    online = truth.to_numpy() * np.where(kind == 1, 1.5, 1.0)
    online = pl.Series("x", online).set(pl.Series(kind == 2), None)
    offline = truth.set(pl.Series(kind == 3), None)
    events = np.full(n, 7_000_001)
    told = compare(online, offline, events, events + (kind == 4)).report()
    for name, code in (("mismatch", 1), ("missing", 2), ("extra", 3), ("stale", 4)):
        assert told[name]["count"] == (kind == code).sum()
        assert told[name]["low"] < [0, 0.04, 0.03, 0.02, 0.01][code] < told[name]["high"]
    assert told["smape"]["estimate"] == pytest.approx(0.4 * (kind == 1).sum() / told["both"])
    assert consistency.breaches({"x": told}, Limits(stale=0.5))[0].figure == "mismatch"


@pytest.mark.parametrize(("count", "of"), [(0, 40), (1, 40), (17, 300), (40, 40)])
def test_a_rates_interval_is_the_exact_one(count: int, of: int) -> None:
    found = consistency.rate(count, of)
    right = binomtest(count, of).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((right.low, right.high), abs=1e-5)


def test_smapes_interval_holds_as_often_as_it_says() -> None:
    """Skewed errors, few of them: where an interval of the normal kind fails."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(300):
        values = np.where(rng.random(60) < 0.05, rng.random(60) * 2, 0.0)
        found = consistency.mean(values, 2.0)
        held += found.low <= 0.05 <= found.high
    assert held / 300 >= 0.94


def test_nothing_wrong_breaches_nothing_and_says_what_may_be() -> None:
    same = pl.Series("x", np.arange(100.0))
    told = compare(same, same, np.zeros(100, np.int64), np.zeros(100, np.int64)).report()
    assert all(told[name]["count"] == 0 for name in consistency.RATES)
    assert told["mismatch"]["high"] == pytest.approx(0.0362, abs=1e-3)
    assert told["smape"]["estimate"] == 0
    assert consistency.breaches({"x": told}, Limits()) == []


def test_a_breach_says_how_far_and_how_sure() -> None:
    told = {name: {"estimate": 0.0, "low": 0.0, "high": 0.1} for name in (*consistency.RATES, "smape")}
    told["stale"] = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    told["both"] = 90
    told["missing"] = {"estimate": 0.02, "low": 0.001, "high": 0.1}
    found = consistency.breaches({"trips:rate": told}, Limits())
    assert [(one.figure, one.sure) for one in found] == [("stale", True), ("missing", False)]
    assert found[0].sentence() == "trips:rate: stale 50.00% of reads, above the limit of 1.00%"
    assert "more reads would settle it" in found[1].sentence()
    assert consistency.breaches({"trips:rate": told}, Limits(stale=None, missing=0.02)) == []
