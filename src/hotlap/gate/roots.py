"""Where a falling function crosses zero."""

from __future__ import annotations

import math
from collections.abc import Callable

_STEPS = 200


def falling_root(
    function: Callable[[float], float], low: float, high: float, guess: float, *, step: float, precision: float
) -> float:
    """Where `function`, which falls from above zero at `low` to below zero at `high`, crosses zero.

    Of the two ends that enclose the place it gives the upper one, so that a limit errs to the safe side: there the
    function is within `precision` below zero, or the ends are within a 1e-7 share of the first `step`, which says
    how far around `guess` to look first. The Illinois method; `low` and `high` themselves are never tried.
    """
    width = 1e-7 * step
    left = right = guess
    at_left = at_right = function(guess)
    while at_left <= 0:
        right, at_right = left, at_left
        left, step = left - step, 2 * step
        left, at_left = (left, function(left)) if left > low else (low, math.inf)
    while at_right > 0:
        left, at_left = right, at_right
        right, step = right + step, 2 * step
        right, at_right = (right, function(right)) if right < high else (high, -math.inf)
    kept = 0
    for _ in range(_STEPS):
        if -at_right <= precision or right - left <= width:
            break
        middle = left + (right - left) * at_left / (at_left - at_right)
        if not left < middle < right:
            middle = (left + right) / 2
        value = function(middle)
        if value > 0:
            left, at_left = middle, value
            at_right, kept = (at_right / 2, 1) if kept == 1 else (at_right, 1)
        else:
            right, at_right = middle, value
            at_left, kept = (at_left / 2, -1) if kept == -1 else (at_left, -1)
    return right
