"""What may be lost and how sure one must be: the allowed drop, and how tries to confirm share the allowed error."""

from __future__ import annotations

import math
from typing import overload

import numpy as np

from hotlap.core import Array
from hotlap.errors import InputError

ERROR = 0.05
"""The chance that a candidate that loses more than allowed is let through, over the whole procedure."""
DEFAULT_DROP = 0.01
_NEXT_TRY = 1 / 3
"""Each try's share of ERROR, in shares of the one before. What the first try is given makes it pass more often, what
the later ones are given saves a search whose first candidate failed. Of the splits tried (docs/log.md) this one comes
within 1% of the best speed of what passed, from 700 confirmation examples up; equal thirds let 10 in 100 fewer first
tries pass."""


@overload
def tolerance(max_drop: str | float | None, scores: Array) -> float: ...
@overload
def tolerance(max_drop: str | float | None, scores: None) -> float | None: ...
def tolerance(max_drop: str | float | None, scores: Array | None) -> float | None:
    """The allowed drop in the score's unit.

    `max_drop`: `0.01` is absolute, `1%` a share of |mean original score|; None means 0.01 where every score lies in
    [0, 1]. `scores` [n]: the original's (with a metric: its one value); None where there is no evaluation: then a
    share is one of the outputs compared, and None stays None. Raises InputError where it can't be understood or is
    missing.
    """
    if max_drop is None:
        return None if scores is None else _default(np.asarray(scores, dtype=np.float64))
    amount, is_share = _parsed(max_drop)
    if not is_share or scores is None:
        return amount
    size = abs(float(np.mean(scores)))
    if size == 0:
        raise InputError(f"--max-drop {max_drop}: the original's score is 0, and a share of it allows nothing; give "
                         "an absolute drop, such as --max-drop 0.01")  # fmt: skip
    return amount * size


def confirmation_confidences(tries: int = 3) -> tuple[float, ...]:
    """The one-sided confidence of each try to confirm a candidate, first to last.

    A candidate that fails is dropped and the next in line is tried, so any of `tries` may be let through by mistake:
    their errors must add up to no more than ERROR (Bonferroni), whatever their outcomes have to do with each other.
    """
    if tries < 1:
        raise ValueError(f"{tries} tries")
    shares = [_NEXT_TRY**place for place in range(tries)]
    return tuple(1 - ERROR * share / sum(shares) for share in shares)


def _default(scores: Array) -> float:
    low, high = float(scores.min()), float(scores.max())
    if low >= 0 and high <= 1:
        return DEFAULT_DROP
    raise InputError(
        f"--max-drop is needed: the scores range from {low:.4g} to {high:.4g}, not within 0 to 1, so there is no "
        "drop that is small for all; give one in the score's unit (--max-drop 0.5) or as a share (--max-drop 1%)"
    )


def _parsed(max_drop: str | float) -> tuple[float, bool]:
    """(amount, whether it is a share)."""
    text = str(max_drop).strip()
    is_share = text.endswith("%")
    try:
        amount = float(text.removesuffix("%"))
    except ValueError:
        amount = math.nan
    if not math.isfinite(amount) or amount < 0:
        raise InputError(f"--max-drop {text}: give a number from 0 up in the score's unit (0.01) or a share (1%)")
    return (amount / 100, True) if is_share else (amount, False)
