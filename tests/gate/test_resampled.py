"""Metrics of a whole set: never of zero width, near the exact limit where there is one, seeded, and clear errors."""

import math
from typing import Any

import numpy as np
import pytest

from hotlap import gate
from hotlap.errors import WorkloadError
from hotlap.gate import paired, resampled


def mean(rows: list[float]) -> float:
    return sum(rows) / len(rows)


def f1(rows: list[tuple[int, int]]) -> float:
    """F1 of (predicted, true) pairs."""
    both = sum(1 for predicted, true in rows if predicted and true)
    either = sum(predicted + true for predicted, true in rows)
    return 2 * both / either


def rows_of(lost: int, gained: int, examples: int, wrong: int = 5) -> tuple[list[float], list[float]]:
    right = examples - lost - gained - wrong
    return [1.0] * lost + [0.0] * (gained + wrong) + [1.0] * right, [0.0] * lost + [1.0] * gained + [0.0] * wrong + [
        1.0
    ] * right


def interval(original: list[Any], candidate: list[Any], metric: resampled.Metric, **how: Any) -> Any:
    return gate.metric_drop_interval(original, candidate, metric, **{"resamples": 400, **how})


@pytest.mark.parametrize("examples", [50, 400])
def test_no_row_changed_leaves_about_three_in_n_possible(examples: int) -> None:
    rows, same = rows_of(0, 0, examples)
    found = interval(rows, same, mean)
    assert found.estimate == 0
    assert 2.5 / examples < found.high < 3.6 / examples


@pytest.mark.parametrize(("lost", "gained"), [(1, 0), (3, 1), (10, 8), (25, 2)])
def test_the_mean_of_right_and_wrong_gets_near_the_exact_limit(lost: int, gained: int) -> None:
    examples = 400
    found = interval(*rows_of(lost, gained, examples), mean, resamples=2000)
    assert (found.lost, found.gained, found.examples) == (lost, gained, examples)
    assert found.estimate == pytest.approx((lost - gained) / examples)
    exact = paired.upper_limit(lost, gained, examples, 0.95)
    assert exact - 0.7 / examples < found.high < exact + 1.3 / examples


def test_the_same_seed_gives_the_same_and_another_nearly_so() -> None:
    rows = rows_of(10, 8, 400)
    first, again, other = (interval(*rows, mean, seed=seed).high for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first == pytest.approx(other, rel=0.3)


def test_of_a_bad_class_in_f1_one_row_weighs_more_than_its_share() -> None:
    rows = [(1, 1)] * 18 + [(0, 1)] * 2 + [(0, 0)] * 180
    # 20 of 200 are of the class: a row of it moves F1 by 1/20, not by 1/200.
    assert interval(rows, rows, f1).high > 5 * 3 / 200


@pytest.mark.slow
def test_the_true_drop_of_f1_is_seldom_above_the_limit() -> None:
    random, examples, trials = np.random.default_rng(0), 200, 150
    true = random.random((trials, examples)) < 0.3
    predicted = true ^ (random.random((trials, examples)) < 0.1)
    broken = predicted ^ ((predicted == true) & (random.random((trials, examples)) < 4 / examples))

    def population(rate: float) -> float:
        """F1 where a class of 0.3 is told wrongly at that rate."""
        return 2 * 0.3 * (1 - rate) / (0.3 + 0.3 * (1 - rate) + 0.7 * rate)

    drop = population(0.1) - population(0.1 + 0.9 * 4 / examples)
    missed = 0
    for row in range(trials):
        original, candidate = (
            list(zip(side[row].astype(int).tolist(), true[row].astype(int).tolist(), strict=True))
            for side in (predicted, broken)
        )
        missed += interval(original, candidate, f1, seed=row, resamples=100).high < drop
    assert missed <= 0.12 * trials


def test_rows_that_are_no_numbers_are_not_counted_as_lost_or_gained() -> None:
    original = [{"boxes": np.zeros(3), "right": 1.0} for _ in range(30)]
    candidate = [{"boxes": np.ones(3), "right": 1.0} for _ in range(30)]
    found = interval(original, candidate, lambda rows: mean([row["right"] for row in rows]), resamples=50)
    assert (found.lost, found.gained) == (0, 0)
    assert found.high > 0


def test_a_metric_that_raises_is_the_users_error() -> None:
    def broken(rows: list[float]) -> float:
        raise KeyError("label")

    with pytest.raises(WorkloadError, match=r"the workload's `metric` raised KeyError"):
        interval([1.0], [1.0], broken)


def test_a_metric_without_a_value_is_the_users_error() -> None:
    with pytest.raises(WorkloadError, match=r"`metric` gave nan for 3 rows; it must give a finite number"):
        interval([1.0] * 3, [0.0] * 3, lambda rows: math.nan)


def test_a_metric_without_a_value_on_most_resampled_sets_is_said() -> None:
    def needs_all(rows: list[int]) -> float:
        return 1.0 if len(set(rows)) == len(rows) else math.nan

    with pytest.raises(WorkloadError, match=r"no value on \d+ of 400 resampled sets of its 8 rows; give more examples"):
        interval(list(range(8)), list(range(1, 9)), needs_all)


def test_sets_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows and 1"):
        interval([1.0, 1.0], [1.0], mean)
