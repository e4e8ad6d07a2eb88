"""How likely it is that a candidate will be confirmed, going by the examples that choose.

Of many candidates that look within the allowance some only look it, and of those the fastest come first in line: in
simulations with 50 of them, trying the fastest of all that looked within ended with none confirmed in 56 of 100
searches, and in 3 of 100 where those likely to be confirmed came first (docs/log.md). It orders the line; it proves
nothing, and what is confirmed is judged as ever.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from hotlap.core import Array
from hotlap.gate.drop import checked, scale_of

LIKELY = 0.9
"""Candidates at least that likely to be confirmed come first in line, the fastest first; then the others by likelihood.
From 0.85 to 0.95 the speed of what passes hardly changes; below it falls."""


def chance_to_pass(
    original: Array,
    candidate: Array,
    *,
    examples: int,
    max_drop: float,
    confidence: float,
    bounds: tuple[float, float] | None,
) -> float:
    """About how likely `examples` fresh examples will prove a drop of at most `max_drop` at that confidence.

    `original`, `candidate` [n]: the scores of the examples that choose; `bounds` as for drop_interval.
    """
    original, candidate = checked(original, candidate)
    lost = original - candidate
    largest = scale_of(original, candidate, bounds).largest
    return chance_from(
        float(lost.mean()),
        float((lost**2).mean()),
        len(lost),
        largest=largest,
        examples=examples,
        max_drop=max_drop,
        confidence=confidence,
    )


def chance_from(
    drop: float, mean_square: float, seen: int, *, largest: float, examples: int, max_drop: float, confidence: float
) -> float:
    """The same from the mean and the mean square of what `seen` examples lost.

    The drop that will be found is about normal around the one that was, with the spread of both sets of examples; to
    pass, it must stay below the allowance by about the width of the limit. One unseen example of the worst kind is
    added, as the limits do.
    """
    spread = (mean_square * seen + largest**2) / (seen + 1)
    z = NormalDist().inv_cdf(confidence)
    # The limit is about x + z s / sqrt(n) + (z^2 / 3 + 2 / 3) / n, as for a Poisson count.
    width = z * np.sqrt(spread / examples) + (z**2 + 2) / 3 * largest / examples
    return NormalDist().cdf(float((max_drop - width - drop) / np.sqrt(spread * (1 / seen + 1 / examples))))
