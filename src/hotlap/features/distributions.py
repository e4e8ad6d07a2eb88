"""Serving's values against training's, feature by feature: how far apart their distributions are. Pure.

With many rows every difference is significant, so the size of the shift comes first, with its interval, and the p-value
second:

- PSI, the population stability index: the sum of (p - q) ln(p / q) over bins, ten of them with a tenth of training's
  values each, or the categories. Half a row is added to each bin, so that an empty one gives no infinity. Custom
  calls 0.1 a moderate shift and 0.25 a large one. By chance alone it comes to (bins - 1) (1/n + 1/m) on average
  (Yurdakul 2018), so its interval is that of the non-central chi-square that n m / (n + m) PSI follows nearly; for a
  PSI above 1 it is a little too narrow (docs/log.md).
- KS, the largest distance of the two distribution functions, for numbers; its interval is of Dvoretzky, Kiefer and
  Wolfowitz with Massart's constant (1990), which holds for any distribution and any number of rows.
- Cramér's V with the chi-square test, for categories.
- The share of missing values, and how much more serving has: Newcombe's interval (1998, method 10).

Intervals are wide enough for all features together (Bonferroni), and p-values are adjusted for their number (Holm), so
that among a hundred features that did not shift it is one run in twenty that says one did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import polars as pl

from hotlap.core import Array, Json
from hotlap.errors import InputError

CONFIDENCE = 0.95
MODERATE, LARGE = 0.1, 0.25
_BINS = 10
_MOST_CATEGORIES = 50
"""Beyond that many the rarest are taken together."""
_FEWEST_EXPECTED = 5
_FEW_PAIRS = 10_000
"""Of values, up to which the exact test takes milliseconds; the asymptotic one gives NaN for a row on each side."""
_PLOTTED = 40
Verdict = Literal["alike", "moderate", "large", "unsettled", "empty"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with the ends of its two-sided interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How far one feature's values are from training's. `more_missing`: serving's missing share less training's.

    `ks` for numbers, `cramers_v` for categories, with the p-value of its test as it is and adjusted. `verdict`: alike
    (PSI's whole interval below 0.1), moderate or large (its whole interval above 0.1, or 0.25), unsettled (it takes
    more rows to say), empty (one of both has no values). `bars`: for each bin or category its name and both shares.
    """

    training_rows: int
    serving_rows: int
    training_missing: float
    serving_missing: float
    more_missing: Interval
    psi: Interval | None
    ks: Interval | None
    cramers_v: Interval | None
    p_value: float | None
    p_adjusted: float | None
    verdict: Verdict
    bars: list[tuple[str, float, float]]

    def to_json(self) -> Json:
        return asdict(self)


def compare(training: Mapping[str, pl.Series], serving: Mapping[str, pl.Series]) -> dict[str, Json]:
    """Each feature that both have, the furthest shifted first; see Shift. Raises InputError where they share none."""
    names = [name for name in serving if name in training]
    if not names:
        raise InputError(
            f"training's columns {', '.join(training)} have none of {', '.join(serving)}; give rows that have them"
        )
    confidence = 1 - (1 - CONFIDENCE) / len(names)
    found = {name: _shift(_plain(training[name]), _plain(serving[name]), confidence) for name in names}
    adjusted = holm({name: one.p_value for name, one in found.items() if one.p_value is not None})
    told = {name: {**one.to_json(), "p_adjusted": adjusted.get(name)} for name, one in found.items()}
    return dict(sorted(told.items(), key=lambda pair: -(pair[1]["psi"] or {"estimate": -1.0})["estimate"]))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """P-values adjusted for their number, whatever their dependence (Holm 1979)."""
    adjusted, most = {}, 0.0
    for place, (name, value) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        most = max(most, min(1.0, (len(p_values) - place) * value))
        adjusted[name] = most
    return adjusted


