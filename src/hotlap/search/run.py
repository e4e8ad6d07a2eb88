"""The only loop: build, measure, gate, record, until the budget is spent or nothing is left to try."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hotlap import gate
from hotlap.core import Candidate, Interval, Json, to_json
from hotlap.measure import statistics
from hotlap.measure.required import required
from hotlap.measure.worker import Worker
from hotlap.search import alike, strategy
from hotlap.search.confirm import confirm
from hotlap.search.final import head_to_head
from hotlap.search.journal import Journal
from hotlap.search.reserve import LEAST_SECONDS, confirming_seconds, reserve
from hotlap.search.setting import Setting
from hotlap.search.space import Space
from hotlap.search.strategy import Row
from hotlap.search.trial import Turn

_LEAST_TURN, _LEAST_FIRST_TURN = 10.0, 60.0
"""Seconds that a turn gets in any case; more until something has passed, since without it there is nothing to save."""
_SHORT_TURN, _MOST_OF_A_LONG_REST = 45.0, 0.5
"""A turn may take all the time there is up to so many seconds, and no more than this share of what is longer."""
UNTRIED = "the budget ended before its turn; more --budget tries it"
_FINALISTS = 5
_SURE = (1.0,) * len(gate.confirmation_confidences())
"""So many of the best are timed against each other before one is confirmed."""
_BYTES = "base64"
_GONE = "the original's process ended while this was timed against it, so that it tells nothing; --resume tries it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that was tried, and what was confirmed. `winner` is the confirmation that passed, or None."""

    records: list[Json]
    confirmations: list[Json]
    winner: Json | None


def search(setting: Setting, space: Space, journal: Journal, baseline: Worker, *, budget: float) -> Outcome:
    """Try candidates in the order of their promise, then confirm the best; at most three are.

    `baseline` holds the original, ready to be timed; it is closed before anything is confirmed.
    """
    done: dict[str, Json] = {event["key"]: event for event in journal.events if event["event"] == "candidate"}
    queue = _Queue(setting, space, done, budget=budget)
    ahead: Turn | None = None
    turn: Turn | None = None
    try:
        turn = queue.next_turn(journal)
        while turn is not None:
            ahead = queue.next_turn(journal, turn.candidate)
            name = turn.candidate.name
            setting.progress({"event": "start", "name": name, "seconds_left": setting.seconds_left})
            twin = alike.judged_alike(turn.candidate, done.values())
            record = turn.take(
                baseline, leaders=queue.leaders, twin=twin, ahead=ahead, seconds=queue.seconds_for_a_turn
            )
            if baseline.ended:
                record |= {"status": "skipped", "unfinished": True, "reason": f"{_GONE} ({record['reason']})"}
                baseline = _again(setting)
            if not record.get("unfinished"):
                journal.append("candidate", **record)
            done[turn.candidate.key] = record
            setting.progress({"event": "done", "name": name, **_brief(record), "waiting": len(queue.waiting)})
            turn, ahead = ahead or queue.next_turn(journal), None
    finally:
        for unfinished in filter(None, (turn, ahead)):
            unfinished.close()
        baseline.close()
    rows = [row_of(record) for record in done.values()]
    for candidate in queue.waiting:
        reason = strategy.not_needed(candidate, rows) or UNTRIED
        done[candidate.key] = {
            "key": candidate.key, "candidate": to_json(candidate), "status": "skipped", "reason": reason
        }  # fmt: skip
    return _confirm_best(setting, done, journal)


def _again(setting: Setting) -> Worker:
    """A new process that holds the original."""
    with required("the original can't be timed any more; what was done is kept for --resume"):
        (baseline,) = setting.loaded(setting.original)
    baseline.pause()
    return baseline


class _Queue:
    """What is left to try, and what of it is worth a turn."""

    def __init__(self, setting: Setting, space: Space, done: dict[str, Json], *, budget: float) -> None:
        self._setting, self._done, self._budget = setting, done, budget
        self.waiting = [candidate for candidate in space.candidates if candidate.key not in done]

    @property
    def leaders(self) -> list[Row]:
        """The two first in line so far, as far as selection data can tell, of which one would do if the other fails."""
        return strategy.finalists(self._rows(), objective="latency", count=2)

    @property
    def best(self) -> Row | None:
        """The first of them."""
        return next(iter(self.leaders), None)

    @property
    def seconds_left(self) -> float:
        """For trying: what is left of the budget without what confirming is likely to take.

        The first in line is tried, and the second where the first may well fail.
        """
        study, leaders = self._setting.study, self.leaders
        tries = leaders[: 1 if leaders and leaders[0].chance >= gate.LIKELY else 2]
        confirming = [
            confirming_seconds(
                score_seconds=study["score_seconds"],
                selection=study["selection"],
                confirmation=study["confirmation"],
                speedup=row.speedup.estimate,
                start_seconds=study["start_seconds"],
                starts=statistics.LOOKS.at[0],
                is_first=place == 0,
            )
            for place, row in enumerate(tries)
            if row.speedup
        ]
        return self._setting.seconds_left - reserve(sum(confirming) or None, self._budget)

    @property
    def seconds_for_a_turn(self) -> float:
        """How long the next turn may take from now: one that hangs must not take all the time there is."""
        rest = self.seconds_left
        share = min(rest, max(_SHORT_TURN, _MOST_OF_A_LONG_REST * rest))
        return max(_LEAST_TURN if self.best else _LEAST_FIRST_TURN, share)

    def next_turn(self, journal: Journal, trying: Candidate | None = None) -> Turn | None:
        """Begin the most promising candidate's turn; None where the time left is for confirming.

        `trying`: the candidate whose turn it is.
        """
        while self.waiting:
            rows = self._rows()
            left = self.seconds_left
            if not self._done and trying is None:
                left = max(left, 1.0)  # However short the budget, one candidate gets its turn.
            chosen = strategy.choose(
                self.waiting,
                rows,
                seconds_left=left,
                seconds_each=alike.seconds_each(self.waiting, list(self._done.values())),
                rates=self._setting.rates,
                trying=trying,
            )
            if chosen is None or left <= 0:
                return None
            self.waiting.remove(chosen)
            reason = alike.rejected(chosen, self._done.values()) or strategy.skip_reason(
                chosen, rows, bounds_ms=self._setting.bounds_ms
            )
            if reason is None:
                return Turn(self._setting, chosen)
            record = {"key": chosen.key, "candidate": to_json(chosen), "status": "skipped", "reason": reason}
            journal.append("candidate", **record)
            self._done[chosen.key] = record
        return None

    def _rows(self) -> list[Row]:
        return [row_of(record) for record in self._done.values()]


