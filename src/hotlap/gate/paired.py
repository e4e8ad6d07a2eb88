"""The exact upper limit of the drop of 0/1 scores, from the counts of examples lost and gained.

Of `examples` pairs, B went from right to wrong and C from wrong to right; (B, C) is trinomial with rates p10 and p01,
and the drop is p10 - p01. The limit is Buehler's (1957): put all outcomes in an order T, from good to bad; the limit
for an outcome is the largest drop under which an outcome at least as good has a probability above 1 - confidence,
whatever the other rate is. It holds by construction for every number of examples and every pair of rates, and no
limit that respects the order T is smaller. For the method see Lloyd and Kabaila, "On the optimality and limitations of
Buehler bounds" (2003); for what it was compared with, docs/log.md.

The order is that of a large-sample limit of the drop with its correction for skewness (d lost net, m flipped, z the
normal quantile): T = d + z sqrt(m + z^2/4) + (2 z^2 + 1)/6 d / (m + 1 + z^2/4). One more lost is always worse and one
more gained better. NumPy only, so that the core install can recompute a stored verdict.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from statistics import NormalDist

import numpy as np

from hotlap.core import Array
from hotlap.gate.roots import falling_root

_REACH, _MARGIN = 6.5, 14
"""Counts further than that many standard deviations, and that many more, from their mean are left out (1e-10)."""
_CHUNK = 16
_GRID_ERROR = 0.003
"""The worst rate lies between two that are tried; its chance was never larger than found by more than half this share
(tests/gate/test_paired.py), so that much less is allowed."""
_TIE = 1e-7
"""Rounding must not put an outcome above itself."""
_PRECISION = 1e-8
"""Of the limit, in log-probability."""
_SCANS = 50
"""Two are enough; far more would be a bug."""


@lru_cache(maxsize=65536)
def upper_limit(lost: int, gained: int, examples: int, confidence: float) -> float:
    """The largest drop that the counts leave possible at that one-sided confidence, in [-1, 1].

    Raises ValueError for impossible counts or confidence.
    """
    if lost < 0 or gained < 0 or lost + gained > examples or examples < 1:
        raise ValueError(f"{lost} lost and {gained} gained of {examples} examples is impossible")
    if not 0.6 <= confidence < 1:
        raise ValueError(f"confidence {confidence} is not in [0.6, 1)")
    if lost == examples:
        return 1.0
    most_lost = _most_lost(lost, gained, examples, confidence)
    goal = math.log(allowed_error(confidence))

    def excess(drop: float, places: Array) -> float:
        chance = float(_chance(most_lost, drop, _rates(places, drop), examples).max())
        return (math.log(chance) if chance > 0 else -1e3) - goal

    # Which rates are worst changes little with the drop: all are tried at a guess, the root is sought with the worst.
    limit = min(max((lost - gained + 1.3 + 1.8 * math.sqrt(lost + gained + 1.5)) / examples, -0.99), 0.99)
    worst = np.empty(0)
    for _ in range(_SCANS):
        places = _places(limit, examples)
        chances = _chance(most_lost, limit, _rates(places, limit), examples)
        if len(worst) and math.log(chances.max()) <= goal + 2 * _PRECISION:
            return limit
        worst = np.union1d(worst, _worst(places, chances))
        at_worst = partial(excess, places=worst)
        limit = falling_root(at_worst, -1.0, 1.0, limit, step=0.5 / examples, precision=_PRECISION)
    raise AssertionError(f"no limit found for {lost} lost and {gained} gained of {examples} at {confidence}")


def lower_limit(lost: int, gained: int, examples: int, confidence: float) -> float:
    """The smallest drop that the counts leave possible at that one-sided confidence, in [-1, 1]."""
    return -upper_limit(gained, lost, examples, confidence)


def allowed_error(confidence: float) -> float:
    """The chance of error that is left at a confidence, less what the search for the worst rate may miss."""
    return (1 - confidence) * (1 - _GRID_ERROR)


def _most_lost(lost: int, gained: int, examples: int, confidence: float) -> Array:
    """The outcomes at least as good: for each number gained, 0 to `examples` + 1, the most that may be lost.

    -1 where even none lost is worse. It stays or rises by one from each number to the next.
    """
    z = NormalDist().inv_cdf(confidence)

    def order(lost: Array, gained: Array) -> Array:
        net, flipped = lost - gained, lost + gained + z**2 / 4
        return net + z * np.sqrt(flipped) + (2 * z**2 + 1) / 6 * net / (flipped + 1)

    worth = float(order(np.array(lost), np.array(gained))) + _TIE
    every = np.arange(examples + 2)
    low, high = np.full(examples + 2, -1), np.full(examples + 2, examples + 1)
    for _ in range((examples + 2).bit_length()):
        middle = (low + high + 1) // 2
        good = order(np.maximum(middle, 0), every) <= worth
        low, high = np.where(good, middle, low), np.where(good, high, middle - 1)
    return low


def _places(drop: float, examples: int) -> Array:
    """Places of p01 between the least (0) and the most (1) that go with a drop.

    Dense where few examples flip and where few do not: there the chance changes fast with the rate. In between it
    changes slowly and lies lower.
    """
    span = examples * (1 - abs(drop)) / 2
    growing = 12 * 1.3 ** np.arange(math.ceil(math.log(max(span, 12) / 12, 1.3)) + 1)
    low = np.concatenate([np.arange(0, 4, 0.125), np.arange(4, 12, 0.5), growing])
    high = span - np.concatenate([[0, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 9], growing])
    even = np.linspace(0, span, 24)
    counts = np.unique(np.concatenate([low[low < span], high[high >= 0], even]))
    return counts / span


def _rates(places: Array, drop: float) -> Array:
    """Rates p01 at those places."""
    return max(0.0, -drop) + places * (1 - abs(drop)) / 2


def _worst(places: Array, chances: Array) -> Array:
    """The places of the largest chances, and finer ones around the very largest."""
    at = int(chances.argmax())
    finer = np.linspace(places[max(at - 1, 0)], places[min(at + 1, len(places) - 1)], 8)
    return np.concatenate([places[np.argsort(-chances)[:4]], finer])


def _chance(most_lost: Array, drop: float, rates: Array, examples: int) -> Array:
    """P(B <= most_lost[C]) for each p01 in `rates` [r] float64, where p10 = p01 + drop."""
    table = _log_factorials(examples)
    chunks = [rates[first : first + _CHUNK] for first in range(0, len(rates), _CHUNK)]
    return np.concatenate([_chance_of_chunk(most_lost, drop, chunk, examples, table) for chunk in chunks])


def _chance_of_chunk(most_lost: Array, drop: float, p01: Array, examples: int, table: Array) -> Array:
    """Sum over C of P(C) F(C), with F(C) = P(B <= most_lost[C] | C) made from F of the first C by adding up its steps.

    Given C, B is binomial of n - C examples with rate r = p10 / (1 - p01). From C to C + 1 one example less is left
    and the most that may be lost stays or rises by one, so that each step of F is a single binomial probability.
    """
    given = np.clip((drop + p01) / (1 - p01), 0.0, 1.0)
    c = _window(examples, p01)
    weights = _binomial(c, examples, p01[:, None], table)
    most = most_lost[np.minimum(c, examples + 1)]
    left = examples - c - 1
    rises = (most[:, 1:] > most[:, :-1]) & (most[:, 1:] <= left[:, :-1])
    at = np.where(rises, most[:, 1:], most[:, :-1])
    r = given[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(rises, 1 + (1 - r) * at / np.maximum(left[:, :-1] - at + 1, 1), r)
    steps = _binomial(at, left[:, :-1], r, table) * factor
    start = _at_most(most[:, 0], examples - c[:, 0], given, table)
    chances = np.concatenate([start[:, None], start[:, None] + np.cumsum(steps, axis=1)], axis=1)
    return np.asarray((weights * chances).sum(axis=1))


def _window(examples: int, rates: Array) -> Array:
    """[r, w] int64: for each rate the counts that are likely; the same number of them for all."""
    means = examples * rates
    reach = _REACH * np.sqrt(means * (1 - rates)) + _MARGIN
    low = np.maximum(np.floor(means - reach), 0).astype(np.int64)
    width = int(min(np.ceil(means + reach - low).max(), examples)) + 1
    return np.asarray(low[:, None] + np.arange(width))


def _binomial(count: Array, trials: Array | int, rate: Array, table: Array) -> Array:
    """Binomial probabilities; 0 where the count is impossible. `table` holds log-factorials."""
    trials = np.asarray(trials)
    possible = (count >= 0) & (count <= trials)
    k = np.where(possible, count, 0)
    rest = np.where(possible, trials - k, 0)
    with np.errstate(divide="ignore"):
        log_rate, log_other = np.log(rate), np.log1p(-rate)
    # 0 * log 0 is 0: a rate of 0 leaves a count of 0 certain.
    with np.errstate(invalid="ignore"):
        part = np.where(k > 0, k * log_rate, 0.0) + np.where(rest > 0, rest * log_other, 0.0)
    return np.where(possible, np.exp(table[k + rest] - table[k] - table[rest] + part), 0.0)


def _at_most(count: Array, trials: Array, rate: Array, table: Array) -> Array:
    """P(binomial <= count) for each of [r] counts, trials and rates."""
    means = trials * rate
    reach = _REACH * np.sqrt(means * (1 - rate)) + _MARGIN
    low = np.maximum(np.floor(means - reach), 0).astype(np.int64)
    width = int(np.ceil(2 * reach.max())) + 2
    k = low[:, None] + np.arange(width)
    return np.asarray((_binomial(k, trials[:, None], rate[:, None], table) * (k <= count[:, None])).sum(axis=1))


@lru_cache(maxsize=16)
def _log_factorials(most: int) -> Array:
    """log 0! to log `most`!, by Stirling's series, whose error does not add up as that of a running sum would."""
    x = np.arange(most + 1, dtype=np.float64)
    big = np.maximum(x, 16)
    series = 1 / (12 * big) - 1 / (360 * big**3) + 1 / (1260 * big**5) - 1 / (1680 * big**7)
    table = (big + 0.5) * np.log(big) - big + 0.5 * math.log(2 * math.pi) + series
    few = min(most + 1, 16)
    table[:few] = [math.lgamma(i + 1) for i in range(few)]
    return np.asarray(table)
