"""The drop of a metric of a whole set, which has no score of single examples: by resampling examples in pairs.

Examples are drawn with replacement, the same for original and candidate, and the metric is taken of both: the
percentile bootstrap of their difference (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).
By itself it leaves nothing possible that was not seen: with no row changed its width is zero. So each draw adds one
example of the worst kind with a random weight, exponential with mean 1, as Gaffke's limit does for scores; with that,
no change among N leaves about 3 times one example's effect possible at 95%, and the mean of 0/1 rows gets close to the
exact limit (docs/log.md). Otherwise it is a bootstrap: its coverage is good, and nominal only for many examples.

One example's effect is not known of a metric that anyone may write. It is taken as the spread of what leaving out one
row does to the metric: from the row that helps it most to the one that hurts it most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hotlap.core import Array, Drop
from hotlap.errors import WorkloadError
from hotlap.workload.user_code import running

Metric = Callable[[list[Any]], float]
RESAMPLES = 1000
_LEFT_OUT, _SET, _CHANGED_LEFT_OUT = 1000, 250, 200
"""Rows whose effect is looked at: so many of the original's, in sets of that size, and so many of the changed."""
_LEAST_USEFUL = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """A metric's drop, what it came to over resampled examples, and the effect of one unseen example in each [r]."""

    drop: float
    draws: Array
    unseen: Array

    def at_most(self, confidence: float) -> float:
        """The upper end of the drop at that one-sided confidence."""
        return max(self.drop, _quantile(self.draws + self.unseen, confidence))

    def at_least(self, confidence: float) -> float:
        """The lower end of the drop at that one-sided confidence."""
        return min(self.drop, -_quantile(self.unseen - self.draws, confidence))


def metric_drop_interval(
    rows_original: Sequence[Any],
    rows_candidate: Sequence[Any],
    metric: Metric,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Drop:
    """The drop metric(original rows) - metric(candidate rows), with its one-sided upper end at `confidence`.

    The rows are those of the same examples in the same order. `lost` and `gained` count rows that are numbers and
    went down and up; 0 for other rows, of which no one can say. Raises WorkloadError where the metric raises, or has
    no finite value on the rows or on most resampled ones.
    """
    found = resample(rows_original, rows_candidate, metric, seed=seed, resamples=resamples)
    return metric_drop(found, rows_original, rows_candidate, confidence)


def metric_drop(
    found: Resampled, rows_original: Sequence[Any], rows_candidate: Sequence[Any], confidence: float
) -> Drop:
    """A resampled drop as a Drop at that confidence."""
    lost, gained = _directions(rows_original, rows_candidate)
    return Drop(
        estimate=found.drop,
        high=found.at_most(confidence),
        confidence=confidence,
        examples=len(rows_original),
        lost=lost,
        gained=gained,
    )


def resample(
    rows_original: Sequence[Any],
    rows_candidate: Sequence[Any],
    metric: Metric,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Resampled:
    """The metric's drop over `resamples` draws of the examples; the same for the same rows and seed."""
    examples = len(rows_original)
    if not examples or len(rows_candidate) != examples:
        raise ValueError(f"{examples} rows and {len(rows_candidate)}, not twice the same number")
    before, after = _value(metric, rows_original), _value(metric, rows_candidate)
    random = np.random.default_rng(seed)
    changed = [place for place in range(examples) if not _equal(rows_original[place], rows_candidate[place])]
    draws = np.zeros(resamples) if not changed else np.array([
        _drop_of(metric, rows_original, rows_candidate, random.integers(examples, size=examples))
        for _ in range(resamples)
    ])  # fmt: skip
    useful = np.isfinite(draws)
    if useful.mean() < _LEAST_USEFUL:
        raise WorkloadError(
            f"the workload's `metric` has no value on {(~useful).sum()} of {resamples} resampled sets of its "
            f"{examples} rows; give more examples of each kind"
        )
    effect = _one_example(metric, rows_original, rows_candidate, changed, before, random)
    unseen = effect * random.exponential(size=int(useful.sum()))
    return Resampled(drop=before - after, draws=draws[useful], unseen=unseen)


def _value(metric: Metric, rows: Sequence[Any]) -> float:
    with running("metric"):
        value = float(metric(list(rows)))
    if not math.isfinite(value):
        raise WorkloadError(f"the workload's `metric` gave {value} for {len(rows)} rows; it must give a finite number")
    return value


def _drop_of(metric: Metric, original: Sequence[Any], candidate: Sequence[Any], places: Array) -> float:
    """The drop on some of the rows; NaN where the metric has no value there (no row of some class, say)."""
    picked = places.tolist()
    try:
        return _value(metric, [original[place] for place in picked]) - _value(
            metric, [candidate[place] for place in picked]
        )
    except WorkloadError:
        return math.nan


def _one_example(
    metric: Metric,
    original: Sequence[Any],
    candidate: Sequence[Any],
    changed: Sequence[int],
    value: float,
    random: np.random.Generator,
) -> float:
    """The most that one example changes the metric by, and not less than its share of the metric's value.

    Of the candidate's rows those that changed are left out of the whole; the original's are left out of sets of
    `_SET`, where a row weighs as much more as the set is smaller, since that is much faster.
    """
    examples = len(original)
    some = random.permutation(np.asarray(changed, dtype=np.int64))[:_CHANGED_LEFT_OUT]
    effects = [0.0, *_left_out(metric, candidate, some)]
    mixed = random.permutation(examples)[:_LEFT_OUT]
    for places in np.array_split(mixed, max(len(mixed) // _SET, 1)):
        rows = [original[place] for place in places]
        effects += [effect * len(rows) / examples for effect in _left_out(metric, rows, range(len(rows)))]
    return max(max(effects) - min(effects), abs(value) / examples)


def _left_out(metric: Metric, rows: Sequence[Any], places: Iterable[int]) -> list[float]:
    """How much each of those rows adds to the metric; without those where it then has no value."""
    try:
        whole = _value(metric, rows)
    except WorkloadError:
        return []
    effects = []
    for place in places:
        try:
            effects.append(whole - _value(metric, [*rows[:place], *rows[place + 1 :]]))
        except WorkloadError:
            continue
    return effects


def _quantile(draws: Array, confidence: float) -> float:
    """The smallest draw that has at least a share `confidence` of all, and of one more, at or below it."""
    place = math.ceil((len(draws) + 1) * confidence) - 1
    return float(np.sort(draws)[min(place, len(draws) - 1)])


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (ValueError, RuntimeError):  # rows that hold arrays or tensors have no single answer: counted as changed
        return False


def _directions(original: Sequence[Any], candidate: Sequence[Any]) -> tuple[int, int]:
    pairs = [
        (one, other)
        for one, other in zip(original, candidate, strict=True)
        if isinstance(one, int | float) and isinstance(other, int | float)
    ]
    return sum(other < one for one, other in pairs), sum(other > one for one, other in pairs)
