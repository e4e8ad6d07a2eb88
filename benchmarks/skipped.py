"""What a search skipped because the machine's limit left it no chance, run after all: was a winner lost?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hotlap.core import Candidate, Json, to_json
from hotlap.errors import CandidateFailed
from hotlap.measure import pairs, statistics
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS, start_worker

_WORK = "hotlap.search.work"
_BUILD_SECONDS = 900.0


def by_limit(journal: Path) -> list[Candidate]:
    """The candidates that a search's journal says were skipped for the machine's limit."""
    events = map(json.loads, journal.read_text().splitlines())
    return [
        Candidate.from_json(event["candidate"])
        for event in events
        if event["event"] == "candidate"
        and event["status"] == "skipped"
        and event["reason"].startswith("the machine's limit")
    ]


def run(candidate: Candidate, *, target: str, batch: int, work: Path, threads: int, winner_ms: float) -> Json:
    """Build a skipped candidate, whatever its accuracy, and time it in turn with the original.

    `lost`: it is faster than the winner was, `winner_ms` a call, by its own median.
    """
    row: dict[str, Any] = {"name": candidate.name, "lost": False}
    shared = {"target": target, "candidate": to_json(candidate), "threads": threads}
    try:
        with start_worker(candidate.threads, None, work) as builder:
            built = builder.call(f"{_WORK}.building:build", **shared, work=str(work), seed=0, timeout=_BUILD_SECONDS)[
                "folder"
            ]
            about = builder.call("rivals:about", target=target, batch=batch, timeout=LOAD_SECONDS)
        with start_worker(threads, None, work) as eager, start_worker(candidate.threads, None, work) as runner:
            _hold(eager, runner, shared, built, about, batch)
            start, _ = pairs.measure(eager, runner, pairs.SCREENING)
    except CandidateFailed as error:
        return {**row, "failure": str(error)}
    median = statistics.median_ms([start.candidate_ms])
    return {
        **row,
        "median_ms": median,
        "speedup": to_json(statistics.screening(start)),
        "lost": bool(median < winner_ms),
    }


def _hold(eager: Worker, runner: Worker, shared: Json, built: str, about: Json, batch: int) -> None:
    eager.call(
        f"{_WORK}.holding:load_original",
        target=shared["target"],
        batch=batch,
        threads=shared["threads"],
        device="cpu",
        timeout=LOAD_SECONDS,
    )
    runner.call(
        f"{_WORK}.holding:load",
        candidate=shared["candidate"],
        built=built,
        signature=about["signature"],
        arrays=about["arrays"],
        timeout=LOAD_SECONDS,
    )
