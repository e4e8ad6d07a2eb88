"""The sentences of verdicts, which people read in a table: short, exact, with units."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hotlap.core import Drop
from hotlap.gate.slices import Slice

_MOST_DECIMALS = 12


def passed(drop: Drop, max_drop: float) -> str:
    """Why a drop is within the allowance."""
    high, allowed = beside(drop.high, max_drop)
    places = _decimals_of(allowed)
    return f"drop {drop.estimate:.{places}f}, at most {high} ({percent(drop.confidence)}), allowed {allowed}"


def missed(drop: Drop, max_drop: float, needed: int | None) -> str:
    """Why a drop is not proven to be within the allowance, and what would tell."""
    high, allowed = beside(drop.high, max_drop)
    if drop.estimate > max_drop:
        estimate, allowed = beside(drop.estimate, max_drop)
        return f"{_flips(drop)}: drop {estimate}, allowed {allowed}"
    sure = f" at {percent(drop.confidence)}" if drop.confidence != 0.95 else ""
    more = f"; {_about(needed)} examples would tell" if needed else ""
    return f"{_flips(drop)}: drop may be as large as {high}{sure}, allowed {allowed}{more}"


def refused_slice(one: Slice, max_drop: float) -> str:
    """Why a slice refuses a candidate."""
    least, allowed = beside(one.at_least, max_drop)
    return f"slice {one.label!r}, {_flips(one.drop)}: drop at least {least}, allowed {allowed}"


def same_numbers(largest: float, tolerance: float) -> str:
    """Why outputs count as the same numbers."""
    return f"same numbers: outputs differ by at most {largest:.2g} of their largest value, allowed {tolerance:g}"


def other_numbers(differences: Mapping[str, float], tolerance: float) -> str:
    """Which output is not the same numbers."""
    name, worst = max(differences.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1])
    if not math.isfinite(worst):
        return f"output {name!r} has NaN or Inf where the original has none"
    largest, allowed = beside(worst, tolerance)
    return f"output {name!r} differs by {largest} of its largest value, allowed {allowed}"


def agreement(same: int, compared: int, drop: Drop, allowed: float, needed: int | None) -> str:
    """How often the same class came first, and whether that is often enough."""
    high, limit = beside(drop.high, allowed)
    more = f"; {_about(needed)} inputs would tell" if needed else ""
    return (
        f"accuracy not measured; same class in {same:,} of {compared:,} inputs: as many as {high} may differ "
        f"({percent(drop.confidence)}), allowed {limit}{more}"
    )


def beside(figure: float, limit: float) -> tuple[str, str]:
    """A figure and its limit with as many decimals as show which is larger: at least three digits of the limit."""
    first = 4 if limit <= 0 else min(max(2 - math.floor(math.log10(limit)), 0), _MOST_DECIMALS)
    places = first
    for places in range(first, _MOST_DECIMALS + 1):
        if (round(figure, places) <= round(limit, places)) == (figure <= limit):
            break
    return f"{figure:.{places}f}", f"{limit:.{places}f}"


def percent(confidence: float) -> str:
    """0.9654 as 96.5%."""
    return f"{100 * confidence:.3g}%"


def _flips(drop: Drop) -> str:
    if drop.lost or drop.gained:
        return f"lost {drop.lost:,}, gained {drop.gained:,} of {drop.examples:,} examples"
    return f"{drop.examples:,} examples"


def _about(count: int) -> str:
    """3,568 as "about 3,600": no more digits than the estimate has."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return f"about {math.ceil(count / unit) * unit:,}"


def _decimals_of(text: str) -> int:
    return len(text.partition(".")[2])
