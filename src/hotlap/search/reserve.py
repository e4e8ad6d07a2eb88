"""What part of the budget is kept for confirming. Pure: figures of this run in, seconds out.

It decides when trying ends and never enters a result.
"""

from __future__ import annotations

LEAST_SECONDS = 25.0
_MOST_SHARE = 0.6
"""However long confirming takes, so much of the budget at most is kept for it: something must be tried first."""
_SLACK = 1.2
_OTHER_STARTS = 2
"""Loading the finalists and timing them against each other takes about as long as so many starts."""


def confirming_seconds(
    *,
    score_seconds: float,
    selection: int,
    confirmation: int,
    speedup: float,
    start_seconds: float,
    starts: int,
    is_first: bool = True,
) -> float:
    """How long confirming a candidate is likely to take.

    score_seconds: what the original took on the `selection` examples. confirmation: examples that confirm; original
    and candidate see them, and a candidate that changes no numbers sees the others again. speedup: the candidate's.
    start_seconds: what a pair of processes takes to load and to be timed. starts: the least number of pairs.
    is_first: the original's outputs are not kept yet from an earlier try.
    """
    share = confirmation / max(selection, 1)
    scoring = score_seconds * (share * is_first + (share + 1) / max(speedup, 1.0))
    return _SLACK * (scoring + (starts + _OTHER_STARTS) * start_seconds)


def examples_to_confirm(*, score_seconds: float, selection: int, confirmation: int, budget: float) -> int:
    """How many of the `confirmation` examples confirm: all, or as many as the time that confirming may take allows.

    score_seconds: what the original took on `selection` examples. Only their time chooses, never their scores.
    """
    if score_seconds * confirmation <= _MOST_SHARE * budget * selection:
        return confirmation
    return max(1, int(_MOST_SHARE * budget * selection / score_seconds))


def reserve(confirming: float | None, budget: float) -> float:
    """Seconds of the budget to keep: for the best so far, which takes `confirming`; None where there is none yet."""
    return min(max(LEAST_SECONDS, confirming or 0.0), _MOST_SHARE * budget)
