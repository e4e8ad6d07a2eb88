"""The upper limit of the mean of bounded values: Gaffke's.

The limit is the confidence-quantile of D_0 c + D_1 x_1 + ... + D_n x_n, with D uniform over all weights that add up to
1 (Dirichlet) and c the largest value there can be: a mean of what was seen, under every weighting, with one example of
the worst kind added. For 0/1 values it is Clopper and Pearson's exact limit; for many examples it nears x + z s /
sqrt(n), with which it shares its width. With no value above 0 among N it leaves about 3/N of c possible at 95%.
Gaffke (2005), "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable";
Learned-Miller and Thomas (2019), arXiv 1905.06208, who call its coverage a conjecture, since nobody has a proof and
nobody a counterexample; docs/log.md has our own search for one, and what else was tried. The quantile is computed, not
drawn, so that the same scores always get the same limit. NumPy only.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from hotlap.core import Array
from hotlap.gate.roots import falling_root

_MOST_DISTINCT = 400
_BINS_PER_DEVIATION = 16
"""Beyond that many distinct values each is shared out between its two neighbours on a grid of a sixteenth of the
standard deviation: the mean stays, the spread grows by at most 0.1%, so the limit errs to the safe side."""
_PRECISION = 1e-7
_STEP = 0.35
"""Of the integration, in widths of the integrand's peak: an error of 1e-7."""
_SLOPE = 0.5
_NODES = 16
_MOST_NODES = 400, 40_000
_NEGLIGIBLE = 1e-9
_MOST_NEEDED = 10**9


