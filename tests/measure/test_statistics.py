"""Laws and edges of the statistics; their coverage is in test_statistics_coverage.py."""

from __future__ import annotations

import math
import statistics as plain
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlap.core import Interval, Start
from hotlap.measure import statistics
from hotlap.measure.statistics import LOOKS, Looks

LAW = settings(deadline=None, derandomize=True, max_examples=30)
TIMES = st.floats(0.01, 1000.0)
FACTORS = st.floats(0.05, 20.0)


def start_of(pairs: list[tuple[float, float]]) -> Start:
    return Start(baseline_ms=tuple(a for a, _ in pairs), candidate_ms=tuple(b for _, b in pairs))


ANY_START = st.lists(st.tuples(TIMES, TIMES), min_size=4, max_size=12).map(start_of)
ANY_STARTS = st.lists(ANY_START, min_size=2, max_size=8)


def swapped(start: Start) -> Start:
    return Start(baseline_ms=start.candidate_ms, candidate_ms=start.baseline_ms)


def scaled(start: Start, baseline: float, candidate: float) -> Start:
    return Start(
        baseline_ms=tuple(baseline * time for time in start.baseline_ms),
        candidate_ms=tuple(candidate * time for time in start.candidate_ms),
    )


def starts_with(log_ratios: list[float], block_noise: float = 0.01) -> list[Start]:
    """Quiet starts of eight pairs that have exactly these log ratios."""
    wobble = np.array([-1.5, -1.5, -0.5, -0.5, 0.5, 0.5, 1.5, 1.5]) * block_noise
    return [Start(baseline_ms=tuple(np.exp(ratio + wobble)), candidate_ms=(1.0,) * len(wobble)) for ratio in log_ratios]


def disturbed_start(log_ratio: float = 0.0) -> Start:
    return starts_with([log_ratio], block_noise=0.5)[0]


def ends(interval: Interval) -> list[float]:
    return [interval.low, interval.estimate, interval.high]


def assert_inverse(one: Interval, other: Interval) -> None:
    assert ends(one) == pytest.approx([1 / end for end in reversed(ends(other))], rel=1e-9)


def assert_times(one: Interval, other: Interval, factor: float) -> None:
    assert ends(one) == pytest.approx([factor * end for end in ends(other)], rel=1e-9)


# One start


@LAW
@given(ANY_START)
def test_ratio_and_spread_are_what_a_plain_reading_of_their_definition_gives(start):
    logs = [math.log(a / b) for a, b in zip(start.baseline_ms, start.candidate_ms, strict=True)]
    orders = logs[0::2], logs[1::2]
    assert statistics.start_ratio(start) == pytest.approx(sum(map(plain.median, orders)) / 2, abs=1e-9)
    differences = [abs(one - other) for order in orders for one, other in combinations(order, 2)]
    expected = plain.median(differences) / (math.sqrt(2) * plain.NormalDist().inv_cdf(0.75))
    assert statistics.block_spreads(np.array(start.baseline_ms), np.array(start.candidate_ms)) == pytest.approx(
        expected, rel=1e-5, abs=1e-12
    )


@LAW
@given(st.lists(TIMES, min_size=1, max_size=12), FACTORS)
def test_a_constant_ratio_is_recovered(times, factor):
    start = start_of([(time, time / factor) for time in times])
    assert statistics.start_ratio(start) == pytest.approx(math.log(factor), abs=1e-9)


@LAW
@given(st.integers(1, 8), st.floats(-0.5, 0.5), FACTORS)
def test_a_steady_drift_cancels(quads, drift, factor):
    # Blocks run A B, B A, A B, ...; each is slower than the one before by the same factor.
    pairs = []
    for index in range(2 * quads):
        first, second = math.exp(drift * 2 * index), math.exp(drift * (2 * index + 1))
        a, b = (first, second) if index % 2 == 0 else (second, first)
        pairs.append((a, b / factor))
    assert statistics.start_ratio(start_of(pairs)) == pytest.approx(math.log(factor), abs=1e-9)


