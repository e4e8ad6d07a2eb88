"""Shifts of a known size are found at that size, and none where there is none, however many rows there are."""

from __future__ import annotations

import math
from datetime import time, timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from scipy import stats

from hotlap.errors import InputError
from hotlap.features import distributions
from hotlap.features.distributions import compare, holm, psi_of


def normal(rng: np.random.Generator, rows: int, mean: float = 0.0) -> pl.Series:
    return pl.Series(rng.normal(mean, size=rows))


def test_psi_is_both_relative_entropies_together() -> None:
    a, b = np.array([400.0, 300, 300]), np.array([100.0, 500, 400])
    p, q = (a + 0.5) / (a + 0.5).sum(), (b + 0.5) / (b + 0.5).sum()
    assert psi_of(a, b).estimate == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p))
    assert psi_of(a, a).estimate == psi_of(a, a).low == 0
    assert math.isfinite(psi_of(np.array([10.0, 0]), np.array([0.0, 10])).estimate)


@pytest.mark.parametrize("tilt", [0.0, 0.15, 0.3])
@pytest.mark.parametrize("rows", [(2000, 500), (50_000, 50_000)])
def test_psis_interval_holds_as_often_as_it_says(tilt: float, rows: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    p = np.full(10, 0.1)
    q = np.exp(tilt * np.arange(10))
    q /= q.sum()
    truth = ((p - q) * np.log(p / q)).sum()
    held = 0
    for _ in range(60):
        found = psi_of(rng.multinomial(rows[0], p).astype(float), rng.multinomial(rows[1], q).astype(float))
        held += found.low <= truth <= found.high
    assert held >= 52  # 57 are expected; fewer than 52 come by chance once in 200


def test_the_tests_are_scipys() -> None:
    rng = np.random.default_rng(3)
    a, b = normal(rng, 3000), normal(rng, 800, 0.1)
    text_a = pl.Series(rng.choice(["a", "b", "c"], 900, p=[0.5, 0.3, 0.2]))
    text_b = pl.Series(rng.choice(["a", "b", "c"], 300, p=[0.4, 0.4, 0.2]))
    found = compare({"x": a, "y": text_a}, {"x": b, "y": text_b})
    right = stats.ks_2samp(a.to_numpy(), b.to_numpy(), method="asymp")
    assert (found["x"]["ks"]["estimate"], found["x"]["p_value"]) == (right.statistic, right.pvalue)
    table = [[(one == name).sum() for name in "abc"] for one in (text_a, text_b)]
    chi = stats.chi2_contingency(table, correction=False)
    assert found["y"]["p_value"] == pytest.approx(chi.pvalue)
    assert found["y"]["cramers_v"]["estimate"] == pytest.approx(stats.contingency.association(table))
    assert found["y"]["cramers_v"]["low"] < found["y"]["cramers_v"]["estimate"] < found["y"]["cramers_v"]["high"]


def test_a_tiny_shift_of_many_rows_is_significant_and_still_alike() -> None:
    rng = np.random.default_rng(4)
    (told,) = compare({"x": normal(rng, 400_000)}, {"x": normal(rng, 400_000, 0.02)}).values()
    assert told["p_adjusted"] < 1e-6
    assert told["verdict"] == "alike"
    assert told["psi"]["high"] < 0.01


@pytest.mark.parametrize(
    ("shift", "rows", "verdict"),
    [(0.0, 5000, "alike"), (0.5, 5000, "moderate"), (1.0, 5000, "large"), (0.0, 60, "unsettled")],
)
def test_the_verdict_goes_by_the_whole_interval(shift: float, rows: int, verdict: str) -> None:
    rng = np.random.default_rng(5)
    (told,) = compare({"x": normal(rng, 20_000)}, {"x": normal(rng, rows, shift)}).values()
    assert told["verdict"] == verdict
    assert told["ks"]["low"] <= stats.norm.cdf(shift / 2) * 2 - 1 <= told["ks"]["high"]


def test_among_many_that_did_not_shift_none_is_named() -> None:
    rng = np.random.default_rng(8)
    training = {f"f{i}": normal(rng, 2000) for i in range(40)}
    found = compare(training, {name: normal(rng, 2000) for name in training})
    assert min(one["p_value"] for one in found.values()) < 0.05
    assert min(one["p_adjusted"] for one in found.values()) > 0.05
    assert not {"moderate", "large"} & {one["verdict"] for one in found.values()}
    assert all(one["psi"]["low"] == 0 for one in found.values())


def test_holm_adjusts_as_it_is_defined() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": 0.03, "c": 0.06, "b": 0.06}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_more_missing_is_seen_with_its_interval() -> None:
    rng = np.random.default_rng(7)
    a, b = normal(rng, 5000), normal(rng, 2000)
    b = b.set(pl.Series(rng.random(2000) < 0.1), None)
    (told,) = compare({"x": a}, {"x": b}).values()
    more = told["more_missing"]
    assert more["low"] < 0.1 < more["high"]
    assert told["serving_missing"] == b.null_count() / 2000
    (nan,) = compare({"x": a}, {"x": b.fill_null(float("nan"))}).values()
    assert nan["serving_missing"] == told["serving_missing"]


def test_newcombes_interval_is_the_published_one() -> None:
    """Newcombe 1998, table II (a): 56/70 against 48/80."""
    found = distributions._difference(56, 70, 48, 80, 0.95)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    ("training", "serving", "verdict"),
    [
        ([1.0] * 500, [1.0] * 500, "alike"),
        ([1.0] * 500, [2.0] * 500, "large"),
        ([None] * 5, [1.0] * 5, "empty"),
        ([0] * 900 + [1] * 100, [0] * 900 + [1] * 100, "alike"),
        (["a"] * 500, ["b"] * 500, "large"),
        ([True, False] * 400, [True] * 800, "large"),
        ([f"id{i}" for i in range(3000)], [f"id{i}" for i in range(3000)], "alike"),
        ([1.6e308, 1.7e308] * 400, [1.6e308, 1.7e308] * 400, "alike"),
        ([Decimal("0.50"), Decimal("1")] * 400, [0.5, 1.0] * 400, "alike"),
        ([time(8), time(9)] * 400, [time(8), time(9)] * 400, "alike"),
        ([timedelta(1), timedelta(2)] * 400, [timedelta(2), timedelta(2)] * 400, "large"),
    ],
)
def test_odd_columns_have_a_verdict(training: list[object], serving: list[object], verdict: str) -> None:
    (told,) = compare({"x": pl.Series(training)}, {"x": pl.Series(serving)}).values()
    assert told["verdict"] == verdict


def test_a_row_on_each_side_has_a_p_value() -> None:
    (told,) = compare({"x": pl.Series([1.0])}, {"x": pl.Series([2.0])}).values()
    assert (told["p_value"], told["p_adjusted"], told["verdict"]) == (1.0, 1.0, "unsettled")


def test_nothing_in_common_is_named() -> None:
    with pytest.raises(InputError, match="training's columns a have none of b"):
        compare({"a": pl.Series([1])}, {"b": pl.Series([1])})
