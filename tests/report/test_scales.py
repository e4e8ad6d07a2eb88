"""Scales keep order and ends; ticks are round, within the scale and no more than asked for."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hotlap.report.scales import Scale, linear_ticks, log_ticks

MOST = st.integers(3, 20)


@given(low=st.floats(-1e3, 1e3), span=st.floats(1e-5, 1e4), most=MOST)
def test_linear_ticks(low: float, span: float, most: int) -> None:
    ticks = linear_ticks(low, low + span, most)
    assert 1 <= len(ticks) <= most
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * span + 1e-9 * abs(low)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


@given(low=st.floats(1e-6, 1e6), ratio=st.floats(1.1, 1e9), most=MOST)
def test_log_ticks(low: float, ratio: float, most: int) -> None:
    ticks = log_ticks(low, low * ratio, most)
    assert len(ticks) <= most
    assert ticks == sorted(set(ticks))
    assert all(low * 0.999 <= tick <= low * ratio * 1.001 for tick in ticks)
    assert ratio < 2 or ticks


def test_log_ticks_by_example() -> None:
    assert log_ticks(0.25, 18, 16) == [0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15]
    assert log_ticks(0.25, 18, 6) == [0.5, 1, 2, 5, 10]
    assert log_ticks(0.9, 1.15, 8) == [0.9, 1, 1.1]
    assert log_ticks(1, 1e12, 5) == [1, 1000, 1e6, 1e9, 1e12]


@given(low=st.floats(0.01, 10), ratio=st.floats(1.1, 1000), a=st.floats(0, 1), b=st.floats(0, 1), log=st.booleans())
def test_scales_keep_order_and_ends(low: float, ratio: float, a: float, b: float, log: bool) -> None:
    scale = Scale(low=low, high=low * ratio, start=50, end=900, log=log)
    assert scale(scale.low) == 50
    assert scale(scale.high) == pytest.approx(900, abs=0.1)
    first, second = (low * ratio**share for share in (a, b))
    assume(first < second)
    assert scale(first) <= scale(second)
    assert scale.within(scale.high * 10) == scale(scale.high)
    assert scale.within(scale.low / 10) == 50


def test_a_log_scale_makes_equal_ratios_equal_steps() -> None:
    scale = Scale(low=1, high=100, start=0, end=200, log=True)
    assert [scale(value) for value in (1, 10, 100)] == [0, 100, 200]
    assert scale(2) == pytest.approx(100 * math.log10(2), abs=0.1)
