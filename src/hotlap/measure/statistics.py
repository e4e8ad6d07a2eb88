"""What the times of blocks say: pure functions over plain numbers, no clock and no process.

speedup = time of the baseline / time of the candidate, so above 1 the candidate is faster. All arithmetic is on log
ratios, so that swapping the sides inverts every interval. The unit is the start, a pair of processes: two processes
of the very same model differ for as long as they live, which no number of blocks can average away.

- `start_ratio`: one start, by medians over neighbouring blocks.
- `screening`: an interval of a single start; the assumed spread between processes is its floor.
- `speedup`: an interval over restarts. Student's t over the starts' log ratios, at a few fixed looks that share
  the error: all looks' intervals hold together at the stated confidence, whatever made the sampling stop.
- `verdict`: "faster" or "slower" only where the whole interval lies beyond the noise floor. A thing against itself
  is so guarded twice: by the interval, which follows the spread of this very comparison, and by the floor, which
  covers what restarts can't show (a bias of the set-up itself).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

from hotlap.core import Array, Interval, Start
from hotlap.measure import student

Decision: TypeAlias = Literal["faster", "slower", "no difference"]

BETWEEN_PROCESS_SD = 0.018
"""Spread (standard deviation) of log ratios between starts of the same thing: the upper end of what is usual."""
LEAST_SPREAD = 0.007
"""The lower end of what is usual. Few starts that agree better than this mostly do so by luck, so no interval is
made from less. It only ever widens an interval; a prior that could also narrow one would be wrong wherever
a machine is noisier than the prior says."""

_DISTURBED_SPREAD = 0.10
"""Neighbouring blocks of the same work lie within 1-3% of each other; beyond this, something else ran."""
_DISTURBED_FACTOR = 5.0
"""... unless the other starts are that noisy too: then it is the model, and all starts count."""
_USUAL_STARTS = 4
"""As many starts as BETWEEN_PROCESS_SD counts for in a noise floor: more than one or two real ones, which tell
little, and fewer than eight."""
_TELLING_FACTOR = 2.0
"""A spread between starts this many times the usual largest is worth a warning."""
_SPARE_STARTS = 0.5
"""At most this share of the last look is run on top, in the place of disturbed starts."""

_MEDIAN_VARIANCE = math.pi / 2
"""Variance of a median over that of a mean, for a normal law."""
_MEDIAN_DEVIATION = 0.674490
"""Median absolute deviation of a normal law with sd 1."""
_MEDIAN_DIFFERENCE = math.sqrt(2) * _MEDIAN_DEVIATION
"""Median absolute difference of two draws from it."""

_MOST_LOG = 350.0
_SIMULATED = 200_000
_SEED = 20_240_229


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """After how many starts the interval may be looked at; the looks share the error."""

    at: tuple[int, ...] = (4, 6, 9, 13)

    def __post_init__(self) -> None:
        if not self.at or self.at[0] < 2 or any(a >= b for a, b in zip(self.at, self.at[1:], strict=False)):
            raise ValueError(f"looks must be at rising numbers of starts from 2 on, not {self.at}")


LOOKS = Looks()


def log_ratios(baseline_ms: Array, candidate_ms: Array) -> Array:
    """Log of baseline time over candidate time, one for each start: float[..., pairs] twice -> float[...].

    Pairs of blocks alternate A B, B A, A B, ...; the mean of the two orders' medians cancels a steady drift and
    what the second of a pair suffers from the first. Medians bear almost half of the pairs of an order spoiled.
    """
    logs = np.log(baseline_ms) - np.log(candidate_ms)
    if logs.shape[-1] == 1:
        return np.asarray(logs[..., 0])
    orders = np.median(logs[..., 0::2], axis=-1), np.median(logs[..., 1::2], axis=-1)
    return np.asarray((orders[0] + orders[1]) / 2)


def block_spreads(baseline_ms: Array, candidate_ms: Array) -> Array:
    """Standard deviation of the log ratio of one pair of blocks within a start: float[..., pairs] -> float[...].

    From the median of absolute differences between pairs of the same order (0 below three pairs): a few spoiled
    blocks don't count, and no centre has to be estimated from few pairs.
    """
    logs = np.log(baseline_ms) - np.log(candidate_ms)
    differences = []
    for order in (logs[..., 0::2], logs[..., 1::2]):
        first, second = np.triu_indices(order.shape[-1], 1)
        differences.append(np.abs(order[..., first] - order[..., second]))
    joined = np.concatenate(differences, axis=-1)
    if joined.shape[-1] == 0:
        return np.zeros(logs.shape[:-1])
    return np.asarray(np.median(joined, axis=-1) / _MEDIAN_DIFFERENCE)


def disturbed(spreads: Array) -> Array:
    """Which starts something else spoiled, by their block spreads: float[..., starts] -> bool[..., starts].

    Never half of them or more. The spread tells nothing about which side is faster, so leaving such starts out
    prefers neither.
    """
    usual = np.median(spreads, axis=-1, keepdims=True)
    return np.asarray(spreads > np.maximum(_DISTURBED_SPREAD, _DISTURBED_FACTOR * usual))


def centres_and_half_widths(
    ratios: Array,
    kept: Array | None = None,
    *,
    confidence: float = 0.95,
    looks: Looks = LOOKS,
    least_spread: float = LEAST_SPREAD,
) -> tuple[Array, Array]:
    """Interval of the log ratio over starts, at one of the looks: float[..., starts] -> float[...] twice.

    `kept` (bool[..., starts]) says which starts count; at least two must. A number of starts that is no look is
    taken as a look that a budget forced: it comes in the place of those it cut off, at the same level.
    """
    kept = np.ones(ratios.shape, bool) if kept is None else kept
    count = kept.sum(axis=-1)
    if np.any(count < 2):
        raise ValueError("an interval over restarts needs at least two starts; `screening` takes one")
    centre = np.sum(ratios, axis=-1, where=kept) / count
    squares = np.sum((ratios - centre[..., None]) ** 2, axis=-1, where=kept)
    spread = np.maximum(np.sqrt(squares / (count - 1)), least_spread)
    quantile = _quantiles(count - 1, 1 - _level_of_a_look(looks, confidence) / 2)
    return centre, quantile * spread / np.sqrt(count)


def unseen_share(count: int, *, confidence: float = 0.95, looks: Looks = LOOKS) -> float:
    """The largest share of all starts that may show what none of `count` did, at one of the looks (Clopper and Pearson,
    1934): one-sided, at the level of that side of `confidence`."""
    return 1 - float((_level_of_a_look(looks, confidence) / 2) ** (1 / count))


def _quantiles(degrees: Array, probability: float) -> Array:
    """Student's quantile for each of an array of whole degrees of freedom."""
    values, places = np.unique(degrees, return_inverse=True)
    found = np.array([student.quantile(probability, float(value)) for value in values])
    return np.asarray(found[places].reshape(np.shape(degrees)))


