"""How likely it is that a candidate will be confirmed, going by the examples that choose, and who is to be tried first.

Of many candidates that look within the allowance some only look it, and of those the fastest come first in line: in
simulations with 50 of them, trying the fastest of all that looked within ended with none confirmed in 56 of 100
searches. Trying the surest first leaves the speed of those that are less sure lying, since the first that passes is
the winner. So the tries are chosen for the speed that is to be expected of them together (docs/log.md). It orders the
line; it proves nothing, and what is confirmed is judged as ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from hotlap.core import Array
from hotlap.gate.drop import checked, drop_interval, scale_of

LIKELY = 0.9
"""Where candidates at least that likely to be confirmed are at hand, slower ones are no longer looked for."""
WORTH_A_TRY = 0.2
"""A candidate less likely to be confirmed is not tried. Those that would fail if other examples were like those that
choose (less than one half) pass often enough to be worth it, where a surer one stands behind them (docs/log.md)."""
_SUREST = 0.99
"""Nothing is surer: something may always fail."""


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
    seen = len(lost)
    # As many examples as will confirm, if they were like these.
    places = np.arange(examples) * seen // examples if examples < seen else np.resize(np.arange(seen), examples)
    foreseen = drop_interval(original[places], candidate[places], confidence=confidence, bounds=bounds)
    worst = float(np.abs(lost).max()) or scale_of(original, candidate, bounds).largest
    return _chance(max_drop - foreseen.high, _spread(float((lost**2).mean()), seen, worst), seen, examples)


def chance_from(
    drop: float, mean_square: float, seen: int, *, largest: float, examples: int, max_drop: float, confidence: float
) -> float:
    """About the same from the mean and the mean square of what `seen` examples lost, without finding a limit.

    The drop that will be found is about normal around the one that was, with the spread of both sets of examples; to
    pass, it must stay below the allowance by about the width of the limit.
    """
    spread = _spread(mean_square, seen, largest)
    z = NormalDist().inv_cdf(confidence)
    # The limit is about x + z s / sqrt(n) + (z^2 / 3 + 2 / 3) / n, as for a Poisson count.
    width = z * np.sqrt(spread / examples) + (z**2 + 2) / 3 * largest / examples
    return _chance(max_drop - width - drop, spread, seen, examples)


def _spread(mean_square: float, seen: int, worst: float) -> float:
    """The mean square of what an example loses, with one unseen example of the worst kind added, as the limits do."""
    return (mean_square * seen + worst**2) / (seen + 1)


def _chance(room: float, spread: float, seen: int, examples: int) -> float:
    return NormalDist().cdf(float(room / np.sqrt(spread * (1 / seen + 1 / examples))))


def order_of_tries(chances: Sequence[Sequence[float]], gains: Sequence[float]) -> list[int]:
    """Which candidates to try to confirm, in which order, so that the first that passes is worth most on average.

    `chances` [candidates][tries]: how likely each is to pass as the first try, as the second, and so on. `gains`
    [candidates]: what each is worth, such as the logarithm of its speed-up; nothing confirmed is worth 0. No more are
    named than there are tries, and none that adds nothing. Of equal gains the earlier is tried first.

    Those named are tried in falling order of gain, so that one pass over the candidates in rising order finds the best
    choice: with t tries spent and only slower ones left, a candidate is either left out or tried next.

    Of many that look good those that look best had luck on the examples that choose, so chances are lowered first, the
    more the more candidates there are; by how much is from simulations (docs/log.md).
    """
    tries = len(chances[0]) if chances else 0
    rising = sorted(range(len(gains)), key=lambda place: (gains[place], -place))
    caution = 1 + math.log2(max(len(gains), 1)) / 2
    worth = [0.0] * (tries + 1)
    line: list[list[int]] = [[] for _ in range(tries + 1)]
    for place in rising:
        tried = list(worth)
        lines = list(line)
        for spent in range(tries):
            chance = min(chances[place][spent], _SUREST) ** caution
            value = chance * gains[place] + (1 - chance) * worth[spent + 1]
            if value > worth[spent]:
                tried[spent], lines[spent] = value, [place, *line[spent + 1]]
        worth, line = tried, lines
    return line[0]