def _confirm_best(setting: Setting, done: Mapping[str, Json], journal: Journal) -> Outcome:
    earlier = {event["key"]: _restored(event) for event in journal.events if event["event"] == "confirmation"}
    confidences = gate.confirmation_confidences()
    ranked = _ranked(setting, done, journal)
    confirmations: list[Json] = []
    for record, confidence in zip(_worth_confirming(ranked, earlier, confirmations), confidences, strict=False):
        found = earlier.get(record["key"])
        if found is None:
            share = max(LEAST_SECONDS / 2, setting.seconds_left)
            found = confirm(setting, record, confidence=confidence, seconds=share)
            journal.append("confirmation", **_storable(found))
        confirmations.append(found)
        if found["passed"]:
            return Outcome(records=list(done.values()), confirmations=confirmations, winner=found)
    return Outcome(records=list(done.values()), confirmations=confirmations, winner=None)


def _worth_confirming(ranked: list[Json], earlier: Collection[str], confirmations: list[Json]) -> Iterator[Json]:
    """Those in line, without what gives the very numbers that have failed by then: it would fail alike.

    `earlier`: keys of those that a run before this one confirmed; each has spent its share of the error.
    """
    for record in ranked:
        numbers = alike.numbers(Candidate.from_json(record["candidate"]))
        failed = [one for one in confirmations if one.get("verdict") and not one["verdict"]["passed"]]
        alike_failed = any(alike.numbers(Candidate.from_json(one["candidate"])) == numbers for one in failed)
        if record["key"] in earlier or not alike_failed:
            yield record


def _ranked(setting: Setting, done: Mapping[str, Json], journal: Journal) -> list[Json]:
    """The best within the gate, in the order in which they are to be confirmed.

    An earlier order holds until a resumed run has tried more. What was confirmed stays first even then: each
    confirmation has spent a share of the error allowance.
    """
    ordered = next((event for event in reversed(journal.events) if event["event"] in ("finalists", "candidate")), None)
    if ordered and ordered["event"] == "finalists":
        return [done[key] for key in ordered["keys"]]
    spent = [event["key"] for event in journal.events if event["event"] == "confirmation"]
    rows = [row_of(record) for key, record in done.items() if key not in spent]
    found = strategy.finalists(rows, objective=setting.objective, count=_FINALISTS)
    ranked = [done[row.candidate.key] for row in found]
    if setting.objective != "size":
        timed = head_to_head(setting, ranked)
        line = strategy.in_line([row_of(record) for record in timed], objective=setting.objective)
        ranked = [done[row.candidate.key] for row in line]
    ranked = [done[key] for key in spent] + ranked
    journal.append("finalists", keys=[record["key"] for record in ranked])
    return ranked


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
        chances=tuple(record.get("chances") or _SURE),
    )


def _brief(record: Json) -> dict[str, Any]:
    return {key: record[key] for key in ("status", "reason", "speedup", "median_ms", "drop") if key in record}


def _storable(confirmation: Json) -> Json:
    """Arrays as text: what goes into the journal is JSON, which has no -inf."""
    import numpy as np

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            data = base64.b64encode(value.tobytes()).decode()
            return {"dtype": str(value.dtype), "shape": list(value.shape), _BYTES: data}
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    return plain(confirmation)


def _restored(stored: Json) -> Any:
    """What `_storable` was given."""
    import numpy as np

    if isinstance(stored, list):
        return [_restored(item) for item in stored]
    if not isinstance(stored, dict):
        return stored
    if _BYTES in stored:
        data = np.frombuffer(base64.b64decode(stored[_BYTES]), stored["dtype"])
        return data.reshape(stored["shape"])
    return {key: _restored(item) for key, item in stored.items()}
