"""The limit of bounded means: Clopper and Pearson's for two values, the Dirichlet quantile for others, its coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hotlap.gate import bounded

FEW = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40).map(np.array)


@given(st.integers(1, 400), st.integers(0, 400), st.sampled_from([0.9, 0.95, 0.965, 0.996]))
def test_of_two_values_it_is_clopper_and_pearsons(examples: int, hits: int, confidence: float) -> None:
    hits = min(hits, examples)
    values, counts = np.array([0.0, 1.0]), np.array([examples - hits, hits])
    exact = 1.0 if hits == examples else stats.beta.ppf(confidence, hits + 1, examples - hits)
    found = bounded.upper_limit(values, 1.0, confidence, weights=counts)
    assert found == pytest.approx(exact, rel=1e-6)
    if hits < examples:
        repeated = np.repeat(values, counts)
        assert bounded.upper_limit(repeated, 1.0, confidence) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_quantile_of_means_under_random_weights(seed: int) -> None:
    random = np.random.default_rng(seed)
    examples = int(random.choice([3, 20, 150]))
    values = random.choice([random.normal(0, 0.1, examples), random.uniform(-1, 1, examples)]).clip(-1, 1)
    limit = bounded.upper_limit(values, 1.0, 0.95)
    weights = random.dirichlet(np.ones(examples + 1), size=40_000)
    above = float((weights @ np.append(values, 1.0) > limit).mean())
    assert above == pytest.approx(0.05, abs=4.5 * math.sqrt(0.05 * 0.95 / 40_000))


@settings(max_examples=20)
@given(FEW, st.integers(0, 39), st.floats(0, 1))
def test_a_larger_loss_never_lowers_it_by_more_than_rounding(values: np.ndarray, place: int, more: float) -> None:
    worse = values.copy()
    worse[place % len(values)] = min(worse[place % len(values)] + more, 1.0)
    before, after = bounded.upper_limit(values, 1.0, 0.95), bounded.upper_limit(worse, 1.0, 0.95)
    assert after >= before - 1e-6
    assert values.mean() - 1e-12 <= before <= 1


@settings(max_examples=20)
@given(FEW, st.floats(1, 2))
def test_a_higher_ceiling_and_more_confidence_never_lower_it(values: np.ndarray, ceiling: float) -> None:
    plain = bounded.upper_limit(values, 1.0, 0.95)
    assert bounded.upper_limit(values, ceiling, 0.95) >= plain - 1e-6
    assert bounded.upper_limit(values, 1.0, 0.99) >= plain - 1e-6


@settings(max_examples=20)
@given(FEW, st.floats(-3, 3), st.floats(0.01, 100))
def test_it_moves_and_grows_with_the_scores(values: np.ndarray, shift: float, scale: float) -> None:
    moved = bounded.upper_limit(shift + scale * values, shift + scale, 0.95)
    assert moved == pytest.approx(shift + scale * bounded.upper_limit(values, 1.0, 0.95), abs=1e-5 * scale)


def test_the_order_of_examples_does_not_matter() -> None:
    values = np.random.default_rng(0).normal(0, 0.05, 2000).clip(-1, 1)
    assert bounded.upper_limit(values, 1.0, 0.95) == pytest.approx(bounded.upper_limit(values[::-1], 1.0, 0.95))


@pytest.mark.parametrize("spread", [1e-9, 1e-4, 0.01, 0.3])
def test_very_many_values_on_a_grid_change_next_to_nothing(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(0, spread, 3000).clip(-1, 1)
    on_a_grid = bounded.upper_limit(values, 1.0, 0.95)
    monkeypatch.setattr(bounded, "_MOST_DISTINCT", 10**9)
    exact = bounded.upper_limit(values, 1.0, 0.95)
    assert exact - 1e-9 <= on_a_grid <= exact + 0.003 * (exact - values.mean())


@settings(max_examples=50)
@given(st.integers(0, 4), st.floats(-4, 0), st.integers(0, 10**6))
def test_a_bent_path_gives_what_a_straight_one_gives(kind: int, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    examples = int(random.choice([5, 50, 400]))
    values = random.normal(0, 10**scale, examples)
    if kind == 1:
        values = np.where(random.random(examples) < 3 / examples, 1, values)
    elif kind == 2:
        values = np.where(random.random(examples) < 0.3, random.random(), -random.random())
    elif kind >= 3:
        values = np.where(
            random.random(examples) < 3 / examples, random.random(examples), np.where(values > 0, -1.0, 0.0)
        )
    values = values.clip(-1, 1)
    width = values.std() / math.sqrt(examples) + (1 - values.mean()) / examples
    threshold = values.mean() + random.uniform(0.3, 3) * width
    if threshold >= 1:
        return
    found = bounded.chance_above(values, np.ones(examples), threshold, 1.0)
    path = bounded._Path(np.append(values, 1.0) - threshold, np.ones(examples + 1))
    straight = path.integral(0.0, 200_000)
    assert found == pytest.approx(straight, rel=1e-5, abs=1e-9)


def losses(kind: str, shape: tuple[int, int], random: np.random.Generator) -> tuple[np.ndarray, float]:
    """Losses in [-1, 1] and their true mean."""
    examples = shape[1]
    rate = 3.1 / examples  # none is seen 4 or 5 times in 100
    hit = random.random(shape) < rate
    if kind == "rare":
        return np.where(hit, 1.0, 0.0), rate
    if kind == "rare in noise":
        return np.where(hit, 1.0, random.uniform(-0.05, 0.05, shape)), rate
    if kind == "rare, of any size":
        return np.where(hit, random.random(shape), 0.0), rate / 2
    if kind == "rare against small gains":
        return np.where(hit, 1.0, -0.05), rate - 0.05 * (1 - rate)
    if kind == "as many gains":
        return np.where(hit, 1.0, 0.0) - (random.random(shape) < rate), 0.0
    return random.beta(0.5, 0.5, shape), 0.5


@pytest.mark.parametrize("examples", [20, 150, 800])
@pytest.mark.parametrize(
    "kind",
    ["rare", "rare in noise", "rare, of any size", "rare against small gains", "as many gains", "all over"],
)
def test_the_true_mean_is_above_the_limit_at_most_5_times_in_100(kind: str, examples: int) -> None:
    trials = 500
    values, true = losses(kind, (trials, examples), np.random.default_rng(3))
    # Below the true mean is where the chance of a larger weighted mean is below 5%: no need of the limit itself.
    missed = sum(
        row.mean() < true and bounded.chance_above(*bounded._grouped(row, np.ones(examples)), true, 1.0) < 0.05
        for row in values
    )
    assert missed <= stats.binom.ppf(1 - 1e-4, trials, 0.05)
    # A t interval, on the same scores, is what fails where losses are rare.
    if kind == "rare against small gains":
        width = stats.t.ppf(0.95, examples - 1) * values.std(axis=1, ddof=1) / math.sqrt(examples)
        assert (values.mean(axis=1) + width < true).sum() > stats.binom.ppf(1 - 1e-4, trials, 0.05)


def test_for_many_examples_it_is_as_narrow_as_a_normal_one() -> None:
    values = np.random.default_rng(2).uniform(-0.5, 0.5, 5000)
    width = bounded.upper_limit(values, 1.0, 0.95) - values.mean()
    assert width == pytest.approx(1.645 * values.std() / math.sqrt(5000), rel=0.06)


@settings(max_examples=20)
@given(FEW, st.floats(0.001, 0.5))
def test_so_many_examples_are_needed_and_no_fewer(values: np.ndarray, room: float) -> None:
    most = float(values.mean()) + room
    needed = bounded.examples_needed(values, 1.0, most, 0.95) if most < 1 else None
    if needed is not None:
        shares = np.full(len(values), 1 / len(values))
        assert bounded.upper_limit(values, 1.0, 0.95, weights=shares * needed) <= most + 1e-6
        assert needed == 1 or bounded.upper_limit(values, 1.0, 0.95, weights=shares * (needed - 1)) >= most - 1e-6


def test_no_number_of_examples_makes_up_for_a_mean_that_is_too_large() -> None:
    assert bounded.examples_needed(np.array([0.0, 1.0]), 1.0, 0.5, 0.95) is None


@pytest.mark.parametrize("values", [[], [0.5, 1.5], [math.nan], [-math.inf]])
def test_values_that_can_not_be_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and not above the ceiling"):
        bounded.upper_limit(np.array(values), 1.0, 0.95)