def upper_limit(values: Array, ceiling: float, confidence: float, *, weights: Array | None = None) -> float:
    """The largest mean that `values` [n] leave possible at that one-sided confidence.

    `ceiling`: the largest value there can be. `weights` [n]: how often each was seen; default once each. Raises
    ValueError for no values, a value above the ceiling or NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all() or values.max() > ceiling:
        raise ValueError("the values must be finite and not above the ceiling, and there must be some")
    total = float(counts.sum())
    mean = float(counts @ values / total)
    if mean >= ceiling:
        return ceiling
    values, counts = _grouped(values, counts)
    goal = math.log1p(-confidence)

    def excess(threshold: float) -> float:
        chance = chance_above(values, counts, threshold, ceiling)
        return (math.log(chance) if chance > 0 else -1e3) - goal

    z = NormalDist().inv_cdf(confidence)
    spread = math.sqrt(float(counts @ (values - mean) ** 2) / total)
    unseen = (ceiling - mean) / (total + 1)
    guess = mean + unseen + z * math.hypot(spread / math.sqrt(total), unseen)
    step = 0.25 * (guess - mean)
    return falling_root(excess, mean, ceiling, min(guess, (mean + 9 * ceiling) / 10), step=step, precision=_PRECISION)


def chance_above(values: Array, weights: Array, threshold: float, ceiling: float) -> float:
    """P(D_0 ceiling + sum D_i values_i > threshold), with D Dirichlet of 1 and `weights`.

    That is P(S > 0) for S = sum of g_i (value_i - threshold), g_i gamma of the weight, whose cumulant generating
    function is K(s) = -sum weight_i log(1 - s (value_i - threshold)): the integral of exp(K(s)) / s over a path that
    crosses the real axis between 0 and the first pole, at the saddle point. Trapezoids of such a path converge faster
    than any power of their width.
    """
    offsets, weights = np.append(values - threshold, ceiling - threshold), np.append(weights, 1.0)
    if offsets.max() <= 0:
        return 0.0
    if offsets.min() >= 0:
        return 1.0
    path = _Path(offsets, weights)
    found = path.integral(path.bend, _MOST_NODES[0]) if path.bend else None
    # A bent path is short, but may run through a hill; a straight one never does.
    if found is None:
        found = path.integral(0.0, _MOST_NODES[1])
    assert found is not None
    return min(max(found, 0.0), 1.0)


class _Path:
    """The integrand exp(K(s) - log s) and its saddle point on the real axis."""

    def __init__(self, offsets: Array, weights: Array) -> None:
        self._offsets, self._weights = offsets, weights
        self._saddle = self._find_saddle()
        ratio = offsets / (1 - self._saddle * offsets)
        curvature = float((weights * ratio**2).sum()) + self._saddle**-2
        skew = 2 * float((weights * ratio**3).sum()) - 2 * self._saddle**-3
        self._height = self._log(np.array([self._saddle + 0j]))[0].real
        self._step = _STEP / math.sqrt(curvature)
        self.bend = max(0.0, skew / (6 * curvature))

    def _log(self, s: Array) -> Array:
        parts = self._weights[:, None] * np.log(1 - self._offsets[:, None] * s)
        return np.asarray(-parts.sum(axis=0) - np.log(s))

    def _find_saddle(self) -> float:
        """Where K(s) - log s, which is convex, is least: Newton's method, kept between 0 and the first pole."""
        low, high = 0.0, 1 / float(self._offsets.max())
        s = high / 2
        for _ in range(80):
            ratio = self._offsets / (1 - s * self._offsets)
            slope = float((self._weights * ratio).sum()) - 1 / s
            low, high = (low, s) if slope > 0 else (s, high)
            tried = s - slope / (float((self._weights * ratio**2).sum()) + s**-2)
            tried = tried if low < tried < high else (low + high) / 2
            if abs(tried - s) < 1e-5 * min(tried, 1 / float(self._offsets.max()) - tried):
                return tried
            s = tried
        return s

    def integral(self, bend: float, most_nodes: int) -> float | None:
        """The integral along a hyperbola that bends towards the poles with that curvature; straight for 0.

        None where the integrand rises above its saddle, or does not die away within `most_nodes`.
        """
        total, first = 0.0, 0
        rate = 2 * bend / _SLOPE
        while first < most_nodes:
            t = self._step * np.arange(first, first + _NODES)
            root = np.sqrt(1 + (rate * t) ** 2)
            s = self._saddle + _SLOPE * rate * t**2 / (root + 1) + 1j * t
            values = np.exp(self._log(s) - self._height)
            if np.abs(values).max() > 1 + 1e-6:
                return None
            terms = (values * (1 - 1j * _SLOPE * rate * t / root)).real
            total += float(terms.sum()) - (0.5 * float(terms[0]) if first == 0 else 0.0)
            if abs(values[-1]) < _NEGLIGIBLE:
                return math.exp(self._height) * self._step * total / math.pi
            first += _NODES
        return math.exp(self._height) * self._step * total / math.pi if bend == 0 else None


def _grouped(values: Array, weights: Array) -> tuple[Array, Array]:
    """Distinct values and how often each occurs; very many are put on a grid."""
    distinct, places = np.unique(values, return_inverse=True)
    counts = np.bincount(places, weights)
    if len(distinct) <= _MOST_DISTINCT:
        return distinct, counts
    mean = counts @ distinct / counts.sum()
    width = math.sqrt(counts @ (distinct - mean) ** 2 / counts.sum()) / _BINS_PER_DEVIATION
    below = np.floor(distinct / width)
    share = distinct / width - below
    cells = np.concatenate([below, below + 1])
    found, places = np.unique(cells, return_inverse=True)
    return found * width, np.bincount(places, np.concatenate([counts * (1 - share), counts * share]))


def examples_needed(
    values: Array, ceiling: float, most: float, confidence: float, *, weights: Array | None = None
) -> int | None:
    """How many examples it takes for the limit to come down to `most`, if their values stay spread as they are.

    None where no number of them would do, because the mean itself is not below `most`, or more than a thousand million
    would be needed.
    """
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    shares = counts / counts.sum()
    if float(shares @ values) >= most:
        return None
    values, shares = _grouped(np.asarray(values, dtype=np.float64), shares)

    def enough(examples: int) -> bool:
        return chance_above(values, shares * examples, most, ceiling) <= 1 - confidence

    high = 1
    while not enough(high):
        high *= 2
        if high > _MOST_NEEDED:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
