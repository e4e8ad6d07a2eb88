"""Figures in words: right within their digits, and bounds never rounded toward the claim."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.report import wording

POSITIVE = st.floats(1e-4, 1e6)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9.72, "9.72"),
        (9.996, "10.0"),
        (0.04561, "0.0456"),
        (1234.5, "1,234"),
        (-0.5, "-0.500"),
        (3.1e-7, "3.10e-07"),
        (None, ""),
        (math.nan, ""),
        (math.inf, ""),
        (True, ""),
        ("9", ""),
    ],
)
def test_significant(value: Any, text: str) -> None:
    assert wording.significant(value) == text


@given(value=POSITIVE)
def test_significant_is_within_half_a_digit(value: float) -> None:
    assert float(wording.significant(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (wording.milliseconds(0.638), "0.638 ms"),
        (wording.milliseconds(None), ""),
        (wording.byte_size(44_702_000), "44.7 MB"),
        (wording.byte_size(999), "999 B"),
        (wording.byte_size(999_700), "1.00 MB"),
        (wording.rate(1.8e11, "multiply-adds"), "180 G multiply-adds/s"),
        (wording.rate(1.4e10, "B"), "14.0 GB/s"),
        (wording.multiply_adds(150e6), "150 M"),
        (wording.percent(0.0999), "10%"),
        (wording.percent(0.018), "1.8%"),
        (wording.percent(0), "0%"),
        (wording.duration(251.4), "4 min 11 s"),
        (wording.duration(300), "5 min"),
        (wording.duration(59.7), "1 min"),
        (wording.duration(9.4), "9.4 s"),
        (wording.duration(7260), "2 h 1 min"),
        (wording.count(11_181_642), "11,181,642"),
        (wording.sentence("can't be built: onnx 1.23 is too old"), "Can't be built: onnx 1.23 is too old."),
        (wording.sentence("onnxruntime has no kernel"), "onnxruntime has no kernel."),
        (wording.sentence("38% went into quantize."), "38% went into quantize."),
        (wording.sentence(None), ""),
        (wording.moment("2026-11-23T23:43:10+01:00"), "2026-11-23 22:43 UTC"),
        (wording.moment("2026-11-23T22:43:10Z"), "2026-11-23 22:43 UTC"),
        (wording.moment("yesterday"), "yesterday"),
        (wording.moment(None), ""),
    ],
)
def test_figures_with_units(written: str, text: str) -> None:
    assert written == text


def test_a_ratio_has_the_digits_that_its_noise_permits() -> None:
    def words(estimate: float, low: float, high: float) -> str:
        ratio = wording.ratio({"estimate": estimate, "low": low, "high": high})
        assert ratio
        return f"{ratio.estimate} {ratio.interval}"

    assert words(7.412, 7.225, 7.601) == "7.4 7.2–7.7"
    assert words(1.0215, 1.0104, 1.0326) == "1.02 1.01–1.04"
    assert words(15.16, 14.71, 15.63) == "15.2 14.7–15.7"
    assert words(0.27, 0.265, 0.275) == "0.270 0.265–0.275"
    assert words(120, 80, 160) == "120 80–160"
    assert wording.ratio({"estimate": 3.0, "low": None, "high": None}) == wording.Ratio(
        estimate="3.00", low="", high=""
    )
    assert wording.ratio(None) is None
    assert wording.ratio({"estimate": None, "low": 1, "high": 2}) is None


@given(ends=st.tuples(POSITIVE, POSITIVE, POSITIVE).map(sorted))
def test_an_interval_in_words_holds_the_interval(ends: list[float]) -> None:
    low, estimate, high = ends
    ratio = wording.ratio({"estimate": estimate, "low": low, "high": high})
    assert ratio
    slack = 1e-6  # what the words round away as a float's last bits
    assert float(ratio.low.replace(",", "")) <= low + slack
    assert float(ratio.high.replace(",", "")) >= high - slack


@given(high=st.floats(-1, 1), max_drop=st.floats(0, 0.5))
def test_the_most_that_may_be_lost_is_never_understated(high: float, max_drop: float) -> None:
    words = wording.loss({"estimate": 0.0, "high": high}, max_drop)
    assert float(words.high) >= high - 1e-6


def test_a_loss_in_words() -> None:
    drop = {"estimate": 0.0016, "high": 0.00601, "lost": 5, "gained": 3, "examples": 1215}
    words = wording.loss(drop, 0.01)
    assert (words.estimate, words.high) == ("0.0016", "0.0061")
    assert words.flips == "5 lost, 3 gained of 1,215 examples"
    assert wording.loss(None, 0.01) == wording.Loss(estimate="", high="", flips="")
    assert wording.loss({"estimate": 12.0, "high": 15.0}, 50).high == "15.0"
    assert wording.allowed(0.01) == "0.01"
    assert wording.allowed(None) == ""