@LAW
@given(FACTORS, st.sampled_from([(0,), (1,), (0, 1), (2, 5, 0, 3)]), st.floats(1.0, 1e4))
def test_spoiled_blocks_below_half_of_each_order_change_nothing(factor, spoiled, slower):
    pairs = [(1.0, (slower if index in spoiled else 1.0) / factor) for index in range(10)]
    assert statistics.start_ratio(start_of(pairs)) == pytest.approx(math.log(factor), abs=1e-9)


@LAW
@given(ANY_START, FACTORS, FACTORS)
def test_screening_inverts_with_the_sides_and_scales_with_the_times(start, baseline, candidate):
    interval = statistics.screening(start)
    assert_inverse(interval, statistics.screening(swapped(start)))
    assert_times(statistics.screening(scaled(start, baseline, candidate)), interval, baseline / candidate)


@LAW
@given(ANY_START, st.floats(0.001, 0.1))
def test_screening_is_never_narrower_than_the_spread_between_processes(start, between):
    interval = statistics.screening(start, between_processes=between)
    assert math.log(interval.high / interval.estimate) >= plain.NormalDist().inv_cdf(0.975) * between * (1 - 1e-6)


def test_screening_needs_four_pairs():
    with pytest.raises(ValueError, match="screening needs at least four pairs of blocks, not 3"):
        statistics.screening(start_of([(1.0, 1.0)] * 3))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (Start(baseline_ms=(1.0, 2.0), candidate_ms=(1.0,)), "a start needs pairs of blocks, not 2 and 1"),
        (Start(baseline_ms=(), candidate_ms=()), "a start needs pairs of blocks, not 0 and 0"),
        (start_of([(1.0, 0.0)]), "the time of a block must be above 0"),
        (start_of([(math.nan, 1.0)]), "the time of a block must be above 0"),
    ],
)
def test_a_start_that_is_none_is_refused(start, message):
    with pytest.raises(ValueError, match=message):
        statistics.start_ratio(start)


# Over restarts


@LAW
@given(ANY_STARTS, FACTORS, FACTORS)
def test_speedup_inverts_with_the_sides_and_scales_with_the_times(starts, baseline, candidate):
    interval = statistics.speedup(starts)
    assert_inverse(interval, statistics.speedup([swapped(start) for start in starts]))
    moved = statistics.speedup([scaled(start, baseline, candidate) for start in starts])
    assert_times(moved, interval, baseline / candidate)


@LAW
@given(ANY_STARTS, st.randoms())
def test_the_order_of_starts_does_not_matter(starts, random):
    shuffled = random.sample(starts, len(starts))
    assert_times(statistics.speedup(shuffled), statistics.speedup(starts), 1.0)


@LAW
@given(ANY_STARTS)
def test_more_confidence_widens_fewer_looks_narrow(starts):
    interval = statistics.speedup(starts)
    assert interval.low <= interval.estimate <= interval.high
    width = statistics.relative_half_width(interval)
    wider = statistics.relative_half_width(statistics.speedup(starts, confidence=0.99))
    # Two wild starts may fill the whole range of a float either way.
    assert math.isfinite(wider)
    assert wider > width or width > 1e100
    assert statistics.relative_half_width(statistics.speedup(starts, looks=Looks(at=(4, 9)))) < width


@LAW
@given(FACTORS, st.integers(2, 20))
def test_starts_that_agree_by_luck_still_leave_the_least_spread(factor, count):
    starts = starts_with([math.log(factor)] * count)
    interval = statistics.speedup(starts)
    assert interval.estimate == pytest.approx(factor)
    assert math.log(interval.high / interval.estimate) > 1.96 * statistics.LEAST_SPREAD / math.sqrt(count)


@LAW
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=15).filter(lambda values: np.std(values) > 0.01))
def test_with_one_look_it_is_students_interval(log_ratios):
    from scipy.stats import ttest_1samp

    expected = ttest_1samp(log_ratios, 0).confidence_interval(0.95)
    interval = statistics.speedup(starts_with(log_ratios), looks=Looks(at=(len(log_ratios),)))
    assert [interval.low, interval.high] == pytest.approx([math.exp(expected.low), math.exp(expected.high)])