def _shift(training: pl.Series, serving: pl.Series, confidence: float) -> Shift:
    a, b = training.drop_nulls(), serving.drop_nulls()
    more = _difference(serving.null_count(), len(serving), training.null_count(), len(training), confidence)
    psi = ks = v = p_value = None
    bars: list[tuple[str, float, float]] = []
    if len(a) and len(b):
        numeric = a.dtype.is_numeric() and b.dtype.is_numeric()
        names, counts = _numeric_counts(a, b) if numeric else _category_counts(a, b)
        psi = psi_of(counts[0], counts[1], confidence)
        if numeric:
            ks, p_value = _kolmogorov(a.cast(pl.Float64).to_numpy(), b.cast(pl.Float64).to_numpy(), confidence)
        else:
            v, p_value = _cramer(counts, confidence)
        shares = counts / counts.sum(axis=1, keepdims=True)
        bars = [(name, float(p), float(q)) for name, p, q in zip(names, *shares, strict=True)][:_PLOTTED]
    return Shift(
        training_rows=len(training),
        serving_rows=len(serving),
        training_missing=training.null_count() / max(1, len(training)),
        serving_missing=serving.null_count() / max(1, len(serving)),
        more_missing=more,
        psi=psi,
        ks=ks,
        cramers_v=v,
        p_value=p_value,
        p_adjusted=None,
        verdict=_verdict(psi),
        bars=bars,
    )