@lru_cache(maxsize=32)
def _level_of_a_look(looks: Looks, confidence: float) -> float:
    """The two-sided level at which each look is judged, for all of them together to err by 1 - confidence.

    One level for all looks (Pocock, Biometrika 1977; here for t). The looks overlap, so it is larger than the
    Bonferroni share; with one look it is 1 - confidence itself. Standard error of the joint error: 0.0005 at 95%.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    if len(looks.at) == 1:
        return 1 - confidence
    return float(np.quantile(_smallest_p_values(looks), 1 - confidence))


@lru_cache(maxsize=8)
def _smallest_p_values(looks: Looks) -> Array:
    """The smallest p-value among the looks, in simulated comparisons without a difference: float[_SIMULATED].

    The t statistics of nested samples from a normal law depend on neither its centre nor its spread, so this one
    simulation serves for all.
    """
    draws = np.random.default_rng(_SEED).standard_normal((_SIMULATED, looks.at[-1]))
    smallest = np.ones(_SIMULATED)
    for starts in looks.at:
        sample = draws[:, :starts]
        t = sample.mean(axis=1) / (sample.std(axis=1, ddof=1) / math.sqrt(starts))
        smallest = np.minimum(smallest, student.two_sided(t, starts - 1))
    return smallest


@lru_cache(maxsize=4096)
def start_ratio(start: Start) -> float:
    """Log of the speedup in one start (0: alike; above 0: the candidate is faster)."""
    return float(log_ratios(*_times(start)))


@lru_cache(maxsize=4096)
def block_spread(start: Start) -> float:
    """`block_spreads` of one start."""
    return float(block_spreads(*_times(start)))


def was_disturbed(start: Start, usual: float = 0.0) -> bool:
    """Whether something else spoiled a single start, where such starts have the block spread `usual` else."""
    return block_spread(start) > max(_DISTURBED_SPREAD, _DISTURBED_FACTOR * usual)


def screening(start: Start, *, between_processes: float = BETWEEN_PROCESS_SD, confidence: float = 0.95) -> Interval:
    """Interval of the speedup from a single start of four or more pairs of blocks.

    `between_processes` (sd of log ratios between starts) can't be seen in one start and is taken as given; the
    error over blocks is estimated and comes on top, with Welch and Satterthwaite's degrees of freedom. In
    simulations 3-5% of 95% intervals miss, and 6% where one block in ten is an outlier.
    """
    pairs = len(start.baseline_ms)
    if pairs < 4:
        raise ValueError(f"screening needs at least four pairs of blocks, not {pairs}")
    orders = 1 / math.ceil(pairs / 2) + 1 / (pairs // 2)
    of_blocks = block_spread(start) ** 2 * _MEDIAN_VARIANCE * orders / 4
    variance = between_processes**2 + of_blocks
    # The spread rests on differences within two orders, each of which has spent one mean.
    degrees = (pairs - 2) * (variance / of_blocks) ** 2 if of_blocks else math.inf
    quantile = student.quantile((1 + confidence) / 2, min(degrees, 1e9))
    return _interval(start_ratio(start), quantile * math.sqrt(variance))


def undisturbed(starts: Sequence[Start]) -> tuple[Start, ...]:
    """The starts that count: those in which nothing else ran that made the blocks of one start differ wildly."""
    if not starts:
        return ()
    out = disturbed(np.array([block_spread(start) for start in starts]))
    return tuple(start for start, is_out in zip(starts, out, strict=True) if not is_out)


def speedup(
    starts: Sequence[Start],
    *,
    confidence: float = 0.95,
    looks: Looks = LOOKS,
    least_spread: float = LEAST_SPREAD,
) -> Interval:
    """Interval of the speedup over restarts (two or more), true at all of `looks` together.

    The estimate is the geometric mean over the starts; disturbed ones are left out (`undisturbed`).
    """
    ratios = np.array([start_ratio(start) for start in undisturbed(starts)])
    centre, half = centres_and_half_widths(ratios, confidence=confidence, looks=looks, least_spread=least_spread)
    return _interval(float(centre), float(half))


def speedup_ready(starts: Sequence[Start], *, looks: Looks = LOOKS) -> bool:
    """Whether there are enough starts for the first look, so that a spent budget may end the sampling."""
    return len(starts) >= looks.at[0]


def next_look(starts: Sequence[Start], *, looks: Looks = LOOKS) -> int | None:
    """The number of starts, these included, at which to look next; None when no look is left.

    A disturbed start is replaced by one more, as long as there are spares.
    """
    usable = len(undisturbed(starts))
    most = looks.at[-1] + math.floor(looks.at[-1] * _SPARE_STARTS)
    following = next((at for at in looks.at if at > usable), None)
    if following is None or len(starts) >= most:
        return None
    return min(len(starts) + following - usable, most)


def settled(
    starts: Sequence[Start],
    *,
    noise_floor: float,
    precision: float = 0.01,
    difference: float = 0.05,
    confidence: float = 0.95,
    looks: Looks = LOOKS,
) -> bool:
    """Whether sampling may stop: at a look, the question is answered or the interval narrow; or no look is left.

    precision: relative half width of an interval that is narrow enough.
    difference: what must not be missed. "No difference" is an answer once the estimate lies within the noise floor
        and the interval within this.
    """
    if next_look(starts, looks=looks) is None:
        return True
    if len(undisturbed(starts)) not in looks.at:
        return False
    interval = speedup(starts, confidence=confidence, looks=looks)
    if verdict(interval, noise_floor) != "no difference" or relative_half_width(interval) <= precision:
        return True
    alike = abs(math.log(interval.estimate)) <= math.log1p(noise_floor)
    return alike and interval.low >= 1 / (1 + difference) and interval.high <= 1 + difference


def verdict(interval: Interval, noise_floor: float) -> Decision:
    """Faster only if the whole interval lies above 1 + noise_floor, slower only if below the inverse of that."""
    if interval.low > 1 + noise_floor:
        return "faster"
    if interval.high < 1 / (1 + noise_floor):
        return "slower"
    return "no difference"


def noise_floor(starts: Sequence[Start], *, looks: Looks = LOOKS) -> float:
    """The relative difference that a thing timed against itself shows: `starts` are of such pairs, one or more.

    At the last look, 95 of 100 such estimates lie within it. The centre is known to be no difference, so that a
    bias of the set-up counts as noise, too. What is usual counts as a few starts more, since a spread from one or
    three tells little; the interval of a comparison, which must hold by itself, gets no such help.
    """
    ratios = np.array([start_ratio(start) for start in undisturbed(starts)])
    if len(ratios) == 0:
        raise ValueError("a noise floor needs at least one start")
    degrees = _USUAL_STARTS + len(ratios)
    squares = _USUAL_STARTS * BETWEEN_PROCESS_SD**2 + float(np.sum(ratios**2))
    half = student.quantile(0.975, degrees) * math.sqrt(squares / degrees / looks.at[-1])
    return math.expm1(half)


def relative_half_width(interval: Interval) -> float:
    """Half the width of an interval of ratios, relative to its middle: 0.02 for [0.98, 1.02]."""
    return math.sqrt(interval.high / interval.low) - 1


def median_ms(blocks: Sequence[Sequence[float]]) -> float:
    """Time of one call in ms, of one side: the median over starts of the median over the start's blocks."""
    return float(np.median([float(np.median(times)) for times in blocks]))


