"""What to try next, and what not to try at all. Pure: rows in, a choice out.

The expectations below only order the work; they never enter a result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import geometric_mean
from types import MappingProxyType
from typing import TypeAlias

from hotlap import gate
from hotlap.core import Candidate, Interval, Step
from hotlap.search import alike

_Change: TypeAlias = tuple[str, str, int, int]
"""Of a runtime: what is run in another way, from which value, to which."""

_EXPECTED = {
    ("openvino", "int8"): 6.0,
    ("onnxruntime", "int8"): 5.0,
    ("openvino", "bf16"): 3.5,
    ("onnxruntime", "fp32"): 2.5,
    ("openvino", "fp32"): 2.4,
    ("inductor", "bf16"): 1.6,
    ("inductor", "fp32"): 1.4,
    ("eager", "bf16"): 1.2,
}
"""Speed-ups seen over eager fp32 on CPUs (DESIGN.md), for the order of the first tries alone."""
_ON_CUDA = {("inductor", "fp16"): 4.0, ("inductor", "bf16"): 3.9, ("eager", "fp16"): 2.5, ("eager", "bf16"): 2.4}
_TECHNIQUES = {"nncf_int8": 0.9, "dynamic_int8": 0.5, "channels_last": 1.05}
"""Against the expectation of runtime and format: NNCF's pairs suit OpenVINO best; dynamic ranges cost time."""
_INDUCTOR_COST = 0.5
"""Compiling takes half a minute and more, so it waits its turn."""
_OTHER_OPTIONS = 0.97
"""How a candidate is expected to do against a measured one of its family that differs in its technique's options."""
_TAKEN_OUT = "without_worst"
"""The option that takes quantizers out: of use where all of them lose too much."""
_FIXED, _FEWER_THREADS = 1.05, 0.8
_CUT = {"onnxruntime": 1.15, "openvino": 1.03}
_CUT_INTO_ROWS = {"openvino": 0.95}
_MORE_STREAMS = 1.1
"""The same for shapes fixed, fewer threads, the batch cut, cut into single rows, and several calls at once, until two
that differ in nothing else have been measured (docs/log.md)."""
_HOPELESS = 0.6
"""A candidate expected to reach less than this share of the best is left to the end."""
_ALIKE = 2
"""So many chains of a runtime that failed for the same reason, and the rest of it is skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known of one candidate after its turn. `speedup` is over the baseline.

    `chances`: how likely it is to be confirmed as the first try, the second, and so on; 1 where nothing but the drop of
    scores could say otherwise.
    """

    candidate: Candidate
    status: str
    reason: str = ""
    speedup: Interval | None = None
    median_ms: float | None = None
    bytes: int | None = None
    chances: tuple[float, ...] = (1.0,) * len(gate.confirmation_confidences())

    @property
    def chance(self) -> float:
        """How likely it is to be confirmed if it is tried first."""
        return self.chances[0]

    @property
    def good(self) -> bool:
        """Measured and within the gate, as far as selection data can tell."""
        return self.status == "passed" and self.speedup is not None


def expected(
    candidate: Candidate,
    rows: Sequence[Row],
    rates: Mapping[str, float] = MappingProxyType({}),
    lessons: Mapping[_Change, float] = MappingProxyType({}),
) -> float:
    """The speed-up to expect of a candidate: from the nearest measured relative, else from the first table.

    `rates`: multiply-adds a second that this machine reaches, by number format. A format is expected to bring no
    more over fp32 in the same runtime than its rate does: int8 brings little where the CPU has no instruction for it.
    `lessons`: what `learned` gave.
    """
    relatives = [row for row in rows if row.speedup and _family(row.candidate) == _family(candidate)]
    if relatives:
        nearest = max(relatives, key=lambda row: _kinship(row.candidate, candidate))
        assert nearest.speedup is not None
        return nearest.speedup.estimate * _step_to(nearest, candidate, lessons)
    table = _ON_CUDA if candidate.device == "cuda" else _EXPECTED
    base = table.get((candidate.runtime, candidate.precision), 1.0)
    if rates.get("fp32") and candidate.precision in rates:
        base = min(base, table.get((candidate.runtime, "fp32"), 1.0) * rates[candidate.precision] / rates["fp32"])
    for step in candidate.steps:
        base *= _TECHNIQUES.get(step.technique, 1.0)
    return base * (_INDUCTOR_COST if candidate.runtime == "inductor" and candidate.device == "cpu" else 1.0)


