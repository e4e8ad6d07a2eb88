"""One candidate's turn: built, checked, timed against the baseline, scored on selection data, judged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from hotlap import gate
from hotlap.core import TOLERANCE, Candidate, Json, Verdict, to_json
from hotlap.errors import CandidateFailed, WorkerTimeout
from hotlap.measure import pairs, statistics
from hotlap.measure.worker import Worker
from hotlap.search import alike
from hotlap.search.setting import LOAD_SECONDS, Setting
from hotlap.search.strategy import Row

_WORK = "hotlap.search.work"
_LONGEST_CHECK = 120.0
_NOT_WORTH_SCORING = 0.4
"""A candidate slower than this share of the best so far is not scored: it could not win."""
_NO_LONGER_WORTH_SCORING = 0.9
"""The same once two with other numbers than each other are likely to be confirmed.

How likely is known of the mean score alone: slices and a `metric` of the workload's own are judged when one is
confirmed, so that where there are any, only what changes no numbers counts as likely."""


class Turn:
    """One candidate's turn. Its build begins at once, beside the turn before it; `take` does the rest."""

    def __init__(self, setting: Setting, candidate: Candidate) -> None:
        self.candidate = candidate
        self._setting = setting
        self._began = time.monotonic()
        self._failure: CandidateFailed | None = None
        self._worker = setting.worker(candidate.threads)
        try:
            self._worker.begin(
                f"{_WORK}.building:build",
                target=setting.target,
                candidate=to_json(candidate),
                work=str(setting.work),
                seed=setting.seed,
                threads=setting.threads,
            )
        except CandidateFailed as error:
            self._failure = error

    def take(
        self, baseline: Worker, *, leaders: Sequence[Row], twin: Json | None, ahead: Turn | None, seconds: float
    ) -> Json:
        """Check, time, score and judge it; a record for the journal, whatever becomes of it.

        `leaders`: the best so far, and one to fall back on. `twin`: the record of one that gives the same numbers and
        was scored. `ahead`: the next turn, whose build stands still while this one is timed. `seconds`: what is left
        for it; past them the record says `unfinished`, and nothing is known of the candidate.
        """
        record: dict[str, Any] = {"key": self.candidate.key, "candidate": to_json(self.candidate)}
        end = time.monotonic() + seconds
        try:
            self._build(record, end)
            if twin is None:
                self._check(record)
            self._worker.pause()
            if ahead:
                ahead._worker.pause()
            try:
                _time(self._setting, self.candidate, baseline, record)
            finally:
                if ahead:
                    ahead._worker.resume()
            if not _is_out(self._setting, record, leaders, twin):
                if twin is None:
                    _score(self._setting, self.candidate, self._worker, record, end)
                else:
                    self._check(record)
                    record |= alike.verdict_of(twin)
        except WorkerTimeout as error:
            record |= {"status": "failed", "reason": f"{error}"}
            if time.monotonic() >= end:
                reason = f"not done after {time.monotonic() - self._began:.0f} s, the most that this budget allows it;"
                record |= {"status": "skipped", "reason": f"{reason} more --budget gives it longer", "unfinished": True}
        except CandidateFailed as error:
            record |= {"status": "failed", "reason": f"{error}"}
        finally:
            self.close()
        return {**record, "seconds": time.monotonic() - self._began}

    def close(self) -> None:
        """End its process."""
        self._worker.close()

    def _build(self, record: dict[str, Any], end: float) -> None:
        if self._failure:
            raise self._failure
        built = self._worker.finish(max(1.0, end - time.monotonic()))
        record |= {"built": built["folder"], "bytes": built["bytes"], "build_seconds": built["seconds"]}

    def _check(self, record: dict[str, Any]) -> None:
        setting, candidate = self._setting, self.candidate
        record["check"] = self._worker.call(
            f"{_WORK}.checking:check",
            target=setting.target,
            candidate=to_json(candidate),
            built=record["built"],
            batch=setting.batch,
            threads=setting.threads,
            timeout=_LONGEST_CHECK,
        )


def _time(setting: Setting, candidate: Candidate, baseline: Worker, record: dict[str, Any]) -> None:
    (runner,) = setting.loaded(setting.built(candidate, record["built"]))
    with runner:
        start, overhead = pairs.measure(baseline, runner, pairs.SCREENING)
        record["peak_memory_bytes"] = runner.call(f"{_WORK}.holding:peak_memory", timeout=LOAD_SECONDS)
    interval = statistics.screening(start)
    record |= {
        "start": to_json(start),
        "speedup": to_json(interval),
        "median_ms": float(np.median(start.candidate_ms)),
        "overhead": overhead,
    }


