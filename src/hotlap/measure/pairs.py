"""Baseline and candidate in turn: one is timed while the other is stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hotlap.core import Start
from hotlap.errors import CandidateFailed, WorkerTimeout
from hotlap.measure.worker import Worker

_BLOCK = "hotlap.measure.timing:block"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """How long to time: `pairs` of neighbouring blocks, each about `seconds` long.

    Where calls are so slow that `enough_seconds` have passed, `least_pairs` of them do: what two starts differ by is
    more than what further blocks of one could make surer. A candidate whose first three blocks all take `hopeless`
    times as long as the baseline's is not timed further; two of them are neighbours, which one stall may spoil.
    """

    pairs: int
    seconds: float
    timeout: float = 120.0
    least_pairs: int = 4
    enough_seconds: float = math.inf
    hopeless: float = math.inf


SCREENING = Blocks(pairs=6, seconds=0.08, enough_seconds=2.0)
LONGER = Blocks(pairs=10, seconds=0.12, least_pairs=6, enough_seconds=4.0)


def measure(baseline: Worker, candidate: Worker, blocks: Blocks, until: float = math.inf) -> tuple[Start, float]:
    """Time both in turn; give the start and the share of the time that went into anything but timed calls.

    Each worker holds its callable in `state["call"]`. The order within a pair alternates (A B, B A, A B, ...), so
    that a steady drift hits both alike. Both are left stopped; a call wakes its worker. No pair is begun after `until`
    (on time.monotonic's clock). Raises WorkerTimeout where there are not `least_pairs` by then.
    """
    began, timed = time.perf_counter(), 0.0
    medians: dict[bool, list[float]] = {False: [], True: []}
    baseline.pause()
    candidate.pause()
    try:
        for index in range(blocks.pairs):
            if index >= blocks.least_pairs and time.perf_counter() - began >= blocks.enough_seconds:
                break
            if time.monotonic() > until:
                if index >= blocks.least_pairs:
                    break
                raise WorkerTimeout(f"there was time for {index} of {blocks.least_pairs} pairs of blocks")
            for is_candidate in (False, True) if index % 2 == 0 else (True, False):
                worker = candidate if is_candidate else baseline
                answer = worker.call(_BLOCK, seconds=blocks.seconds, timeout=blocks.timeout)
                worker.pause()
                timed += answer["timed_seconds"]
                medians[is_candidate].append(float(np.median(answer["times_ms"])))
            if index == 2 and min(medians[True]) > blocks.hopeless * max(medians[False]):
                break
    finally:
        baseline.pause()
        candidate.pause()
    whole = time.perf_counter() - began
    start = Start(baseline_ms=tuple(medians[False]), candidate_ms=tuple(medians[True]))
    return start, max(0.0, 1 - timed / whole)


def rounds(
    workers: Mapping[str, Worker], *, rounds: int, seconds: float, timeout: float = 120.0
) -> dict[str, list[float]]:
    """Time several in turn, every other round backwards; the median ms a call of each in each round.

    A worker that dies on the way is left out of the answer.
    """
    times: dict[str, list[float]] = {key: [] for key in workers}
    for index in range(rounds):
        for key in list(times)[:: 1 if index % 2 == 0 else -1]:
            try:
                answer = workers[key].call(_BLOCK, seconds=seconds, timeout=timeout)
                workers[key].pause()
            except CandidateFailed:
                del times[key]
                continue
            times[key].append(float(np.median(answer["times_ms"])))
    return times
