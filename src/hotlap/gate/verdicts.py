"""Measurements and a tolerance in, a verdict out. Pure: anyone can recompute a stored verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hotlap.core import TOLERANCE, Array, Drop, Verdict
from hotlap.gate import bounded, paired, sentences
from hotlap.gate.allowance import DEFAULT_DROP
from hotlap.gate.drop import Scale, checked, interval, scale_of
from hotlap.gate.resampled import RESAMPLES, Metric, metric_drop, resample
from hotlap.gate.slices import Slice, metric_slices, scored_slices, worst_of

AGREEMENT_TOLERANCE = TOLERANCE["int8"]
"""By how much outputs that are no classes may differ from the original's, as a share of their largest value, where
there is no evaluation data: what the narrowest number format differs by when it works."""


def judge_drop(
    original: Any,
    candidate: Any,
    *,
    max_drop: float,
    confidence: float = 0.95,
    slices: Sequence[str] | None = None,
    bounds: tuple[float, float] | None = None,
    metric: Metric | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Verdict:
    """Whether a candidate loses no more than `max_drop` of score, by examples that chose nothing.

    It passes where the upper end of the drop's one-sided interval at `confidence` is at most `max_drop`, and no slice
    is proven to lose more (slices.py). `original`, `candidate` [n]: scores of the same examples; with `metric` rows.
    `slices` [n]: a label for each. `bounds`: the least and the most a score can be (drop.py). `worst_slice` is the one
    whose loss is surest. `distance`: how far past the allowance, in the score's unit; not above 0 where it passes.
    `examples_needed`: how many such examples would tell, if they flip as these do; None where it passes or no number
    would do. Raises ValueError for scores that don't match, WorkloadError where the metric fails.
    """
    if metric is None:
        original, candidate = checked(original, candidate)
        scale = scale_of(original, candidate, bounds)
        drop = interval(original, candidate, scale, confidence)
        parts = [] if slices is None else scored_slices(original, candidate, slices, scale, confidence)
    else:
        drawn = resample(original, candidate, metric, seed=seed, resamples=resamples)
        drop = metric_drop(drawn, original, candidate, confidence)
        parts = [] if slices is None else metric_slices(
            original, candidate, slices, metric, confidence=confidence, seed=seed, resamples=resamples
        )  # fmt: skip
    needed = None
    if drop.high > max_drop:
        needed = _metric_examples(drop, max_drop) if metric else _examples(original, candidate, scale, drop, max_drop)
    return _verdict(drop, max_drop, parts, needed)


def judge_equivalence(differences: Mapping[str, float], tolerance: float) -> Verdict:
    """Whether a candidate that keeps weights and number format gives the original's numbers.

    `differences`: for each output the largest difference from the original's over all evaluation data, as a share of
    that output's largest magnitude; NaN or Inf where the outputs have either and the original's have not. `distance`
    is in the same unit. Raises ValueError where no output was compared.
    """
    if not differences:
        raise ValueError("no output was compared")
    largest = max(math.inf if math.isnan(value) else value for value in differences.values())
    passed = largest <= tolerance
    return Verdict(
        passed=passed,
        rule="equivalence",
        reason=(
            sentences.same_numbers(largest, tolerance) if passed else sentences.other_numbers(differences, tolerance)
        ),
        distance=largest - tolerance if math.isfinite(largest) else None,
    )


def judge_agreement(
    relative_error: float, same_argmax: int | None, n: int, *, max_drop: float | None, confidence: float = 0.95
) -> Verdict:
    """Whether outputs agree with the original's well enough, where there is no evaluation data.

    `same_argmax` of `n` inputs have the largest output in the same place; None where outputs don't look like classes.
    Classes pass where the exact (Clopper-Pearson) upper limit of the share that differs is at most `max_drop`, or 0.01
    for None; other outputs where `relative_error`, the largest difference as a share of the output's largest
    magnitude, is at most 0.05. Raises ValueError where nothing was compared.
    """
    if n < 1 or not (same_argmax is None or 0 <= same_argmax <= n):
        raise ValueError(f"{same_argmax} alike of {n} inputs")
    if not math.isfinite(relative_error):
        return Verdict(passed=False, rule="agreement", reason="outputs have NaN or Inf where the original's have none")
    if same_argmax is None:
        passed = relative_error <= AGREEMENT_TOLERANCE
        error, allowed = sentences.beside(relative_error, AGREEMENT_TOLERANCE)
        reason = f"accuracy not measured; outputs differ by {error} of their largest value, allowed {allowed}"
        return Verdict(passed=passed, rule="agreement", reason=reason, distance=relative_error - AGREEMENT_TOLERANCE)
    allowed_share = DEFAULT_DROP if max_drop is None else max_drop
    values, counts = np.array([0.0, 1.0]), np.array([same_argmax, n - same_argmax], dtype=np.float64)
    high = bounded.upper_limit(values, 1.0, confidence, weights=counts)
    share = (n - same_argmax) / n
    drop = Drop(estimate=share, high=high, confidence=confidence, examples=n, lost=n - same_argmax, gained=0)
    passed = high <= allowed_share
    needed = None if passed else bounded.examples_needed(values, 1.0, allowed_share, confidence, weights=counts)
    return Verdict(
        passed=passed,
        rule="agreement",
        reason=sentences.agreement(same_argmax, n, drop, allowed_share, needed),
        distance=high - allowed_share,
        examples_needed=needed,
    )


def _verdict(drop: Drop, max_drop: float, parts: Sequence[Slice], needed: int | None) -> Verdict:
    worst = worst_of(parts)
    distance = drop.high - max_drop
    if drop.high > max_drop:
        reason = sentences.missed(drop, max_drop, needed)
    elif worst is not None and worst.at_least > max_drop:
        distance = worst.at_least - max_drop
        reason = sentences.refused_slice(worst, max_drop)
    else:
        reason = sentences.passed(drop, max_drop)
    return Verdict(
        passed=distance <= 0,
        rule="drop",
        reason=reason,
        drop=drop,
        distance=distance,
        examples_needed=needed,
        worst_slice=worst.label if worst else None,
        slices={one.label: one.drop for one in parts},
    )


def _examples(original: Array, candidate: Array, scale: Scale, drop: Drop, max_drop: float) -> int | None:
    """How many examples would tell; more than there are, since these did not."""
    # For 0/1 scores this limit is close to the exact one, and the same where none flipped.
    confidence = 1 - paired.allowed_error(drop.confidence) if scale.binary else drop.confidence
    found = bounded.examples_needed(original - candidate, scale.largest, max_drop, confidence)
    return None if found is None else max(found, drop.examples + 1)


def _metric_examples(drop: Drop, max_drop: float) -> int | None:
    """The same for a metric: what lies between its drop and the upper end shrinks as one over the square root."""
    if drop.estimate >= max_drop:
        return None
    return math.ceil(drop.examples * ((drop.high - drop.estimate) / (max_drop - drop.estimate)) ** 2)