def _is_out(setting: Setting, record: dict[str, Any], leaders: Sequence[Row], twin: Json | None) -> bool:
    """Whether it is too slow to be worth scoring or checking; the record then says so."""
    if setting.objective == "size":
        return False
    slower = alike.slower_than(twin, record) if twin else None
    if slower:
        record |= {"status": "dropped", "reason": slower}
        return True
    speedup = record["speedup"]
    if speedup["high"] < 1.0:
        record |= {"status": "dropped", "reason": f"slower than the original ({speedup['estimate']:.2f}x)"}
        return True
    if leaders and _is_behind(record, leaders[0], _NOT_WORTH_SCORING):
        reason = f"{record['median_ms']:.3g} ms a call, far behind {leaders[0].median_ms:.3g} ms, so not scored"
        record |= {"status": "dropped", "reason": reason}
        return True
    unforeseen = setting.study["metric"] or setting.study["sliced"]
    likely = [row for row in leaders if row.chance >= gate.LIKELY and (row.candidate.same_numbers or not unforeseen)]
    differ = len({alike.numbers(row.candidate) for row in likely}) > 1
    if differ and all(_is_behind(record, row, _NO_LONGER_WORTH_SCORING) for row in likely):
        longest = max(row.median_ms or 0.0 for row in likely)
        reason = (
            f"{record['median_ms']:.3g} ms a call; two that take {longest:.3g} ms or less are likely to be confirmed"
        )
        record |= {"status": "dropped", "reason": f"{reason}, so not scored"}
        return True
    return False


def _score(setting: Setting, candidate: Candidate, worker: Worker, record: dict[str, Any], end: float) -> None:
    began = time.monotonic()
    found = worker.call(
        f"{_WORK}.scoring:score",
        target=setting.target,
        candidate=to_json(candidate),
        built=record["built"],
        work=str(setting.work),
        role="selection",
        batches=setting.study["selection_batches"],
        seed=setting.seed,
        threads=setting.threads,
        timeout=max(1.0, end - time.monotonic()),
    )
    record |= judge_selection(setting, candidate, found) | {"score_seconds": time.monotonic() - began}


def _is_behind(record: Json, row: Row, share: float) -> bool:
    """By its own time and by its ratio to the baseline: either alone drifts with what else the machine does."""
    if row.speedup is None or row.median_ms is None:
        return False
    slower = record["median_ms"] * share > row.median_ms
    return slower and bool(record["speedup"]["estimate"] < share * row.speedup.estimate)


def judge_selection(setting: Setting, candidate: Candidate, found: Json) -> Json:
    """What selection data says: status, reason and the drop expected. It proves nothing: confirmation does.

    `passed` is what may be confirmed; with a `distance` it would not be if other examples were just like these.
    """
    scores = None if found["scores"] is None else np.asarray(found["scores"])
    answer: dict[str, Any] = {"score": None if scores is None else float(scores.mean())}
    answer["differences"] = found["differences"]
    if candidate.same_numbers:
        verdict = gate.judge_equivalence(found["differences"], TOLERANCE[candidate.precision])
        if scores is not None:
            answer["drop"] = _drop(setting, scores)
    elif scores is not None and setting.max_drop is not None:
        original = np.asarray(setting.study["selection_scores"])
        answer["drop"] = _drop(setting, scores)
        answer["chances"] = [
            gate.chance_to_pass(
                original,
                scores,
                examples=setting.study["confirmation"],
                max_drop=setting.max_drop,
                confidence=confidence,
                bounds=gate.score_bounds(original),
            )
            for confidence in gate.confirmation_confidences()
        ]
        count = max(setting.study["confirmation"], len(scores))
        # The interval that confirmation would find if its examples flipped at the rate of these.
        verdict = gate.judge_drop(
            np.resize(original, count),
            np.resize(scores, count),
            max_drop=setting.max_drop,
            confidence=gate.confirmation_confidences()[0],
            slices=None,
            bounds=gate.score_bounds(original),
        )
    elif found.get("verdict") is not None:
        verdict = Verdict.from_json(found["verdict"])
    else:
        verdict = gate.judge_agreement(
            max(found["differences"].values(), default=0.0),
            found["same_class"],
            found["compared"],
            max_drop=setting.max_drop,
            confidence=gate.confirmation_confidences()[0],
        )
    reason = verdict.reason
    if setting.study.get("metric"):
        reason = reason.replace("accuracy not measured", "the workload's metric is asked when it is confirmed")
    answer |= {"gate": verdict.rule, "status": "passed", "reason": reason}
    if verdict.passed:
        return answer
    answer["distance"] = verdict.distance
    likely = answer.get("chances", [0.0])[0]
    if likely < gate.WORTH_A_TRY:
        return {**answer, "status": "rejected"}
    return {**answer, "reason": f"{verdict.reason}; other examples confirm it with {100 * likely:.0f} chances in 100"}


def _drop(setting: Setting, scores: Any) -> Json:
    original = np.asarray(setting.study["selection_scores"])
    return to_json(gate.drop_interval(original, scores, confidence=0.95, bounds=gate.score_bounds(original)))
