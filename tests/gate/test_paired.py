"""The exact limit of 0/1 scores: every outcome counted, the worst rates searched, SciPy as the oracle."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hotlap.gate import paired

CONFIDENCES = (0.9, 0.95, 0.965, 0.99, 0.996)


@st.composite
def counts(draw: st.DrawFn, most: int = 300) -> tuple[int, int, int]:
    examples = draw(st.integers(1, most))
    flipped = draw(st.integers(0, examples))
    lost = draw(st.integers(0, flipped))
    return lost, flipped - lost, examples


def outcomes(examples: int) -> list[tuple[int, int]]:
    return [(b, c) for b, c in itertools.product(range(examples + 1), repeat=2) if b + c <= examples]


def chances(pairs: list[tuple[int, int]], examples: int, p10: float, p01: float) -> np.ndarray:
    full = np.array([(b, c, examples - b - c) for b, c in pairs])
    return stats.multinomial.pmf(full, examples, [p10, p01, max(1 - p10 - p01, 0.0)])


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("examples", [1, 2, 5, 12])
def test_the_true_drop_is_above_the_limit_no_oftener_than_allowed_whatever_the_rates(
    examples: int, confidence: float
) -> None:
    pairs = outcomes(examples)
    limits = np.array([paired.upper_limit(b, c, examples, confidence) for b, c in pairs])
    worst = 0.0
    for p10, p01 in itertools.product(np.linspace(0, 1, 41), repeat=2):
        if p10 + p01 <= 1:
            missed = limits < p10 - p01 - 1e-9
            worst = max(worst, float(chances(pairs, examples, p10, p01)[missed].sum()))
    assert worst <= 1 - confidence
    # And it is not merely cautious: somewhere it is nearly used up.
    assert worst >= 0.7 * (1 - confidence) or examples == 1


@given(counts(), st.sampled_from(CONFIDENCES))
def test_the_order_ranks_one_more_lost_worse_and_one_more_gained_better(
    found: tuple[int, int, int], confidence: float
) -> None:
    lost, gained, examples = found
    most = paired._most_lost(lost, gained, examples, confidence)
    assert most[gained] == lost
    assert set(np.diff(most)) <= {0, 1}


@given(counts(60), st.sampled_from(CONFIDENCES))
def test_a_single_chance_is_the_sum_over_the_outcomes_that_are_as_good(
    found: tuple[int, int, int], confidence: float
) -> None:
    lost, gained, examples = found
    most = paired._most_lost(lost, gained, examples, confidence)
    drop, rate = 0.1, 0.2
    pairs = [(b, c) for b, c in outcomes(examples) if b <= most[c]]
    expected = float(chances(pairs, examples, drop + rate, rate).sum()) if pairs else 0.0
    assert paired._chance(most, drop, np.array([rate]), examples)[0] == pytest.approx(expected, abs=1e-9)


@given(counts(200))
def test_more_examples_with_the_same_flips_leave_less_possible(found: tuple[int, int, int]) -> None:
    lost, gained, examples = found
    here = paired.upper_limit(lost, gained, examples, 0.95)
    # Below zero the same gains are a smaller share of more.
    assert paired.upper_limit(lost, gained, 2 * examples, 0.95) <= max(here, 0.0) + 1e-9


@given(counts(200))
def test_the_limit_lies_between_what_was_seen_and_everything(found: tuple[int, int, int]) -> None:
    lost, gained, examples = found
    limits = [paired.upper_limit(lost, gained, examples, confidence) for confidence in (0.9, 0.95, 0.99)]
    assert (lost - gained) / examples <= limits[0] <= limits[1] <= limits[2] <= 1
    assert paired.lower_limit(lost, gained, examples, 0.95) <= (lost - gained) / examples
    assert paired.lower_limit(lost, gained, examples, 0.95) == -paired.upper_limit(gained, lost, examples, 0.95)


@pytest.mark.parametrize("confidence", [0.95, *CONFIDENCES[2:]])
@pytest.mark.parametrize("examples", [1, 20, 300, 3500])
def test_no_flip_leaves_what_clopper_and_pearson_leave(examples: int, confidence: float) -> None:
    exact = stats.beta.ppf(confidence, 1, examples)
    assert exact <= paired.upper_limit(0, 0, examples, confidence) <= 1.002 * exact


@pytest.mark.parametrize("lost", [0, 1, 3, 10])
def test_it_never_claims_more_than_clopper_and_pearson_where_nothing_was_gained(lost: int) -> None:
    exact = stats.beta.ppf(0.95, lost + 1, 400 - lost)
    assert exact - 1e-9 <= paired.upper_limit(lost, 0, 400, 0.95) <= 1.1 * exact


@pytest.mark.parametrize(("lost", "gained", "examples"), [(20, 20, 3000), (100, 90, 5000), (5, 30, 2000)])
def test_it_is_near_the_large_sample_limit_where_many_flip(lost: int, gained: int, examples: int) -> None:
    """The large-sample limit has nearly nominal coverage there, though none that is sure."""
    spread = np.sqrt(lost + gained - (lost - gained) ** 2 / examples)
    large_sample = (lost - gained + 1.645 * spread) / examples
    assert abs(paired.upper_limit(lost, gained, examples, 0.95) - large_sample) < 1.5 / examples


@pytest.mark.parametrize(
    ("lost", "gained", "examples", "confidence"), [(20, 20, 3000, 0.95), (1, 8, 200, 0.9), (3, 3, 60, 0.996)]
)
def test_between_the_rates_that_are_tried_none_is_worse(
    lost: int, gained: int, examples: int, confidence: float
) -> None:
    limit = paired.upper_limit(lost, gained, examples, confidence)
    most = paired._most_lost(lost, gained, examples, confidence)
    span = examples * (1 - abs(limit)) / 2
    near, all_over = np.linspace(0, min(60, span), 400), np.linspace(0, span, 400)
    places = np.concatenate([near, span - near, all_over]) / span
    chance = paired._chance(most, limit, paired._rates(np.clip(places, 0, 1), limit), examples).max()
    assert chance <= (1 - confidence) * (1 + 1e-9)


@pytest.mark.exhaustive
def test_between_the_rates_that_are_tried_none_is_worse_anywhere() -> None:
    random = np.random.default_rng(5)
    for _ in range(1500):
        examples = int(random.choice([2, 5, 13, 35, 100, 300, 1000, 5000]))
        confidence = float(random.choice([*CONFIDENCES, 0.9995]))
        flipped = random.binomial(examples, min(10 ** random.uniform(-3.5, 0), 1))
        lost = random.binomial(flipped, random.choice([0.3, 0.5, 0.7, 0.9]))
        if lost < examples:
            test_between_the_rates_that_are_tried_none_is_worse(lost, flipped - lost, examples, confidence)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 1, 3, 0.95), "3 lost and 1 gained of 3 examples is impossible"),
        ((-1, 1, 3, 0.95), "-1 lost"),
        ((0, 0, 0, 0.95), "of 0 examples"),
        ((0, 0, 3, 0.5), "confidence 0.5 is not in"),
        ((0, 0, 3, 1.0), "confidence 1.0 is not in"),
    ],
)
def test_impossible_counts_are_refused(arguments: tuple[int, int, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired.upper_limit(*arguments)


def test_log_factorials_are_those_of_the_gamma_function() -> None:
    from scipy.special import gammaln

    table = paired._log_factorials(100_000)
    assert np.allclose(table, gammaln(np.arange(100_001) + 1.0), rtol=1e-14, atol=1e-13)