def test_one_start_is_no_restart():
    for starts in (starts_with([0.0]), []):
        with pytest.raises(ValueError, match=r"needs at least two starts; `screening` takes one"):
            statistics.speedup(starts)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_that_is_none_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        statistics.speedup(starts_with([0.0, 0.1]), confidence=confidence)


@pytest.mark.parametrize("at", [(), (1, 4), (4, 4), (6, 4)])
def test_looks_that_are_none_are_refused(at):
    with pytest.raises(ValueError, match="looks must be at rising numbers of starts from 2 on"):
        Looks(at=at)


# Disturbed starts


def test_disturbed_starts_are_left_out_and_replaced():
    calm = starts_with([0.01, -0.01, 0.0, 0.02])
    starts = [*calm[:2], disturbed_start(-3.0), *calm[2:]]
    assert statistics.undisturbed(starts) == tuple(calm)
    assert statistics.speedup(starts) == statistics.speedup(calm)
    assert statistics.next_look(starts[:4]) == 5
    assert not statistics.settled(starts[:4], noise_floor=0.01)


def test_where_all_starts_are_noisy_all_count():
    starts = [disturbed_start(ratio) for ratio in (0.0, 0.1, -0.1)]
    assert statistics.undisturbed(starts) == tuple(starts)
    assert statistics.undisturbed([]) == ()


@LAW
@given(ANY_STARTS)
def test_leaving_out_prefers_no_side_and_keeps_more_than_half(starts):
    kept = statistics.undisturbed(starts)
    assert len(kept) > len(starts) / 2
    assert statistics.undisturbed([swapped(start) for start in starts]) == tuple(map(swapped, kept))


# Looks and stopping


def test_looks_come_one_after_the_other_and_end():
    starts = starts_with([0.0] * 13)
    looks = [statistics.next_look(starts[:count]) for count in (0, 3, 4, 5, 6, 9, 12, 13)]
    assert looks == [4, 4, 6, 6, 9, 13, 13, None]
    assert not statistics.speedup_ready(starts[:3])
    assert statistics.speedup_ready(starts[:4])


@LAW
@given(st.lists(st.booleans(), min_size=40, max_size=40), st.floats(-0.2, 0.2))
def test_sampling_ends_whatever_comes(is_disturbed, ratio):
    starts: list[Start] = []
    while not (starts and statistics.settled(starts, noise_floor=0.0, precision=0.0, difference=0.0)):
        look = statistics.next_look(starts)
        assert look is not None
        assert look > len(starts)
        fresh = is_disturbed[len(starts) : look]
        starts += [disturbed_start(ratio) if spoiled else starts_with([ratio])[0] for spoiled in fresh]
        assert len(starts) <= 1.5 * LOOKS.at[-1]
    assert statistics.settled(starts, noise_floor=0.0)


@pytest.mark.parametrize(
    ("log_ratios", "noise_floor", "settled"),
    [
        ([0.5, 0.51, 0.52, 0.5], 0.02, True),  # plainly faster
        ([-0.5, -0.51, -0.52, -0.5], 0.02, True),  # plainly slower
        ([0.01, -0.01, 0.005, 0.0], 0.02, True),  # alike, and 5% excluded
        ([0.04, -0.04, 0.02, 0.0], 0.02, False),  # alike, but 5% not excluded
        ([0.03, 0.031, 0.032, 0.03], 0.02, False),  # within 5%, but beyond the floor: it may be a gain
        ([0.5, 0.51, 0.52], 0.02, False),  # no look yet
        ([0.5, 0.51, 0.52, 0.5, 0.5], 0.02, False),  # between two looks
        ([0.03] * 9, 0.03, True),  # narrow
    ],
)
def test_when_sampling_stops(log_ratios, noise_floor, settled):
    assert statistics.settled(starts_with(log_ratios), noise_floor=noise_floor) is settled


# Verdict, noise floor, figures


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.021, 1.3, "faster"),
        (1.02, 1.3, "no difference"),
        (1.001, 1.019, "no difference"),
        (0.7, 0.9802, "slower"),  # 1 / 1.02 is 0.9804
        (0.7, 1 / 1.02, "no difference"),
        (0.9, 1.1, "no difference"),
    ],
)
def test_a_verdict_takes_the_whole_interval_beyond_the_floor(low, high, verdict):
    assert statistics.verdict(Interval(estimate=math.sqrt(low * high), low=low, high=high), 0.02) == verdict


