"""How much of the budget is kept for confirming."""

from hypothesis import given
from hypothesis import strategies as st

from hotlap.search.reserve import LEAST_SECONDS, confirming_seconds, examples_to_confirm, reserve

USUAL = {
    "score_seconds": 10.0, "selection": 300, "confirmation": 700, "speedup": 2.0, "start_seconds": 6.0, "starts": 4
}  # fmt: skip


def test_it_grows_with_what_there_is_to_score_and_to_time() -> None:
    usual = confirming_seconds(**USUAL)
    assert usual > 10 * 7 / 3 * 1.5 + 4 * 6
    assert confirming_seconds(**{**USUAL, "confirmation": 7000}) > usual
    assert confirming_seconds(**{**USUAL, "start_seconds": 60.0}) > usual
    assert confirming_seconds(**{**USUAL, "speedup": 8.0}) < usual
    assert confirming_seconds(**USUAL, is_first=False) < usual - 10 * 7 / 3


def test_without_evaluation_data_only_timing_is_left() -> None:
    found = confirming_seconds(**{**USUAL, "selection": 0, "confirmation": 0, "score_seconds": 0.0})
    assert 4 * 6 < found < 60


@given(st.none() | st.floats(0, 1e4), st.floats(1, 1e4))
def test_something_is_always_left_for_trying(confirming: float | None, budget: float) -> None:
    kept = reserve(confirming, budget)
    assert 0 < kept <= 0.6 * budget
    assert kept >= min(LEAST_SECONDS, 0.6 * budget)


@given(st.floats(1e-6, 1e5), st.integers(1, 10_000), st.integers(1, 10_000), st.floats(1, 1e4))
def test_as_many_confirm_as_there_is_time_for(seconds: float, selection: int, confirmation: int, budget: float) -> None:
    count = examples_to_confirm(score_seconds=seconds, selection=selection, confirmation=confirmation, budget=budget)
    assert 1 <= count <= confirmation
    each, most = seconds / selection, 0.6 * budget
    assert count == 1 or each * count <= most * (1 + 1e-9)
    assert count == confirmation or each * (count + 1) > most * (1 - 1e-9)


def test_two_seconds_an_example_leave_ninety_of_five_minutes() -> None:
    assert examples_to_confirm(score_seconds=60.0, selection=30, confirmation=700, budget=300.0) == 90
    assert examples_to_confirm(score_seconds=3.0, selection=300, confirmation=700, budget=300.0) == 700