def spread_warning(
    starts: Sequence[Start], *, baseline: str = "the baseline", candidate: str = "the candidate"
) -> str | None:
    """What noise does to this result, with the figure, what is usual and the next step; None if nothing."""
    counted = undisturbed(starts)
    between = float(np.std([start_ratio(start) for start in counted], ddof=1)) if len(counted) > 1 else 0.0
    if between > _TELLING_FACTOR * BETWEEN_PROCESS_SD:
        return (
            f"noise spoils this result: the speedup differs by {between:.1%} (standard deviation) from one start "
            f"of the processes to the next, where up to {BETWEEN_PROCESS_SD:.1%} is usual; stop what else runs on "
            "this machine, or give a longer --budget for more starts"
        )
    if len(counted) < len(starts):
        return (
            f"noise spoils this result: {len(starts) - len(counted)} of {len(starts)} starts were left out, "
            f"because neighbouring blocks in them differ by more than {_DISTURBED_SPREAD:.0%}; something else was "
            "using the machine: stop it, or give fewer --threads than there are cores"
        )
    for name, side in ((baseline, 0), (candidate, 1)):
        spread = float(np.median([_relative_spread(_times(start)[side]) for start in counted])) if counted else 0.0
        if spread > _DISTURBED_SPREAD:
            return (
                f"noise spoils this result: the time of {name} varies by {spread:.0%} from block to block, where "
                f"up to {_DISTURBED_SPREAD:.0%} is usual; stop what else runs on this machine, or give fewer "
                "--threads than there are cores"
            )
    return None


def _relative_spread(times: Array) -> float:
    """Standard deviation relative to the middle, from the median absolute deviation."""
    middle = float(np.median(times))
    return float(np.median(np.abs(times - middle))) / _MEDIAN_DEVIATION / middle


def _interval(centre: float, half: float) -> Interval:
    # Few and wild starts leave an interval wider than a float; its ends stay finite, as JSON asks.
    low, high = (math.exp(max(-_MOST_LOG, min(_MOST_LOG, end))) for end in (centre - half, centre + half))
    return Interval(estimate=math.exp(centre), low=low, high=high)


def _times(start: Start) -> tuple[Array, Array]:
    baseline, candidate = np.asarray(start.baseline_ms, float), np.asarray(start.candidate_ms, float)
    if baseline.shape != candidate.shape or baseline.size == 0:
        raise ValueError(f"a start needs pairs of blocks, not {baseline.size} and {candidate.size}")
    if not (np.all(baseline > 0) and np.all(candidate > 0)):
        raise ValueError("the time of a block must be above 0")
    return baseline, candidate
