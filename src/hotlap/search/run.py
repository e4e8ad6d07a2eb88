"""The only loop: build, measure, gate, record, until the budget is spent or nothing is left to try."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hotlap import gate
from hotlap.core import Candidate, Interval, Json, to_json
from hotlap.search import strategy
from hotlap.search.confirm import confirm
from hotlap.search.journal import Journal
from hotlap.search.setting import Setting
from hotlap.search.space import Space
from hotlap.search.strategy import Row
from hotlap.search.trial import try_candidate

_CONFIRMING_SHARE = 0.35
"""The share of the budget kept for confirming."""
_LEAST_CONFIRMING = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that was tried, and what was confirmed. `winner` is the confirmation that passed, or None."""

    records: list[Json]
    confirmations: list[Json]
    winner: Json | None


def search(setting: Setting, space: Space, journal: Journal, *, budget: float) -> Outcome:
    """Try candidates in the order of their promise, then confirm the best; at most three are."""
    done: dict[str, Json] = {event["key"]: event for event in journal.events if event["event"] == "candidate"}
    reserve = max(_LEAST_CONFIRMING, _CONFIRMING_SHARE * budget)
    waiting = [candidate for candidate in space.candidates if candidate.key not in done]
    baseline = setting.baseline()
    try:
        while waiting:
            rows = [row_of(record) for record in done.values()]
            chosen = strategy.choose(
                waiting, rows, seconds_left=setting.seconds_left - reserve, seconds_each=_costs(done)
            )
            if chosen is None or setting.seconds_left <= reserve:
                break
            waiting.remove(chosen)
            reason = strategy.skip_reason(chosen, rows, bounds_ms=setting.bounds_ms)
            if reason:
                record: Json = {
                    "key": chosen.key,
                    "candidate": to_json(chosen),
                    "status": "skipped",
                    "reason": reason,
                }
            else:
                setting.progress({"event": "start", "name": chosen.name, "seconds_left": setting.seconds_left})
                best = max((row.speedup.estimate for row in rows if row.good and row.speedup), default=1.0)
                record = try_candidate(setting, chosen, baseline, best=best)
            journal.append("candidate", **record)
            done[chosen.key] = record
            setting.progress({"event": "done", "name": chosen.name, **_brief(record), "waiting": len(waiting)})
    finally:
        baseline.close()
    for candidate in waiting:
        reason = "the budget ended before its turn; more --budget tries it"
        done[candidate.key] = {
            "key": candidate.key, "candidate": to_json(candidate), "status": "skipped", "reason": reason
        }  # fmt: skip
    return _confirm_best(setting, done, journal)


def _confirm_best(setting: Setting, done: Mapping[str, Json], journal: Journal) -> Outcome:
    earlier = {event["key"]: event for event in journal.events if event["event"] == "confirmation"}
    confidences = gate.confirmation_confidences()
    ranked = strategy.finalists(
        [row_of(record) for record in done.values()], objective=setting.objective, count=len(confidences)
    )
    confirmations: list[Json] = []
    for row, confidence in zip(ranked, confidences, strict=False):
        found = earlier.get(row.candidate.key)
        if found is None:
            share = max(_LEAST_CONFIRMING / 2, setting.seconds_left)
            found = confirm(setting, done[row.candidate.key], confidence=confidence, seconds=share)
            journal.append("confirmation", **_storable(found))
        confirmations.append(found)
        if found["passed"]:
            return Outcome(records=list(done.values()), confirmations=confirmations, winner=found)
    return Outcome(records=list(done.values()), confirmations=confirmations, winner=None)


def row_of(record: Json) -> Row:
    """What the strategy has to know of a record."""
    speedup = record.get("speedup")
    return Row(
        candidate=Candidate.from_json(record["candidate"]),
        status=record["status"],
        reason=record.get("reason", ""),
        speedup=Interval(**speedup) if speedup else None,
        median_ms=record.get("median_ms"),
        bytes=record.get("bytes"),
    )


def _costs(done: Mapping[str, Json]) -> dict[str, float]:
    """Median seconds a try has taken, by runtime."""
    spent: dict[str, list[float]] = {}
    for record in done.values():
        if "seconds" in record:
            spent.setdefault(record["candidate"]["runtime"], []).append(record["seconds"])
    return {runtime: sorted(seconds)[len(seconds) // 2] for runtime, seconds in spent.items()}


def _brief(record: Json) -> dict[str, Any]:
    return {key: record[key] for key in ("status", "reason", "speedup", "median_ms", "drop") if key in record}


def _storable(confirmation: Json) -> Json:
    """Arrays as lists: what goes into the journal is JSON."""
    import numpy as np

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {"dtype": str(value.dtype), "shape": list(value.shape), "values": value.ravel().tolist()}
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    return plain(confirmation)


def now() -> float:
    """The clock that deadlines are on."""
    return time.monotonic()
