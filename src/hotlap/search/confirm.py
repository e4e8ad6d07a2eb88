"""Confirmation: the winner measured again, time and accuracy, in fresh processes on data that chose nothing."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from hotlap import gate
from hotlap.core import TOLERANCE, Candidate, Json, Start, Verdict, to_json
from hotlap.errors import CandidateFailed
from hotlap.measure import pairs, statistics
from hotlap.search.setting import Setting

_WORK = "hotlap.search.work"
_LEAST_SCORING = 120.0
_LOADED_AT_ONCE = 2
"""Importing torch keeps one core busy for some seconds, so that two starts load in the time of one."""


def confirm(setting: Setting, record: Json, *, confidence: float, seconds: float) -> Json:
    """Confirm one candidate: a record with `passed`, `reason`, `speedup`, `drop`, and the evidence.

    `confidence`: this try's share of the error allowance. `seconds`: what timing may take past its first look.
    """
    candidate = Candidate.from_json(record["candidate"])
    answer: dict[str, Any] = {
        "key": candidate.key,
        "name": candidate.name,
        "candidate": record["candidate"],
        "built": record["built"],
        "confidence": confidence,
        "passed": False,
    }
    try:
        found = accuracy(setting, candidate, record["built"], confidence)
        verdict = judge(candidate, found, max_drop=setting.max_drop, confidence=confidence)
        answer |= {"verdict": to_json(verdict), "reason": verdict.reason, "evidence": found}
        if not verdict.passed:
            return answer
        starts = _speed(setting, candidate, record["built"], confidence, seconds)
    except CandidateFailed as error:
        return {**answer, "reason": f"failed when it was confirmed: {error}"}
    interval = statistics.speedup(starts, confidence=confidence)
    answer |= {
        "starts": [to_json(start) for start in starts],
        "speedup": to_json(interval),
        "median_ms": statistics.median_ms([start.candidate_ms for start in starts]),
        "baseline_ms": statistics.median_ms([start.baseline_ms for start in starts]),
        "spread_warning": statistics.spread_warning(starts),
    }
    faster = statistics.verdict(interval, setting.noise_floor) == "faster"
    if setting.objective != "size" and not faster:
        answer["reason"] = (
            f"not shown to be faster than the original beyond the noise floor of {setting.noise_floor:.1%}: "
            f"{interval.estimate:.2f}x ({interval.low:.2f} to {interval.high:.2f})"
        )
        return answer
    return {**answer, "passed": True}


def accuracy(setting: Setting, candidate: Candidate, built: str, confidence: float) -> Json:
    """Scores and outputs of original and candidate side by side, from a fresh process."""
    setting.progress({"event": "phase", "phase": f"confirming the accuracy of {candidate.name}"})
    with setting.worker(candidate.threads) as worker:
        found: Json = worker.call(
            f"{_WORK}.scoring:confirm",
            target=setting.target,
            candidate=to_json(candidate),
            built=built,
            work=str(setting.work),
            seed=setting.seed,
            threads=setting.threads,
            roles=["selection", "confirmation"] if candidate.same_numbers else ["confirmation"],
            max_drop=setting.max_drop,
            confidence=confidence,
            examples=setting.study["confirming"],
            timeout=max(_LEAST_SCORING, 4 * setting.seconds_left),
        )
        return found


def judge(candidate: Candidate, found: Json, *, max_drop: float | None, confidence: float) -> Verdict:
    """The verdict on what `scoring.confirm` found, by the rule that the candidate and the workload call for."""
    if candidate.same_numbers:
        return gate.judge_equivalence(found["differences"], TOLERANCE[candidate.precision])
    if found["verdict"] is not None:
        return Verdict.from_json(found["verdict"])
    if found["scores"] is not None and max_drop is not None:
        original = np.asarray(found["original_scores"])
        return gate.judge_drop(
            original,
            np.asarray(found["scores"]),
            max_drop=max_drop,
            confidence=confidence,
            slices=found["slices"],
            bounds=gate.score_bounds(original),
        )
    return gate.judge_agreement(
        max(found["differences"].values(), default=0.0),
        found["same_class"],
        found["compared"],
        max_drop=max_drop,
        confidence=confidence,
    )


def _speed(setting: Setting, candidate: Candidate, built: str, confidence: float, seconds: float) -> list[Start]:
    """Starts of fresh pairs of processes, until the looks at them settle the question or the time is spent.

    Of the error that "faster" may have over all tries, each gets the same share as in accuracy.
    """
    starts: list[Start] = []
    end = time.monotonic() + seconds
    while True:
        look = statistics.next_look(starts)
        settled = bool(starts) and statistics.settled(starts, noise_floor=setting.noise_floor, confidence=confidence)
        if look is None or settled or (statistics.speedup_ready(starts) and time.monotonic() > end):
            return starts
        while len(starts) < look:
            setting.progress({"event": "phase", "phase": f"timing {candidate.name}, start {len(starts) + 1}"})
            starts += _some_starts(setting, candidate, built, most=min(look - len(starts), _LOADED_AT_ONCE))


def _some_starts(setting: Setting, candidate: Candidate, built: str, *, most: int) -> list[Start]:
    """One start, or several whose processes are loaded side by side where memory has room; timed one after another."""
    peak = setting.study["peak_memory_bytes"]
    count = most if setting.memory_limit is None or 4 * most * peak <= setting.memory_limit else 1
    with ExitStack() as stack:
        workers = setting.loaded(*[setting.original, setting.built(candidate, built)] * count)
        for worker in workers:
            stack.enter_context(worker)
            worker.pause()
        return [
            pairs.measure(baseline, runner, pairs.LONGER)[0]
            for baseline, runner in zip(workers[::2], workers[1::2], strict=True)
        ]
