"""How much score a candidate may have lost against the original, from both scores of each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hotlap.core import Array, Drop
from hotlap.gate import bounded, paired

_FEWEST_FOR_TWO_VALUES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How scores are spread, which decides the method.

    `largest`: the most that one example can lose. `binary`: every score is one of two values that far apart.
    """

    largest: float
    binary: bool


def drop_interval(
    original: Array, candidate: Array, *, confidence: float = 0.95, bounds: tuple[float, float] | None
) -> Drop:
    """The drop mean(original - candidate) over examples, with its one-sided upper end at `confidence`.

    `original`, `candidate` [n]: the score of the same examples in the same order. `bounds`: the least and the most a
    score can be; None where there are none. Three methods:

    - Scores of two values: the exact limit (paired.py). Its coverage holds by construction.
    - Bounded scores: Gaffke's limit (bounded.py), for which an example can lose as much as the bounds are apart.
    - Unbounded scores: the same, on an assumption that no data can prove: an example not seen loses at most as much as
      the most that any seen one lost or gained, or one standard deviation of the original's scores, if that is more.
      Where rare examples lose far more than that, the limit is too low; bounded scores avoid it.

    Raises ValueError for no examples, different numbers of them, NaN or Inf.
    """
    original, candidate = checked(original, candidate)
    return interval(original, candidate, scale_of(original, candidate, bounds), confidence)


def checked(original: Any, candidate: Any) -> tuple[Array, Array]:
    """Both scores as float64, if they can be compared. Raises ValueError."""
    original, candidate = np.asarray(original, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if original.ndim != 1 or original.shape != candidate.shape or not len(original):
        raise ValueError(f"scores of shapes {original.shape} and {candidate.shape}, not twice the same number")
    if not (np.isfinite(original).all() and np.isfinite(candidate).all()):
        raise ValueError("scores with NaN or Inf")
    return original, candidate


def is_binary(scores: Array) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.isin(scores, (0, 1)).all())


def score_bounds(scores: Array) -> tuple[float, float] | None:
    """The least and the most that a score can be, as far as the original's tell; None where they don't.

    (0, 1) where all lie there; the two values where there are but two.
    """
    scores = np.asarray(scores, dtype=np.float64)
    low, high = float(scores.min()), float(scores.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if len(scores) >= _FEWEST_FOR_TWO_VALUES and low < high and np.isin(scores, (low, high)).all():
        return low, high
    return None


def scale_of(original: Array, candidate: Array, bounds: tuple[float, float] | None) -> Scale:
    """The scale of the scores. Bounds that a score passes are none."""
    if is_binary(original) and is_binary(candidate):
        return Scale(largest=1.0, binary=True)
    both = np.concatenate([original, candidate])
    if bounds is not None and bounds[0] <= both.min() and both.max() <= bounds[1]:
        return Scale(largest=bounds[1] - bounds[0], binary=bool(np.isin(both, bounds).all()))
    seen = float(np.abs(original - candidate).max())
    # Where nothing varies at all, the size of the scores is the only scale that is left.
    return Scale(largest=max(seen, float(original.std())) or abs(float(original[0])) or 1.0, binary=False)


def interval(original: Array, candidate: Array, scale: Scale, confidence: float) -> Drop:
    """The drop of scores of a known scale."""
    lost, gained = int((candidate < original).sum()), int((candidate > original).sum())
    differences = original - candidate
    if scale.binary:
        high = scale.largest * paired.upper_limit(lost, gained, len(original), confidence)
    else:
        high = bounded.upper_limit(differences, scale.largest, confidence)
    return Drop(
        estimate=float(differences.mean()),
        high=high,
        confidence=confidence,
        examples=len(original),
        lost=lost,
        gained=gained,
    )


def at_least(original: Array, candidate: Array, scale: Scale, confidence: float) -> float:
    """The lower end of the drop's one-sided interval: what was lost for sure."""
    return -interval(candidate, original, scale, confidence).high