def learned(rows: Sequence[Row]) -> dict[_Change, float]:
    """What a change of how things are run has brought: the geometric mean over pairs that differ in nothing else."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        if row.speedup:
            families.setdefault(alike.numbers(row.candidate), []).append(row)
    found: dict[_Change, list[float]] = {}
    for family in families.values():
        for one, other in permutations(family, 2):
            changes = _changes(one.candidate, other.candidate)
            if len(changes) == 1:
                found.setdefault(changes[0], []).append(_speed(other) / _speed(one))
    return {change: geometric_mean(ratios) for change, ratios in found.items()}


def _family(candidate: Candidate) -> tuple[object, ...]:
    return candidate.runtime, candidate.precision, tuple(step.technique for step in candidate.steps)


def _kinship(a: Candidate, b: Candidate) -> int:
    return 4 * (a.steps == b.steps) + 2 * (a.threads == b.threads) + (a.options == b.options)


def _changes(start: Candidate, end: Candidate) -> list[_Change]:
    """In which ways two run differently: the runtime, what changes, from which value to which."""
    before, after = _ways(start), _ways(end)
    return [(end.runtime, way, before[way], after[way]) for way in before if before[way] != after[way]]


def _ways(candidate: Candidate) -> dict[str, int]:
    options = dict(candidate.options)
    return {
        "threads": candidate.threads,
        "static": int(bool(options.get("static"))),
        "micro_batch": options.get("micro_batch") or 0,
        "streams": options.get("streams") or 1,
    }


def _step_to(row: Row, candidate: Candidate, lessons: Mapping[_Change, float]) -> float:
    factor = 1.0
    for change in _changes(row.candidate, candidate):
        factor *= lessons.get(change) or _guess(change, row)
    if candidate.steps != row.candidate.steps:
        # A relative that lost too much makes another way of finding ranges the more interesting.
        factor *= 1.0 if row.status == "rejected" else _OTHER_OPTIONS
    elif row.status == "rejected":
        factor *= 0.3
    return factor


def _guess(change: _Change, row: Row) -> float:
    runtime, way, before, after = change
    if way == "threads":
        # Handing work to another thread costs tens of microseconds: tiny models are better off without.
        fewer = 1.1 if row.median_ms is not None and row.median_ms < 0.2 else _FEWER_THREADS
        return fewer if after < before else 1 / fewer
    if way == "static":
        return _FIXED if after else 1 / _FIXED
    if way == "streams":
        return _MORE_STREAMS if after > before else 1 / _MORE_STREAMS
    return _cut(runtime, after) / _cut(runtime, before)


def _cut(runtime: str, rows: int) -> float:
    if not rows:
        return 1.0
    whole = _CUT.get(runtime, 1.0)
    return _CUT_INTO_ROWS.get(runtime, whole) if rows == 1 else whole


def choose(
    waiting: Sequence[Candidate],
    rows: Sequence[Row],
    *,
    seconds_left: float,
    seconds_each: Mapping[str, float],
    rates: Mapping[str, float] = MappingProxyType({}),
    trying: Candidate | None = None,
) -> Candidate | None:
    """The next candidate to try, or None where the time left is better spent on confirming.

    `waiting`: of those that promise the same, the first comes first. `seconds_each`: how long each is likely to
    take, by its key; those of which nothing is said take no time.
    `rates`: see `expected`. `trying`: the one whose turn it is, of which nothing is known yet.
    """
    affordable = [c for c in waiting if seconds_each.get(c.key, 0.0) <= seconds_left and not _waits(c, rows)]
    if not affordable:
        return None
    good = [row for row in rows if row.good and row.speedup]
    fastest = max(good, key=_speed, default=None)
    best = _speed(fastest) if fastest else 1.0
    known = {_family(row.candidate) for row in rows} | ({_family(trying)} if trying else set())
    untried = [c for c in affordable if _family(c) not in known]
    lessons = learned(rows)
    promise = {c.key: expected(c, rows, rates, lessons) for c in affordable}
    sure = [c for c in untried if c.precision != "int8"]
    if sure and known and not any(row.chance >= gate.LIKELY for row in good) and {one[1] for one in known} == {"int8"}:
        # Until something is likely to be confirmed, what hardly loses accuracy comes next: int8 may fail in all forms.
        return max(sure, key=lambda c: promise[c.key])
    ranked = sorted(affordable, key=lambda c: -promise[c.key])
    promising = [c for c in ranked if promise[c.key] >= _HOPELESS * best]
    # Another way of running the best takes a few seconds: it is neither built nor scored again.
    if fastest:
        wanted = alike.numbers(fastest.candidate)
        ways = [c for c in promising if promise[c.key] > best and alike.numbers(c) == wanted]
        if ways:
            return ways[0]
    fresh = sorted(untried, key=lambda c: -promise[c.key])
    # A family never tried is worth more than a finer cut of a known one, unless it is expected to be far behind.
    for c in fresh:
        if promise[c.key] >= _HOPELESS * best:
            return c
    return promising[0] if promising else (fresh or ranked)[0]


def _all_narrow(candidate: Candidate) -> tuple[Step, ...] | None:
    """The steps of the same with no quantizer taken out; None where none is."""
    steps = tuple(
        Step(technique=step.technique, options=tuple(pair for pair in step.options if pair[0] != _TAKEN_OUT))
        for step in candidate.steps
    )
    return None if steps == candidate.steps else steps


def _narrow_rows(candidate: Candidate, rows: Sequence[Row]) -> list[Row] | None:
    """What is known of the same with no quantizer taken out; None where there is none taken out of this."""
    steps = _all_narrow(candidate)
    if steps is None:
        return None
    return [row for row in rows if row.candidate.runtime == candidate.runtime and row.candidate.steps == steps]


def _waits(candidate: Candidate, rows: Sequence[Row]) -> bool:
    """Whether it is too early for it: what all its quantizers lose is not known yet."""
    narrow = _narrow_rows(candidate, rows)
    return narrow is not None and not any(row.status in ("passed", "rejected", "failed") for row in narrow)


def not_needed(candidate: Candidate, rows: Sequence[Row]) -> str | None:
    """Why there is no need to take quantizers out, or None."""
    for row in _narrow_rows(candidate, rows) or ():
        if row.good and row.chance >= gate.LIKELY:
            return f"{row.candidate.name!r} is likely to be confirmed as it is"
    if _waits(candidate, rows):
        return "what all its quantizers lose was not found out"
    return None


def skip_reason(candidate: Candidate, rows: Sequence[Row], *, bounds_ms: Mapping[str, float]) -> str | None:
    """Why a candidate can't win, or None.

    A measured limit is no hard ceiling, so a candidate is skipped only if half its bound is still slower than the
    best so far.
    """
    unneeded = not_needed(candidate, rows)
    if unneeded:
        return unneeded
    failed: dict[str, set[tuple[str, ...]]] = {}
    for row in rows:
        if row.status == "failed" and row.candidate.runtime == candidate.runtime:
            if row.candidate.steps in (candidate.steps, _all_narrow(candidate)):
                return f"built like {row.candidate.name!r}, which failed: {row.reason}"
            failed.setdefault(row.reason, set()).add(tuple(step.technique for step in row.candidate.steps))
    common = next((reason for reason, chains in failed.items() if len(chains) >= _ALIKE), None)
    if common:
        return f"{_ALIKE} others of {candidate.runtime} failed alike: {common}"
    bound = bounds_ms.get(candidate.precision)
    best = min((row.median_ms for row in rows if row.good and row.median_ms is not None), default=None)
    if bound is not None and best is not None and bound / 2 > best:
        return f"the machine's limit allows at best {bound:.3g} ms; half of that is still slower than {best:.3g} ms"
    return None


def _speed(row: Row) -> float:
    return row.speedup.estimate if row.speedup else 0.0


def finalists(rows: Sequence[Row], *, objective: str, count: int) -> list[Row]:
    """The best rows within the gate, first those to be tried for confirmation; see `in_line`."""
    good = [row for row in rows if row.good]
    if objective == "size":
        good.sort(key=lambda row: (row.bytes or 0, -_speed(row)))
    else:
        good.sort(key=lambda row: -_speed(row))
    return in_line(good, objective=objective)[:count]


def in_line(rows: Sequence[Row], *, objective: str) -> list[Row]:
    """The order in which to confirm rows that come best first.

    First the tries that promise most together (gate.order_of_tries); of those that give the same numbers, which pass or
    fail alike, the best stands for all. Then others with the numbers of those tries, which may yet turn out faster,
    then the rest by likelihood.
    """
    heads: dict[str, Row] = {}
    for row in rows:
        heads.setdefault(alike.numbers(row.candidate), row)
    leaders = list(heads.values())
    largest = max((row.bytes or 1 for row in rows), default=1)
    gains = [
        math.log(2 * largest / (row.bytes or 1)) if objective == "size" else math.log(_speed(row)) for row in leaders
    ]
    # They come best first, by a finer measurement than the one that the gains are of.
    gains = [max(gains[place:]) for place in range(len(gains))]
    first = [leaders[place] for place in gate.order_of_tries([row.chances for row in leaders], gains)]
    numbers = {alike.numbers(row.candidate) for row in first}
    rest = [row for row in rows if row not in first]
    return first + sorted(rest, key=lambda row: (alike.numbers(row.candidate) not in numbers, -row.chance))


def pareto(points: Sequence[tuple[str, float, float]]) -> list[str]:
    """Names of those no other beats in both speed and accuracy: points are (name, speed-up, drop)."""
    return [
        name
        for name, speed, drop in points
        if not any(
            other_speed >= speed and other_drop <= drop and (other_speed, other_drop) != (speed, drop)
            for _, other_speed, other_drop in points
        )
    ]
