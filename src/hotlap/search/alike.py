"""Candidates that are one thing run in different ways: what was found of one need not be found again. Pure.

Threads, fixed shapes, micro-batches and streams change when numbers are computed, not which; selection data is scored
in batches of the user's own sizes, so that it would see the same outputs again. Confirmation takes nothing over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from statistics import median

from hotlap.core import Candidate, Json, to_json

_AS_FAST = 0.97
_HOW_IT_RUNS = ("static", "fixed_axes", "micro_batch", "streams")
_JUDGED = ("score", "differences", "drop", "gate", "status", "reason", "distance", "chances")


def numbers(candidate: Candidate) -> str:
    """What decides the numbers that a candidate gives, the same for all ways of running it."""
    options = [(name, value) for name, value in candidate.options if name not in _HOW_IT_RUNS]
    steps = [to_json(step) for step in candidate.steps]
    return json.dumps([steps, candidate.runtime, candidate.device, candidate.precision, options])


def judged_alike(candidate: Candidate, records: Iterable[Json]) -> Json | None:
    """The record of the fastest that gives the same numbers and was judged; None where there is none yet."""
    return _judged(records).get(numbers(candidate))


def _judged(records: Iterable[Json]) -> dict[str, Json]:
    """The fastest record that was judged, by what decides its numbers."""
    found: dict[str, Json] = {}
    for one in records:
        if "gate" in one:
            key = numbers(Candidate.from_json(one["candidate"]))
            found[key] = max(found.get(key, one), one, key=_speed)
    return found


def _speed(record: Json) -> float:
    return float(record["speedup"]["estimate"]) if record.get("speedup") else 0.0


def slower_than(twin: Json, record: Json) -> str | None:
    """Why one that was timed is not worth checking: another that gives the same numbers is faster, beyond noise."""
    enough = _speed(record) >= _AS_FAST * _speed(twin) or record["median_ms"] * _AS_FAST <= twin["median_ms"]
    if twin["status"] != "passed" or enough:
        return None
    name = twin["candidate"]["name"]
    return f"{record['median_ms']:.3g} ms a call; {name!r} gives the same numbers in {twin['median_ms']:.3g} ms"


def rejected(candidate: Candidate, records: Iterable[Json]) -> str | None:
    """Why it will lose too much: one that gives the same numbers did. None where none has."""
    twin = judged_alike(candidate, records)
    if twin is None or twin["status"] != "rejected":
        return None
    return f"gives the same numbers as {twin['candidate']['name']!r}, which was rejected: {twin['reason']}"


def verdict_of(record: Json) -> Json:
    """What its scoring found, for another that gives the same numbers, with the name of the one that was scored."""
    return {
        **{name: record[name] for name in _JUDGED if name in record},
        "scored_as": record.get("scored_as", record["candidate"]["name"]),
        "score_seconds": 0.0,
    }


def seconds_each(waiting: Sequence[Candidate], records: Sequence[Json]) -> dict[str, float]:
    """How long each is likely to take, by its key.

    Another way of running what was scored takes neither its build nor its scoring. Others take as long as their
    kind has, by the median; one of a kind never tried counts as the longest of them.
    """
    spent: dict[str, list[float]] = {}
    for record in records:
        if "seconds" in record and "scored_as" not in record:
            spent.setdefault(_kind(Candidate.from_json(record["candidate"])), []).append(record["seconds"])
    usual = {kind: median(seconds) for kind, seconds in spent.items()}
    longest = max(usual.values(), default=0.0)
    found, judged = {}, _judged(records)
    for candidate in waiting:
        twin = judged.get(numbers(candidate))
        if twin is None:
            found[candidate.key] = usual.get(_kind(candidate), longest)
        else:
            shared = 0.0 if "scored_as" in twin else twin["build_seconds"] + twin["score_seconds"]
            found[candidate.key] = max(0.0, twin["seconds"] - shared)
    return found


def _kind(candidate: Candidate) -> str:
    """What decides how long a first try takes: the runtime and the techniques."""
    return " ".join((candidate.runtime, *(step.technique for step in candidate.steps)))
