"""The judgement of paired runs: what it passes and how often, by simulation, and its laws."""

import math
import re
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from hotlap.training import proof

TRIALS = 4000


def answers(rng: np.random.Generator, worse_by: float, spread: float, *, law: str = "normal", tried: int = 1) -> float:
    """How often set-ups that are worse by so much pass, looked at as a proof does: 5, 8, then 12 seeds."""
    passed = 0
    for _ in range(TRIALS):
        noise = rng.standard_normal(12) if law == "normal" else rng.standard_t(3, 12) / math.sqrt(3)
        differences = worse_by + spread * noise
        for seeds in proof.LOOKS.at:
            judged = proof.judge(differences[:seeds], margin=0.05, tried=tried)
            if judged.answer != "undecided":
                break
        passed += judged.answer == "as good"
    return passed / TRIALS


MOST = binom.ppf(0.999, TRIALS, proof.ERROR) / TRIALS
"""What a rate of 5 in 100 gives at most, in 999 of 1000 such simulations."""


@pytest.mark.parametrize("spread", [0.005, 0.05, 0.5])
def test_one_that_is_worse_by_the_margin_passes_at_most_5_in_100(spread: float) -> None:
    assert answers(np.random.default_rng(1), 0.05, spread) <= MOST


def test_heavy_tails_pass_no_more() -> None:
    assert answers(np.random.default_rng(2), 0.05, 0.05, law="t") <= MOST


def test_the_limit_can_be_passed() -> None:
    # A rule that looked at the estimate alone would pass half of them.
    assert answers(np.random.default_rng(1), 0.04, 0.02) > MOST


def test_set_ups_that_are_tried_in_turn_share_the_error() -> None:
    half = binom.ppf(0.999, TRIALS, proof.ERROR / 2) / TRIALS
    assert answers(np.random.default_rng(3), 0.05, 0.05, tried=2) <= half


@pytest.mark.parametrize(("spread", "least"), [(0.01, 0.99), (0.03, 0.95), (0.05, 0.75)])
def test_an_equal_one_passes_where_the_spread_allows(spread: float, least: float) -> None:
    assert answers(np.random.default_rng(4), 0.0, spread) >= least


def test_the_detectable_margin_is_what_an_equal_one_passes_with_at_80_in_100() -> None:
    rng = np.random.default_rng(5)
    draws = 0.04 * rng.standard_normal((TRIALS, 12))
    margin = float(np.median([proof.judge(row, margin=1.0).detectable for row in draws]))
    share = np.mean([proof.judge(row, margin=margin).answer == "as good" for row in draws])
    assert 0.76 <= share <= 0.84


@pytest.mark.parametrize("examples", [10, 20, 50, 100])
@pytest.mark.parametrize("luck", [0.0, 0.02, 0.2])
def test_scores_in_steps_pass_no_more(examples: int, luck: float) -> None:
    """One that loses an example in so many seeds that it is worse by the margin, and gains or loses another by luck:
    with few examples most seeds show no difference at all."""
    rng, step = np.random.default_rng(6), 1 / examples
    lost, unlucky, lucky = (rng.random((TRIALS, 12)) < often for often in (0.01 / step, luck, luck))
    differences = step * (lost.astype(int) + unlucky - lucky)
    passed = 0
    for row in differences:
        for seeds in proof.LOOKS.at:
            judged = proof.judge(row[:seeds], margin=0.01, grain=step)
            if judged.answer != "undecided":
                break
        passed += judged.answer == "as good"
    assert passed / TRIALS <= MOST


def test_a_few_seeds_without_a_difference_show_little_where_scores_come_in_steps() -> None:
    same = [0.0] * 12
    assert proof.judge(same, margin=0.01, grain=1 / 20).answer == "undecided"
    assert proof.judge(same[:5], margin=0.01, grain=1 / 100).answer == "as good"
    assert proof.judge(same[:5], margin=0.01, grain=1 / 50).answer == "undecided"
    assert proof.judge(same[:5], margin=0.01).high == 0.0


@pytest.mark.parametrize(
    ("unit", "shift", "words"),
    [
        (
            "loss",
            -0.02,
            r"its loss is lower by 2\.0%, higher by at most 0\.\d% \(95%\), where 5\.1% is allowed; a margin of",
        ),
        ("loss", 0.01, r"its loss is higher by 1\.0%, at most \d\.\d% \(95%\), where 5\.1% is allowed; a margin of"),
        (
            "score",
            -0.02,
            r"its score is higher by 0\.0200, lower by at most 0\.00\d\d \(95%\), where 0\.0500 is allowed",
        ),
        ("score", 0.3, r"it trains worse: its score is lower by 0\.3000, at least 0\.2"),
    ],
)
def test_a_judgement_in_words(unit: Literal["loss", "score"], shift: float, words: str) -> None:
    judged = proof.judge([shift + 0.01 * step for step in (-2, -1, 0, 1, 2)], margin=0.05)
    assert re.match(words, proof.sentence(judged, unit=unit))


