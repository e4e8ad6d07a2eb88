"""Verdicts: which rule, how far from passing, how many examples would tell, and the sentences people read."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hotlap import gate
from hotlap.core import Verdict, to_json
from hotlap.gate import sentences


def scores(lost: int, gained: int, examples: int) -> tuple[np.ndarray, np.ndarray]:
    original, candidate = np.ones(examples), np.ones(examples)
    candidate[:lost] = 0
    original[lost : lost + gained] = 0
    return original, candidate


def judged(lost: int, gained: int, examples: int, max_drop: float = 0.01, confidence: float = 0.95) -> Verdict:
    bounds = (0.0, 1.0)
    return gate.judge_drop(*scores(lost, gained, examples), max_drop=max_drop, confidence=confidence, bounds=bounds)


@pytest.mark.parametrize(
    ("lost", "gained", "examples", "reason"),
    [
        (12, 9, 3000, "drop 0.0010, at most 0.0037 (95%), allowed 0.0100"),
        (60, 12, 3000, "lost 60, gained 12 of 3,000 examples: drop 0.0160, allowed 0.0100"),
        (
            31,
            12,
            3000,
            "lost 31, gained 12 of 3,000 examples: drop may be as large as 0.0104, allowed 0.0100; "
            "about 3,600 examples would tell",
        ),
        (0, 0, 200, "200 examples: drop may be as large as 0.0149, allowed 0.0100; about 300 examples would tell"),
    ],
)
def test_the_sentence_of_a_drop(lost: int, gained: int, examples: int, reason: str) -> None:
    assert judged(lost, gained, examples).reason == reason


def test_the_sentence_names_a_confidence_that_is_not_the_usual() -> None:
    first, second, _ = gate.confirmation_confidences()
    assert judged(12, 9, 3000, confidence=first).reason == "drop 0.0010, at most 0.0042 (96.5%), allowed 0.0100"
    assert "as large as 0.0118 at 98.8%, allowed 0.0100" in judged(31, 12, 3000, confidence=second).reason


@given(st.floats(0, 1), st.floats(1e-6, 1))
def test_two_figures_in_a_sentence_are_never_contradicted_by_their_rounding(figure: float, limit: float) -> None:
    shown, shown_limit = sentences.beside(figure, limit)
    if abs(figure - limit) > 1e-11:
        assert (float(shown) <= float(shown_limit)) == (figure <= limit)


@settings(max_examples=40)
@given(st.integers(20, 3000), st.integers(0, 30), st.integers(0, 30), st.sampled_from([0.002, 0.01, 0.05]))
def test_a_verdict_is_one_with_its_figures(examples: int, lost: int, gained: int, max_drop: float) -> None:
    lost, gained = min(lost, examples // 2), min(gained, examples // 2)
    verdict = judged(lost, gained, examples, max_drop)
    assert verdict.drop is not None
    assert verdict.distance is not None
    assert verdict.rule == "drop"
    assert verdict.distance == pytest.approx(verdict.drop.high - max_drop)
    assert verdict.passed == (verdict.drop.high <= max_drop) == (verdict.distance <= 0)
    assert (verdict.examples_needed is None) == (verdict.passed or verdict.drop.estimate >= max_drop)
    if verdict.examples_needed is not None:
        assert verdict.examples_needed > examples
    assert Verdict.from_json(to_json(verdict)) == verdict


@pytest.mark.parametrize(("lost", "gained", "examples"), [(0, 0, 100), (3, 1, 400), (31, 12, 3000), (20, 20, 1000)])
def test_with_about_as_many_examples_as_are_said_to_be_needed_it_passes(lost: int, gained: int, examples: int) -> None:
    needed = judged(lost, gained, examples).examples_needed
    assert needed is not None
    for share, passes in ((1.15, True), (0.8, False)):
        count = round(needed * share)
        flips = (round(flipped * count / examples) for flipped in (lost, gained))
        assert judged(*flips, count).passed == passes


def test_a_verdict_on_real_scores_is_plain_json_too() -> None:
    original = np.random.default_rng(0).uniform(0.4, 0.9, 500)
    verdict = gate.judge_drop(original, original - 0.001, max_drop=0.01, bounds=(0, 1))
    assert verdict.passed
    assert Verdict.from_json(to_json(verdict)) == verdict


@pytest.mark.parametrize("pair", [([1.0], [1.0, 1.0]), ([], []), ([math.nan], [1.0]), ([[1.0]], [[1.0]])])
def test_scores_that_do_not_match_are_refused(pair: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="scores"):
        gate.judge_drop(*pair, max_drop=0.01, bounds=(0, 1))


def test_two_values_are_exact_on_any_scale() -> None:
    original, candidate = scores(7, 3, 900)
    plain = gate.drop_interval(original, candidate, bounds=(0, 1))
    in_percent = gate.drop_interval(100 * original, 100 * candidate, bounds=gate.score_bounds(100 * original))
    assert in_percent.high == pytest.approx(100 * plain.high)
    assert (in_percent.lost, in_percent.gained) == (7, 3)


@pytest.mark.parametrize(
    ("given", "bounds"),
    [([0, 1, 1], (0, 1)), ([0.2, 0.9], (0, 1)), ([0, 100] * 10, (0, 100)), ([0, 100] * 3, None), ([-1.5, 0.2], None)],
)
def test_bounds_are_told_from_scores_where_they_can_be(given: list[float], bounds: tuple[float, float] | None) -> None:
    assert gate.score_bounds(np.array(given, dtype=float)) == bounds


def test_without_bounds_an_unseen_loss_is_taken_as_large_as_what_is_seen() -> None:
    original = np.random.default_rng(0).normal(-2, 1, 1000)
    untouched = gate.drop_interval(original, original, bounds=None)
    assert untouched.high == pytest.approx(3 * original.std() / 1000, rel=0.01)
    one_large = original.copy()
    one_large[0] -= 50
    assert gate.drop_interval(original, one_large, bounds=None).high > 4.7 * 50 / 1000
    assert gate.drop_interval(np.full(50, 7.0), np.full(50, 7.0), bounds=None).high > 0


def test_bounds_that_a_candidate_passes_are_none() -> None:
    original, candidate = np.full(100, 0.5), np.full(100, 0.5)
    candidate[0] = -30
    assert gate.drop_interval(original, candidate, bounds=(0, 1)).high > 30 * 4.6 / 100


def test_equivalence_names_the_output_and_the_distance() -> None:
    same = gate.judge_equivalence({"logits": 2.1e-6, "state": 1e-7}, 1e-3)
    assert same.passed
    assert same.rule == "equivalence"
    assert same.reason == "same numbers: outputs differ by at most 2.1e-06 of their largest value, allowed 0.001"
    other = gate.judge_equivalence({"logits": 2.1e-6, "state": 0.0010004}, 1e-3)
    assert not other.passed
    assert other.distance == pytest.approx(4e-7)
    assert other.reason == "output 'state' differs by 0.0010004 of its largest value, allowed 0.0010000"


@pytest.mark.parametrize("difference", [math.nan, math.inf])
def test_what_is_not_finite_is_never_equivalent(difference: float) -> None:
    verdict = gate.judge_equivalence({"a": 0.0, "b": difference}, 1e-3)
    assert not verdict.passed
    assert verdict.reason == "output 'b' has NaN or Inf where the original has none"
    assert Verdict.from_json(to_json(verdict)) == verdict


def test_nothing_compared_is_no_equivalence() -> None:
    with pytest.raises(ValueError, match="no output was compared"):
        gate.judge_equivalence({}, 1e-3)


@pytest.mark.parametrize(("same", "compared"), [(3000, 3000), (2995, 3000), (2960, 3000), (256, 256)])
def test_agreement_of_classes_rests_on_the_exact_limit(same: int, compared: int) -> None:
    verdict = gate.judge_agreement(0.01, same, compared, max_drop=0.01)
    exact = stats.beta.ppf(0.95, compared - same + 1, same)
    assert verdict.distance == pytest.approx(exact - 0.01, abs=1e-8)
    assert verdict.drop is None  # the score's drop was not measured
    assert verdict.passed == (exact <= 0.01)
    assert (verdict.examples_needed is not None) == (not verdict.passed and compared - same < 0.01 * compared)


def test_the_sentences_of_agreement_say_that_accuracy_was_not_measured() -> None:
    few = gate.judge_agreement(0.01, 18, 18, max_drop=None)
    assert few.reason == (
        "accuracy not measured; same class in 18 of 18 inputs: as many as 0.1533 may differ (95%), allowed 0.0100; "
        "about 300 inputs would tell"
    )
    close = gate.judge_agreement(0.012, None, 18, max_drop=None)
    assert close.passed
    assert close.reason == "accuracy not measured; outputs differ by 0.0120 of their largest value, allowed 0.0500"
    far = gate.judge_agreement(0.2, None, 18, max_drop=None)
    assert not far.passed
    assert far.distance == pytest.approx(0.15)


def test_agreement_refuses_what_is_not_finite() -> None:
    verdict = gate.judge_agreement(math.nan, 18, 18, max_drop=None)
    assert not verdict.passed
    assert verdict.reason == "outputs have NaN or Inf where the original's have none"
    with pytest.raises(ValueError, match="5 alike of 4 inputs"):
        gate.judge_agreement(0.0, 5, 4, max_drop=None)


def test_who_is_likely_to_pass_is_foreseen() -> None:
    def chance(lost: int, gained: int, examples: int) -> float:
        return gate.chance_to_pass(
            *scores(lost, gained, examples), examples=2 * examples, max_drop=0.01, confidence=0.965, bounds=(0, 1)
        )

    assert chance(0, 0, 1500) > 0.99
    assert chance(3, 1, 1500) > chance(6, 1, 1500) > chance(12, 1, 1500)
    assert chance(15, 0, 1500) < 0.2
    assert chance(0, 0, 30) < 0.2


@pytest.mark.parametrize(("lost", "gained"), [(2, 0), (6, 3), (9, 0)])
def test_what_is_foreseen_comes_true_about_as_often(lost: int, gained: int) -> None:
    """Of rates drawn as selection leaves them, confirmation passes about as often as foreseen."""
    selected, confirmed, random = 900, 2100, np.random.default_rng(0)
    foreseen = gate.chance_to_pass(
        *scores(lost, gained, selected), examples=confirmed, max_drop=0.01, confidence=0.95, bounds=(0, 1)
    )
    rates = random.dirichlet([lost + 0.5, gained + 0.5, selected - lost - gained], size=60)
    counts = [random.multinomial(confirmed, rate).tolist() for rate in rates]
    passed = np.mean([judged(b, c, confirmed).passed for b, c, _ in counts])
    assert foreseen == pytest.approx(passed, abs=0.25)


chances = st.floats(0.0, 1.0)


@given(st.lists(st.tuples(st.floats(0.05, 3.0), st.lists(chances, min_size=3, max_size=3)), min_size=1, max_size=5))
def test_the_order_of_tries_is_worth_as_much_as_the_best_of_all(drawn: list[tuple[float, list[float]]]) -> None:
    caution = 1 + math.log2(len(drawn)) / 2
    gains, each = [gain for gain, _ in drawn], [sorted(one, reverse=True) for _, one in drawn]

    def worth(order: Sequence[int]) -> float:
        left, sum_of = 1.0, 0.0
        for spent, place in enumerate(order):
            chance = min(each[place][spent], 0.99) ** caution
            sum_of, left = sum_of + left * chance * gains[place], left * (1 - chance)
        return sum_of

    found = gate.order_of_tries(each, gains)
    assert [gains[place] for place in found] == sorted((gains[place] for place in found), reverse=True)
    falling = sorted(range(len(gains)), key=lambda place: -gains[place])
    every = [some for count in range(min(3, len(gains)) + 1) for some in combinations(falling, count)]
    assert worth(found) == pytest.approx(max(worth(one) for one in every))