@LAW
@given(ANY_STARTS, st.floats(0, 0.5))
def test_a_verdict_turns_with_the_sides(starts, noise_floor):
    turned = {"faster": "slower", "slower": "faster", "no difference": "no difference"}
    one = statistics.speedup(starts)
    other = Interval(estimate=1 / one.estimate, low=1 / one.high, high=1 / one.low)
    assert statistics.verdict(other, noise_floor) == turned[statistics.verdict(one, noise_floor)]


def test_the_noise_floor_is_the_spread_about_no_difference():
    ratios = [0.03, -0.02, 0.01, 0.04]
    t_of_8, usual = 2.306004, statistics.BETWEEN_PROCESS_SD**2
    mean_square = (4 * usual + sum(ratio**2 for ratio in ratios)) / 8
    expected = math.exp(t_of_8 * math.sqrt(mean_square / LOOKS.at[-1])) - 1
    assert statistics.noise_floor(starts_with(ratios)) == pytest.approx(expected)
    assert statistics.noise_floor(list(map(swapped, starts_with(ratios)))) == pytest.approx(expected)
    # A bias of the set-up is noise, too.
    assert statistics.noise_floor(starts_with([0.04] * 4)) > statistics.noise_floor(starts_with([0.0] * 4))


@LAW
@given(st.lists(st.floats(-0.02, 0.02), min_size=1, max_size=8))
def test_a_few_starts_make_no_wild_noise_floor(log_ratios):
    assert 0.004 < statistics.noise_floor(starts_with(log_ratios)) < 0.014


def test_a_noise_floor_needs_a_start():
    with pytest.raises(ValueError, match="a noise floor needs at least one start"):
        statistics.noise_floor([])


def test_median_ms_is_of_starts_and_not_of_all_blocks():
    assert statistics.median_ms([(1.0, 2.0, 9.0), (3.0,), (5.0, 5.0, 5.0, 5.0)]) == 3.0


def test_relative_half_width():
    assert statistics.relative_half_width(Interval(estimate=2.0, low=2 / 1.1, high=2 * 1.1)) == pytest.approx(0.1)


# Warnings


def test_quiet_starts_warn_of_nothing():
    assert statistics.spread_warning(starts_with([0.0, 0.02, -0.01, 0.01])) is None
    assert statistics.spread_warning(starts_with([0.0])) is None
    assert statistics.spread_warning([]) is None


def test_a_warning_names_the_spread_between_starts():
    assert statistics.spread_warning(starts_with([0.1, -0.1, 0.1, -0.1])) == (
        "noise spoils this result: the speedup differs by 11.5% (standard deviation) from one start of the "
        "processes to the next, where up to 1.8% is usual; stop what else runs on this machine, or give a longer "
        "--budget for more starts"
    )


def test_a_warning_names_starts_left_out():
    assert statistics.spread_warning([*starts_with([0.0, 0.01, 0.0, 0.01]), disturbed_start()]) == (
        "noise spoils this result: 1 of 5 starts were left out, because neighbouring blocks in them differ by more "
        "than 10%; something else was using the machine: stop it, or give fewer --threads than there are cores"
    )


def test_a_warning_names_the_side_whose_times_vary():
    steps = (1.0, 1.0, 1.3, 1.3, 1.6, 1.6)
    starts = [Start(baseline_ms=(1.0,) * 6, candidate_ms=steps)] * 4
    expected = (
        "noise spoils this result: the time of OpenVINO int8 varies by 34% from block to block, where up to 10% is "
        "usual; stop what else runs on this machine, or give fewer --threads than there are cores"
    )
    assert statistics.spread_warning(starts, candidate="OpenVINO int8") == expected
    turned = statistics.spread_warning(list(map(swapped, starts)), baseline="the original")
    assert turned == expected.replace("OpenVINO int8", "the original")


def test_importing_it_loads_no_scipy():
    code = "import sys, hotlap.measure.statistics; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