def test_the_grain_of_a_score_is_what_one_example_makes_of_it() -> None:
    assert proof.grain([0.9, 0.95], 20) == pytest.approx(0.05)
    assert proof.grain([91.0, 95.0], 100) == pytest.approx(0.95)
    assert proof.grain([], 10) == pytest.approx(0.1)


def test_what_hardly_ever_happens_is_not_seen_in_five_seeds() -> None:
    """Of no use to a person, but said in the docs: ten examples of a hundred are lost in one training of ten."""
    rng = np.random.default_rng(7)
    lost = 0.1 * (rng.random((TRIALS, 5)) < 0.1)
    passed = np.mean([proof.judge(row, margin=0.01, grain=0.01).answer == "as good" for row in lost])
    assert 0.56 < passed < 0.62


def test_what_is_clearly_worse_is_called_so() -> None:
    assert proof.judge([0.4, 0.5, 0.45, 0.6, 0.5], margin=0.05).answer == "worse"
    assert proof.judge([0.0, 0.0, math.inf, 0.0, 0.0], margin=0.05).answer == "worse"


def test_what_is_the_same_bit_for_bit_is_as_good() -> None:
    judged = proof.judge([0.0] * 5, margin=0.05)
    assert (judged.answer, judged.high, judged.detectable) == ("as good", 0.0, 0.0)


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=5), st.floats(0.001, 1), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_being_worse_by_more_never_helps(differences: list[float], margin: float, more: float) -> None:
    order = {"as good": 0, "undecided": 1, "worse": 2}
    before = proof.judge(differences, margin=margin)
    after = proof.judge([value + more for value in differences], margin=margin)
    # A common shift moves the whole interval; rounding may move an end that lies on the margin.
    if abs(before.high - margin) > 1e-9 and abs(after.high - margin) > 1e-9:
        assert order[after.answer] >= order[before.answer]


def test_ratios_of_losses() -> None:
    assert proof.log_ratios([1.0, 2.0], [math.e, math.inf]) == [pytest.approx(1.0), math.inf]
    with pytest.raises(ValueError, match="above 0"):
        proof.log_ratios([0.0], [1.0])
    # The tuned one came to 0: that is not worse, and no ratio.
    with pytest.raises(ValueError, match="above 0 of the tuned set-up"):
        proof.log_ratios([1.0, 1.0], [1.0, 0.0])


def test_the_tail_is_the_last_third_of_the_examples() -> None:
    losses, examples = np.arange(9.0), np.full(9, 4)
    assert proof.tail_mean(losses, examples) == 7.0
    assert proof.tail_mean(losses, np.array([1] * 8 + [100])) == 8.0
    assert math.isinf(proof.tail_mean(np.array([1.0, 1.0, math.inf]), np.ones(3, int)))


def test_the_head_is_the_first_tenth_of_the_examples() -> None:
    losses = np.arange(40.0)
    assert proof.head_mean(losses, np.full(40, 4)) == 1.5
    assert proof.head_mean(losses, np.array([100] + [1] * 39)) == 0.0


def test_how_far_losses_fell() -> None:
    assert proof.fall([1.0, math.e], [1.0, 1.0]) == pytest.approx(0.5)
    assert proof.fall([1.0], [2.0]) < 0
    with pytest.raises(ValueError, match="above 0"):
        proof.fall([-1.0], [1.0])


def test_curves_that_differ_by_rounding_are_the_same() -> None:
    curve = np.linspace(3.0, 1.0, 20)
    assert proof.same_curve(curve, curve * (1 + 1e-6))
    assert not proof.same_curve(curve, curve * (1 + 1e-3))
    assert not proof.same_curve(curve, curve[:-1])
    assert not proof.same_curve(np.array([math.inf]), np.array([math.inf]))


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 64)), min_size=1, max_size=60), st.integers(1, 24))
@settings(max_examples=100, deadline=None)
def test_a_binned_curve_stays_within_the_curve(steps: list[tuple[float, int]], bins: int) -> None:
    losses, examples = np.array([loss for loss, _ in steps]), np.array([count for _, count in steps])
    curve = proof.binned(losses, examples, bins=bins)
    assert len(curve) == bins
    assert losses.min() - 1e-9 <= curve.min() <= curve.max() <= losses.max() + 1e-9


def test_a_curve_with_a_step_a_bin_is_itself() -> None:
    assert list(proof.binned(np.arange(6.0), np.full(6, 8), bins=6)) == list(range(6))


def test_short_runs_fit_their_budget() -> None:
    examples = proof.short_examples(seconds=300, own_ms=200, tuned_ms=100, rows_a_step=32, all_examples=None)
    assert examples == 32 * 75
    assert 12 * 75 * 0.3 <= 300  # twelve seeds of 75 steps on both sides
    assert proof.short_examples(seconds=300, own_ms=200, tuned_ms=100, rows_a_step=32, all_examples=640) == 640
    assert proof.short_examples(seconds=10, own_ms=200, tuned_ms=100, rows_a_step=32, all_examples=None) is None


def test_the_steps_of_whole_trainings_until_the_first_look() -> None:
    # Five seeds of ten steps on both sides.
    assert proof.full_seconds(own_ms=200, tuned_ms=100, rows_a_step=8, all_examples=80) == pytest.approx(15)
