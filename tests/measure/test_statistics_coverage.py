"""Do the intervals hold what they promise? On simulated traces, and on recorded ones where the truth is known.

A share of misses is judged by a binomial limit that a right procedure passes in all but one of ten thousand runs;
seeds are fixed on top. Each check is also shown to fail for a procedure that is known to be wrong.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.special import bdtrc, stdtrit

from hotlap.core import Start
from hotlap.measure import statistics
from hotlap.measure.statistics import LOOKS, Looks

TRIALS = 3000
PAIRS = 8
CHANCE = 1e-4
DATA = Path(__file__).with_name("data")
RECORDED = sorted(DATA.glob("*.json"))


def most_misses(trials: int, rate: float) -> int:
    """The most misses that a procedure with this rate of them has, but for one run in ten thousand."""
    counts = np.arange(trials)
    return int(counts[bdtrc(counts, trials, rate) < CHANCE][0])


def holds(misses: np.ndarray, rate: float) -> bool:
    return int(misses.sum()) <= most_misses(len(misses), rate)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What disturbs simulated times, in log units."""

    between: float = 0.012
    block: float = 0.012
    machine: float = 0.015
    drift: float = 0.10
    outliers: float = 0.03
    modes: float = 0.0
    disturbed: float = 0.0


def traces(noise: Noise, speedup: float = 1.0, *, seed: int, trials: int = TRIALS, starts: int = LOOKS.at[-1]):
    """Block times in ms, baseline and candidate, float[trials, starts, PAIRS] each.

    Blocks run A B, B A, ... under one machine whose state wanders (first-order autoregressive) and drifts;
    now and then a block is an outlier. Each process is for its life a little faster or slower, and with `modes`
    one in five is slower by that. `disturbed` is the share of starts in which something else ran.
    """
    draw = np.random.default_rng(seed)
    shape = (trials, starts, 2 * PAIRS)
    state = draw.normal(0, noise.machine, shape)
    for slot in range(1, 2 * PAIRS):
        state[..., slot] = 0.95 * state[..., slot - 1] + 0.31 * state[..., slot]
    state += np.linspace(0, 1, 2 * PAIRS) * draw.uniform(-noise.drift, noise.drift, (trials, starts, 1))
    state += draw.normal(0, noise.block, shape)
    state += (draw.random(shape) < noise.outliers) * draw.exponential(0.5, shape)
    state += (draw.random((trials, starts, 1)) < noise.disturbed) * draw.normal(0, 0.6, shape)
    quads = state.reshape(trials, starts, PAIRS // 2, 4)
    sides = [quads[..., [0, 3]], quads[..., [1, 2]]]
    times = []
    for logs, factor in zip(sides, (speedup, 1.0), strict=True):
        lasting = draw.normal(0, noise.between / math.sqrt(2), (trials, starts, 1))
        lasting += (draw.random((trials, starts, 1)) < 0.2) * noise.modes
        times.append(np.exp(logs.reshape(trials, starts, PAIRS) + lasting) * factor)
    return times


def missed(ratios: np.ndarray, truth: float, *, looks: Looks = LOOKS, confidence: float = 0.95, at=None):
    """Whether the interval missed the truth at any of the looks: bool[trials]."""
    misses = np.zeros(len(ratios), bool)
    for count in at or looks.at:
        centre, half = statistics.centres_and_half_widths(ratios[:, :count], confidence=confidence, looks=looks)
        misses |= np.abs(centre - math.log(truth)) > half
    return misses


def screened(times, truth: float, between: float) -> np.ndarray:
    """Whether screening misses the truth, from the first start of each trial: bool[trials]."""
    found = [
        statistics.screening(Start(baseline_ms=tuple(a), candidate_ms=tuple(b)), between_processes=between)
        for a, b in zip(times[0][:, 0], times[1][:, 0], strict=True)
    ]
    return np.array([not interval.low <= truth <= interval.high for interval in found])


def naive_over_blocks(times) -> np.ndarray:
    """Student's interval over the blocks of one start, as if each block were a new sample: misses, bool[...]."""
    logs = np.log(times[0]) - np.log(times[1])
    count = logs.shape[-1]
    half = stdtrit(count - 1, 0.975) * logs.std(axis=-1, ddof=1) / math.sqrt(count)
    return np.abs(logs.mean(axis=-1)) > half


# Simulated traces


def test_simulated_traces_look_like_measured_ones():
    noise = Noise(between=0.0, drift=0.0, outliers=0.0)
    baseline, candidate = (np.log(side) for side in traces(noise, seed=1, trials=500))

    def autocorrelation(logs):
        return float((logs[..., 1:] * logs[..., :-1]).mean() / (logs**2).mean())

    assert 0.5 < autocorrelation(baseline) < 0.6
    assert abs(autocorrelation(baseline - candidate)) < 0.1


@pytest.mark.parametrize("confidence", [0.9, 0.95, 1 - 0.05 / 3, 0.99])
@pytest.mark.parametrize("looks", [LOOKS, Looks(at=(3, 5)), Looks(at=(6,))])
def test_coverage_of_all_looks_together_is_nominal(looks, confidence):
    ratios = np.random.default_rng(2).normal(0.3, 1.0, (20_000, looks.at[-1]))
    misses = missed(ratios, math.exp(0.3), looks=looks, confidence=confidence)
    assert holds(misses, 1 - confidence)
    assert holds(~misses, confidence)  # and no wider than need be


@pytest.mark.parametrize(
    ("noise", "speedup"),
    [
        (Noise(between=0.0), 1.0),
        (Noise(between=0.007), 5.2),
        (Noise(between=0.018), 0.95),
        (Noise(between=0.05), 1.0),
        (Noise(between=0.012, outliers=0.10), 5.2),
        (Noise(between=0.012, drift=0.5), 1.0),
        (Noise(between=0.012, machine=0.1, block=0.03), 0.95),
    ],
)
def test_speedup_covers_the_truth_at_every_look(noise, speedup):
    ratios = statistics.log_ratios(*traces(noise, speedup, seed=3))
    assert holds(missed(ratios, speedup), 0.05)


def test_speedup_covers_where_processes_have_two_modes():
    # Alike but for one process in five that is slower: the difference is far from normal, and mostly nothing.
    ratios = statistics.log_ratios(*traces(Noise(between=0.004, modes=0.04), seed=4))
    assert holds(missed(ratios, 1.0), 0.05)


def test_a_budget_that_ends_between_looks_keeps_the_promise():
    ratios = statistics.log_ratios(*traces(Noise(between=0.018), seed=5))
    for last in (2, 3, 5, 8, 11):
        at = [*(look for look in LOOKS.at if look < last), last]
        assert holds(missed(ratios, 1.0, at=at), 0.05)


def test_disturbed_starts_cost_neither_coverage_nor_width():
    times = traces(Noise(between=0.012, disturbed=0.15), seed=6)
    ratios, misses = statistics.log_ratios(*times), np.zeros(TRIALS, bool)
    for count in LOOKS.at:
        seen = [side[:, :count] for side in times]
        kept = ~statistics.disturbed(statistics.block_spreads(*seen))
        centre, half = statistics.centres_and_half_widths(ratios[:, :count], kept)
        misses |= np.abs(centre) > half
    assert holds(misses, 0.05)
    _, with_all = statistics.centres_and_half_widths(ratios)
    assert np.median(half) < 0.02 < np.median(with_all)


@pytest.mark.parametrize(
    "noise",
    [
        Noise(between=0.007),
        Noise(between=0.018),
        Noise(between=0.018, block=0.05),
        Noise(between=0.018, drift=0.5),
        Noise(between=0.007, outliers=0.05),
        Noise(between=0.0, block=0.05),
    ],
)
def test_screening_covers_where_the_spread_is_as_assumed(noise):
    times = traces(noise, 0.8, seed=7, trials=1500, starts=1)
    assert holds(screened(times, 0.8, noise.between), 0.05)


# The same checks fail for what is wrong


def test_an_interval_over_blocks_fails_the_check():
    times = traces(Noise(between=0.012, outliers=0.0), seed=3)
    assert not holds(naive_over_blocks([side[:, 0] for side in times]), 0.05)
    pooled = [side.reshape(TRIALS, -1) for side in times]
    assert not holds(naive_over_blocks(pooled), 0.05)


def test_screening_without_the_spread_between_processes_fails_the_check():
    times = traces(Noise(between=0.018), seed=7, trials=500, starts=1)
    assert not holds(screened(times, 1.0, 0.0), 0.05)


def test_looks_that_share_no_error_fail_the_check():
    ratios = np.random.default_rng(2).normal(0, 0.018, (TRIALS, LOOKS.at[-1]))
    misses = np.zeros(TRIALS, bool)
    for count in LOOKS.at:
        misses |= missed(ratios, 1.0, looks=Looks(at=(count,)))
    assert not holds(misses, 0.05)


# Whole comparisons


def compare(starts: list[Start], noise_floor: float) -> tuple[str, int]:
    """What a comparison that draws on these starts says, and after how many."""
    seen = LOOKS.at[0]
    while not statistics.settled(starts[:seen], noise_floor=noise_floor):
        seen = statistics.next_look(starts[:seen]) or 0
    return statistics.verdict(statistics.speedup(starts[:seen]), noise_floor), seen


def verdicts(noise: Noise, speedup: float, trials: int, seed: int) -> list[tuple[str, int]]:
    """Whole comparisons, each with a noise floor of eight starts of its own."""
    alike = traces(noise, 1.0, seed=seed, trials=trials, starts=8)
    times = traces(noise, speedup, seed=seed + 1, trials=trials, starts=20)
    found = []
    for trial in range(trials):
        floor = statistics.noise_floor(starts_of(*(side[trial] for side in alike)))
        found.append(compare(starts_of(*(side[trial] for side in times)), floor))
    return found


def starts_of(baseline, candidate) -> list[Start]:
    return [Start(baseline_ms=tuple(a), candidate_ms=tuple(b)) for a, b in zip(baseline, candidate, strict=True)]


@pytest.mark.parametrize("between", [0.007, 0.018])
def test_a_thing_against_itself_is_no_difference(between):
    found = verdicts(Noise(between=between, disturbed=0.05), 1.0, trials=150, seed=10)
    assert holds(np.array([verdict != "no difference" for verdict, _ in found]), 0.002)
    assert np.mean([starts for _, starts in found]) < 8


@pytest.mark.parametrize("between", [0.007, 0.018])
def test_a_slow_down_of_5_percent_is_found(between):
    found = verdicts(Noise(between=between, disturbed=0.05), 1 / 1.05, trials=150, seed=20)
    assert holds(np.array([verdict != "slower" for verdict, _ in found]), 0.01)
    assert np.mean([starts for _, starts in found]) < 8


# Recorded traces: the same chain of layers against itself, so that the truth is 1 once the sides of each start are
# swapped by a coin (benchmarks/noise.py --record)


def recorded(path: Path) -> list[np.ndarray]:
    """Block times, baseline and candidate, float[starts, pairs] each."""
    starts = np.array(json.loads(path.read_text())["starts"])
    return [starts[:, 0], starts[:, 1]]


def resampled(times, trials: int, seed: int) -> list[np.ndarray]:
    """Trials that each draw starts without replacement and swap their sides by a coin: [trials, starts, pairs]."""
    draw = np.random.default_rng(seed)
    picks = draw.permuted(np.tile(np.arange(len(times[0])), (trials, 1)), axis=1)[:, : LOOKS.at[-1]]
    swap = draw.random(picks.shape)[..., None] < 0.5
    one, other = (side[picks] for side in times)
    return [np.where(swap, other, one), np.where(swap, one, other)]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_traces_are_covered_at_every_look(path):
    times, misses = resampled(recorded(path), TRIALS, seed=30), np.zeros(TRIALS, bool)
    for count in LOOKS.at:
        seen = [side[:, :count] for side in times]
        kept = ~statistics.disturbed(statistics.block_spreads(*seen))
        centre, half = statistics.centres_and_half_widths(statistics.log_ratios(*seen), kept)
        misses |= np.abs(centre) > half
    assert holds(misses, 0.05)


def test_an_interval_over_blocks_fails_on_recorded_traces():
    misses = np.concatenate([naive_over_blocks(recorded(path)) for path in RECORDED])
    assert not holds(misses, 0.05)


def test_recorded_traces_were_recorded():
    assert len(RECORDED) >= 3
    for path in RECORDED:
        about = json.loads(path.read_text())
        assert about.keys() >= {"command", "commit", "when", "machine", "load_average", "configuration", "starts"}
