"""Laws that a limit of the drop has to keep, and the exact answer where it is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from hotlap import gate
from hotlap.core import Drop, Verdict, to_json
from hotlap.errors import InputError
from hotlap.gate import bounded


def drop(lost: int, gained: int, examples: int, confidence: float = 0.95) -> Drop:
    before = np.concatenate([np.ones(lost), np.zeros(gained), np.ones(examples - lost - gained)])
    after = np.concatenate([np.zeros(lost), np.ones(gained), np.ones(examples - lost - gained)])
    return gate.drop_interval(before, after, confidence=confidence, bounds=(0, 1))


COUNTS = st.integers(5, 80).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n // 2 - 1), st.integers(0, n // 2 - 1))
)


@settings(max_examples=40)
@given(COUNTS)
def test_one_more_lost_is_never_better_and_one_more_gained_never_worse(counts: tuple[int, int, int]) -> None:
    examples, lost, gained = counts
    here = drop(lost, gained, examples)
    assert drop(lost + 1, gained, examples).high >= here.high - 1e-9
    assert drop(lost, gained + 1, examples).high <= here.high + 1e-9
    assert here.estimate <= here.high <= 1
    assert (here.lost, here.gained) == (lost, gained)


@pytest.mark.parametrize("examples", [10, 40])
@pytest.mark.parametrize("lost", [0, 1, 4])
def test_with_no_gains_it_is_not_below_clopper_and_pearson_without_gains(examples: int, lost: int) -> None:
    """The other rate is not known, so the limit can't be less than the exact one for a rate of gains of 0."""
    assert drop(lost, 0, examples).high >= beta.ppf(0.95, lost + 1, examples - lost) - 1e-6


@pytest.mark.parametrize("true", [(0.05, 0.0), (0.1, 0.05), (0.02, 0.01)])
def test_its_coverage_summed_over_every_outcome_is_nominal(true: tuple[float, float]) -> None:
    lost_rate, gained_rate = true
    examples, covered = 30, 0.0
    for lost in range(examples + 1):
        left = binom.pmf(lost, examples, lost_rate)
        if left < 1e-9:
            continue
        for gained in range(examples - lost + 1):
            chance = left * binom.pmf(gained, examples - lost, gained_rate / (1 - lost_rate))
            if chance > 1e-9 and drop(lost, gained, examples).high >= lost_rate - gained_rate:
                covered += chance
    assert covered >= 0.95 - 1e-6


def test_the_limit_of_bounded_values_is_clopper_and_pearsons_where_there_are_but_two() -> None:
    values = np.array([0.5] * 3 + [0.0] * 57)
    assert bounded.upper_limit(values, 0.5, 0.95) == pytest.approx(0.5 * beta.ppf(0.95, 4, 57), rel=1e-3)


def test_the_tries_share_five_in_a_hundred() -> None:
    assert sum(1 - confidence for confidence in gate.confirmation_confidences()) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("given", "scores", "tolerance"),
    [(None, [0, 1, 1], 0.01), ("1%", [0.5, 0.7], 0.006), ("0.02", [5, 9], 0.02), (0.5, [-3, 4], 0.5)],
)
def test_what_may_be_lost(given: str | float | None, scores: list[float], tolerance: float) -> None:
    assert gate.tolerance(given, np.asarray(scores)) == pytest.approx(tolerance)


@pytest.mark.parametrize(
    ("given", "scores", "message"),
    [
        (None, [0.0, 3.5], "--max-drop is needed: the scores range from 0 to 3.5"),
        ("much", [0.0, 1.0], "--max-drop much: give a number"),
        ("-1", [0.0, 1.0], "--max-drop -1: give a number"),
        ("1%", [-1.0, 1.0], "the original's score is 0"),
    ],
)
def test_what_can_not_be_meant_is_said(given: str | None, scores: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gate.tolerance(given, np.asarray(scores))


def test_a_broken_class_is_not_hidden_by_a_mean_that_holds() -> None:
    before = np.ones(4000)
    after = before.copy()
    after[:30] = 0  # all of the losses in one slice of 100
    labels = ["rare"] * 100 + ["common"] * 3900
    whole = gate.judge_drop(before, after, max_drop=0.02, bounds=(0, 1))
    sliced = gate.judge_drop(before, after, max_drop=0.02, bounds=(0, 1), slices=labels)
    assert whole.passed
    assert not sliced.passed
    assert sliced.worst_slice == "rare"
    assert "rare" in sliced.reason


def test_too_few_examples_are_counted_and_said() -> None:
    verdict = gate.judge_drop(np.ones(100), np.ones(100), max_drop=0.01, bounds=(0, 1))
    assert not verdict.passed
    assert verdict.examples_needed is not None
    enough = np.ones(verdict.examples_needed)
    assert gate.judge_drop(enough, enough, max_drop=0.01, bounds=(0, 1)).passed
    assert "examples would tell" in verdict.reason


def test_a_verdict_comes_back_from_json() -> None:
    verdict = gate.judge_drop(np.ones(100), np.ones(100), max_drop=0.05, bounds=(0, 1), slices=["a", "b"] * 50)
    assert Verdict.from_json(to_json(verdict)) == verdict


def test_equivalence_refuses_what_is_not_finite() -> None:
    assert gate.judge_equivalence({"a": 1e-4}, 1e-3).passed
    assert not gate.judge_equivalence({"a": 1e-4, "b": 2e-3}, 1e-3).passed
    assert not gate.judge_equivalence({"a": float("nan")}, 1e-3).passed
