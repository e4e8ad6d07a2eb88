"""Student's t: its distribution for whole degrees of freedom, its quantiles for any. The core install has no SciPy."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from hotlap.core import Array

_MANY = 300.0
"""Degrees from which an expansion around the normal law is exact to nine digits."""
_TINY = 1e-300


def two_sided(t: Array, degrees: int) -> Array:
    """P(|T| >= |t|) for whole `degrees`: the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = np.arctan(np.abs(t) / math.sqrt(degrees))
    sine, cosine = np.sin(angle), np.cos(angle)
    first = 2 if degrees % 2 else 1
    term = cosine if degrees % 2 else np.ones_like(cosine)
    total = np.zeros_like(cosine) if degrees == 1 else term.copy()
    for power in range(first, degrees - 2, 2):
        term = term * cosine**2 * power / (power + 1)
        total += term
    inside = 2 / math.pi * (angle + sine * total) if degrees % 2 else sine * total
    return np.asarray(np.clip(1 - inside, 0.0, 1.0))


@lru_cache(maxsize=1024)
def quantile(probability: float, degrees: float) -> float:
    """The t with P(T <= t) = `probability` (above 0, below 1) for any `degrees` above 0."""
    if not 0 < probability < 1 or not degrees > 0:
        raise ValueError(f"no quantile of Student's t at {probability} with {degrees} degrees of freedom")
    if probability < 0.5:
        return -quantile(1 - probability, degrees)
    if degrees > _MANY:
        return _expansion(NormalDist().inv_cdf(probability), degrees)
    tail, low, high = 2 * (1 - probability), 0.0, 1.0
    while _tail(high, degrees) > tail:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _tail(middle, degrees) > tail else (low, middle)
    return (low + high) / 2


def _expansion(z: float, degrees: float) -> float:
    """Fisher and Cornish's expansion (Abramowitz and Stegun, 26.7.5)."""
    parts = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(part / degrees**power for power, part in enumerate(parts, 1))


def _tail(t: float, degrees: float) -> float:
    """P(|T| >= t): the regularized incomplete beta function at degrees / (degrees + t^2)."""
    x = degrees / (degrees + t * t)
    a, b = degrees / 2, 0.5
    if x >= 1:
        return 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method."""
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, 10_000):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _not_zero(1 + factor * d)
            c = _not_zero(1 + factor / c)
            found *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return found


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