def _plain(column: pl.Series) -> pl.Series:
    """NaN and infinities as null; instants as seconds; what is neither number nor text as text."""
    kind = column.dtype
    if kind.is_float():
        return pl.select(pl.when(column.is_finite()).then(column)).to_series()
    if kind in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us")).to_physical() / 1e6
    if kind.is_decimal():
        return column.cast(pl.Float64)
    if kind.is_integer():
        return column
    if kind in (pl.Boolean, pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    if kind == pl.String:
        return column
    return pl.Series([None if one is None else str(one) for one in column.to_list()], dtype=pl.String)


def _verdict(psi: Interval | None) -> Verdict:
    if psi is None:
        return "empty"
    if psi.low > LARGE:
        return "large"
    if psi.low > MODERATE:
        return "moderate"
    return "alike" if psi.high < MODERATE else "unsettled"


def psi_of(training: Array, serving: Array, confidence: float = CONFIDENCE) -> Interval:
    """The population stability index of counts in the same bins, with its interval."""
    n, m, bins = float(training.sum()), float(serving.sum()), len(training)
    p, q = (training + 0.5) / (n + 0.5 * bins), (serving + 0.5) / (m + 0.5 * bins)
    estimate = float(((p - q) * np.log(p / q)).sum())
    if bins < 2:
        return Interval(estimate=0.0, low=0.0, high=0.0)
    weight = n * m / (n + m)
    low, high = _centres(weight * estimate, bins - 1, confidence)
    return Interval(estimate=estimate, low=low / weight, high=high / weight)


def _centres(statistic: float, freedom: int, confidence: float) -> tuple[float, float]:
    """The interval of the non-centrality of a chi-square that came to `statistic`."""
    from scipy.optimize import brentq
    from scipy.stats import ncx2

    def end(chance: float) -> float:
        if ncx2.cdf(statistic, freedom, 0) <= chance:
            return 0.0
        high = statistic + 10 * math.sqrt(statistic + freedom) + 50
        return float(brentq(lambda centre: ncx2.cdf(statistic, freedom, centre) - chance, 0.0, high))

    tail = (1 - confidence) / 2
    return end(1 - tail), end(tail)


def _numeric_counts(a: pl.Series, b: pl.Series) -> tuple[list[str], Array]:
    """Counts in tenths of training's values; a value that is very common there gets a bin of its own."""
    mine, theirs = a.cast(pl.Float64).to_numpy(), b.cast(pl.Float64).to_numpy()
    few = np.unique(mine)
    if len(few) <= _BINS:
        inner = few[1:] / 2 + few[:-1] / 2  # a sum might be infinite
    else:
        inner = np.unique(np.quantile(mine, np.linspace(0, 1, _BINS + 1)[1:-1]))
    if not len(inner):  # one value only: is serving's that, below it or above it?
        inner = np.array([np.nextafter(few[0], -np.inf), np.nextafter(few[0], np.inf)])
    counts = np.array([np.bincount(np.searchsorted(inner, one, side="left"), minlength=len(inner) + 1) for one in
                       (mine, theirs)], float)  # fmt: skip
    edges = [f"{one:.4g}" for one in inner]
    names = [
        f"up to {edges[0]}",
        *(f"{x} to {y}" for x, y in pairwise(edges)),
        f"above {edges[-1]}",
    ]
    return names, counts


def _category_counts(a: pl.Series, b: pl.Series) -> tuple[list[str], Array]:
    """Counts of categories, the commonest of both first; the rare ones together."""
    mine, theirs = (dict(one.cast(pl.String).value_counts().iter_rows()) for one in (a, b))
    ordered = sorted({*mine, *theirs}, key=lambda name: (-(mine.get(name, 0) + theirs.get(name, 0)), name))
    share = min(len(a), len(b)) / (len(a) + len(b))
    kept = [
        name
        for name in ordered[:_MOST_CATEGORIES]
        if (mine.get(name, 0) + theirs.get(name, 0)) * share >= _FEWEST_EXPECTED
    ]
    names, rare = kept or ordered[:1], ordered[max(1, len(kept)) :]
    counts = np.array([[each.get(name, 0) for name in names] for each in (mine, theirs)], float)
    if rare:
        rest = [[sum(each.get(name, 0) for name in rare)] for each in (mine, theirs)]
        return [*names, f"{len(rare)} rare ones"], np.hstack([counts, np.array(rest, float)])
    return names, counts


def _kolmogorov(a: Array, b: Array, confidence: float) -> tuple[Interval, float]:
    from scipy.stats import ks_2samp

    found = ks_2samp(a, b, method="exact" if len(a) * len(b) <= _FEW_PAIRS else "asymp")
    estimate = float(found.statistic)
    reach = sum(math.sqrt(math.log(4 / (1 - confidence)) / (2 * len(one))) for one in (a, b))
    interval = Interval(estimate=estimate, low=max(0.0, estimate - reach), high=min(1.0, estimate + reach))
    return interval, float(found.pvalue)


def _cramer(counts: Array, confidence: float) -> tuple[Interval, float]:
    from scipy.stats import chi2_contingency

    counts = counts[:, counts.sum(axis=0) > 0]
    total, freedom = float(counts.sum()), counts.shape[1] - 1
    if not freedom:
        return Interval(estimate=0.0, low=0.0, high=0.0), 1.0
    found = chi2_contingency(counts, correction=False)
    statistic = float(found.statistic)
    low, high = (min(1.0, math.sqrt(one / total)) for one in _centres(statistic, freedom, confidence))
    estimate = min(1.0, math.sqrt(statistic / total))
    return Interval(estimate=estimate, low=low, high=high), float(found.pvalue)


def _difference(x: int, n: int, y: int, m: int, confidence: float) -> Interval:
    """x/n - y/m with Newcombe's interval, of two score intervals."""
    from scipy.stats import norm

    if not n or not m:
        return Interval(estimate=0.0, low=-1.0, high=1.0)
    z = float(norm.ppf(1 - (1 - confidence) / 2))
    p, q = x / n, y / m
    (low, high), (other_low, other_high) = _wilson(p, n, z), _wilson(q, m, z)
    return Interval(
        estimate=p - q,
        low=p - q - math.hypot(p - low, other_high - q),
        high=p - q + math.hypot(high - p, q - other_low),
    )


def _wilson(p: float, n: int, z: float) -> tuple[float, float]:
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
