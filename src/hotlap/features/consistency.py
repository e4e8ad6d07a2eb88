"""Online values against offline ones of the same keys at the same instants: how often and how far they differ. Pure.

As Chronon's online-offline consistency (airbnb/chronon, CompareMetrics), with two additions: how often the online value
is that of an older event, and an interval for every rate. All rates are shares of all reads of the feature:

- mismatch: both have a value, and they differ (beyond the tolerance, for floats; NaN counts as no value);
- missing: offline has a value, online has none;
- extra: online has a value, offline has none;
- stale: both have a value, and online's is of an older event. A stale value that differs is a mismatch too.

SMAPE is the mean of 2 |a - b| / (|a| + |b|) over reads where both have a number: 0 for equal, 2 for opposite signs.

Intervals are those of gate/bounded.py, one for either side: exact (Clopper and Pearson) for rates, and for SMAPE the
same limit for bounded values. They take the reads for a random sample of all there could be: where reads of few keys
make up the sample, the truth is less certain than they say.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import polars as pl

from hotlap.core import Array, Json
from hotlap.gate import bounded

CONFIDENCE = 0.95
TOLERANCE = 1e-6
"""Relative; a float32 keeps seven digits."""
RATES = ("mismatch", "missing", "extra", "stale")
MOST_SMAPE = 2.0
NOTHING_COMPARED = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with the ends of its two-sided 95% interval. `count`: how many reads it is of, where it is a rate."""

    estimate: float
    low: float
    high: float
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How one feature's online values compare with its offline ones.

    `mismatch`, `missing`, `extra`, `stale`, `newer` are bool[reads]; `newer`: online's value is of a newer event, which
    offline has not or not yet. `smape` float64[reads], NaN where either has no number; None for a feature of another
    kind.
    """

    both: int
    mismatch: Array
    missing: Array
    extra: Array
    stale: Array
    newer: Array
    smape: Array | None

    def report(self) -> Json:
        """Counts and rates with their intervals."""
        reads = len(self.mismatch)
        rates = {name: asdict(rate(int(getattr(self, name).sum()), reads)) for name in RATES}
        known = None if self.smape is None else self.smape[~np.isnan(self.smape)]
        smape = None if known is None or not len(known) else asdict(replace(mean(known, MOST_SMAPE), count=len(known)))
        return {"reads": reads, "both": self.both, **rates, "newer": int(self.newer.sum()), "smape": smape}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest rate, and the largest SMAPE, that pass; None: any."""

    mismatch: float | None = 0.01
    missing: float | None = 0.01
    extra: float | None = 0.01
    stale: float | None = 0.01
    smape: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A figure above its limit. `sure`: its whole interval is.

    `figure` is "both" for a feature of which no read had a value on both sides, so that nothing was compared.
    """

    feature: str
    figure: str
    estimate: float
    low: float
    high: float
    limit: float

    @property
    def sure(self) -> bool:
        return self.figure == NOTHING_COMPARED or self.low > self.limit

    def sentence(self) -> str:
        if self.figure == NOTHING_COMPARED:
            return (
                f"{self.feature}: no read had a value both online and offline, so nothing was compared; "
                "materialize it, read keys that have values, or leave it out of the check"
            )
        share = f"{self.estimate:.4g}" if self.figure == "smape" else f"{self.estimate:.2%} of reads"
        limit = f"{self.limit:.4g}" if self.figure == "smape" else f"{self.limit:.2%}"
        doubt = "" if self.sure else f" (its interval begins at {self.low:.4g}: more reads would settle it)"
        return f"{self.feature}: {self.figure} {share}, above the limit of {limit}{doubt}"


def breaches(features: dict[str, Json], limits: Limits) -> list[Breach]:
    """Every figure of a report that is above its limit, the furthest above first; then what was not compared at all."""
    found, nothing = [], []
    for feature, told in features.items():
        for figure in (*RATES, "smape"):
            limit, value = getattr(limits, figure), told[figure]
            if limit is None or value is None or value["estimate"] <= limit:
                continue
            ends = {end: value[end] for end in ("estimate", "low", "high")}
            found.append(Breach(feature=feature, figure=figure, limit=limit, **ends))
        if not told["both"] and all(one.feature != feature for one in found):
            nothing.append(Breach(feature=feature, figure=NOTHING_COMPARED, estimate=0.0, low=0.0, high=0.0, limit=0.0))
    return [*sorted(found, key=lambda one: one.limit - one.estimate), *nothing]


def compare(
    online: pl.Series, offline: pl.Series, online_event: Array, offline_event: Array, *, tolerance: float = TOLERANCE
) -> Compared:
    """Compare one feature's values, row by row. Events: int64[rows], microseconds; only where both have a value count.

    Online stores that keep whole seconds are compared in seconds.
    """
    online, offline = _plain(online), _plain(offline)
    if online.dtype != offline.dtype:
        online = online.cast(offline.dtype)
    there, known = online.is_not_null().to_numpy(), offline.is_not_null().to_numpy()
    both = there & known
    second = 1_000_000
    step = second if both.any() and not (online_event[both] % second).any() else 1
    mine, theirs = online_event // step, offline_event // step
    return Compared(
        both=int(both.sum()),
        mismatch=both & ~_equal(online, offline, tolerance),
        missing=known & ~there,
        extra=there & ~known,
        stale=both & (mine < theirs),
        newer=both & (mine > theirs),
        smape=_smape(online, offline) if offline.dtype.is_numeric() else None,
    )


def rate(count: int, of: int) -> Estimate:
    """A share with its exact interval; from 0 to 1 where there is nothing to tell."""
    if not of:
        return Estimate(estimate=0.0, low=0.0, high=1.0, count=0)
    return replace(_mean(np.array([0.0, 1.0]), np.array([of - count, count], float), 1.0), count=count)


def mean(values: Array, ceiling: float) -> Estimate:
    """The mean of values from 0 to `ceiling` with its interval. Raises ValueError for no values."""
    found, counts = np.unique(values, return_counts=True)
    return _mean(found.astype(float), counts.astype(float), ceiling)


def _mean(values: Array, counts: Array, ceiling: float) -> Estimate:
    values, counts = values[counts > 0], counts[counts > 0]
    each = 1 - (1 - CONFIDENCE) / 2
    high = bounded.upper_limit(values, ceiling, each, weights=counts)
    low = ceiling - bounded.upper_limit(ceiling - values, ceiling, each, weights=counts)
    return Estimate(estimate=float(counts @ values / counts.sum()), low=max(low, 0.0), high=high)


def _plain(column: pl.Series) -> pl.Series:
    """NaN as null; instants in microseconds UTC; names of categories as text."""
    kind = column.dtype
    if kind.is_float():
        return column.fill_nan(None)
    if isinstance(kind, pl.Datetime):
        zoned = column.dt.convert_time_zone("UTC") if kind.time_zone else column.dt.replace_time_zone("UTC")
        return zoned.dt.cast_time_unit("us")
    if kind in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    return column


def _equal(online: pl.Series, offline: pl.Series, tolerance: float) -> Array:
    """bool[rows]; what it says where either is null does not matter."""
    kind = offline.dtype
    if kind.is_float():
        return _near(online.to_numpy(), offline.to_numpy(), tolerance)
    if isinstance(kind, pl.List) and kind.inner is not None and kind.inner.is_float():
        return _near_lists(online, offline, tolerance)
    return online.eq_missing(offline).to_numpy()


def _near(online: Array, offline: Array, tolerance: float) -> Array:
    with np.errstate(invalid="ignore"):
        close = np.abs(online - offline) <= tolerance * np.maximum(np.abs(online), np.abs(offline))
        return np.asarray((close & np.isfinite(online) & np.isfinite(offline)) | (online == offline))


def _near_lists(online: pl.Series, offline: pl.Series, tolerance: float) -> Array:
    """Lists of floats: as long, and each element near."""
    frame = pl.DataFrame({"row": np.arange(len(online)), "a": online, "b": offline})
    equal = (online.list.len() == offline.list.len()).fill_null(False).to_numpy().copy()
    paired = frame.filter(pl.Series(equal) & (pl.col("a").list.len() > 0)).explode("a", "b")
    a, b = (paired[name].fill_nan(None).cast(pl.Float64) for name in ("a", "b"))
    near = _near(a.to_numpy(), b.to_numpy(), tolerance) | (a.is_null() & b.is_null()).to_numpy()
    equal[paired["row"].to_numpy()[~near]] = False
    return np.asarray(equal)


def _smape(online: pl.Series, offline: pl.Series) -> Array:
    a, b = (one.cast(pl.Float64).fill_null(np.nan).to_numpy() for one in (online, offline))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        size = np.abs(a) + np.abs(b)
        far = np.where(np.isinf(size), MOST_SMAPE, 2 * np.abs(a - b) / size)
    far = np.where(a == b, 0.0, far)
    return np.where(np.isnan(a) | np.isnan(b), np.nan, np.clip(far, 0.0, MOST_SMAPE))
