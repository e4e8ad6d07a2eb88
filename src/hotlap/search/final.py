"""The promising, measured longer and against each other: which of them is tried first for confirmation.

Each was screened against the baseline at another time. Between candidates that are close that says little; taking
turns with each other, drift hits all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress

import numpy as np

from hotlap.core import Candidate, Json
from hotlap.errors import CandidateFailed
from hotlap.measure import pairs
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS, Setting

_ROUNDS = 8
_SECONDS = 0.1


def head_to_head(setting: Setting, records: Sequence[Json]) -> list[Json]:
    """The records, fastest first, as blocks taken in turn by all of them say; one that fails goes last."""
    if len(records) < 2:
        return list(records)
    names = ", ".join(record["candidate"]["name"] for record in records)
    setting.progress({"event": "phase", "phase": f"timing the best against each other: {names}"})
    with ExitStack() as stack:
        workers = _loaded(setting, records, stack)
        relative = order(pairs.rounds(workers, rounds=_ROUNDS, seconds=_SECONDS))
    return sorted(records, key=lambda record: relative.get(record["key"], float("inf")))


def _loaded(setting: Setting, records: Sequence[Json], stack: ExitStack) -> dict[str, Worker]:
    """Processes that hold them, by key, stopped; those that fail are left out."""
    begun: dict[str, Worker] = {}
    for record in records:
        with suppress(CandidateFailed):
            load = setting.built(Candidate.from_json(record["candidate"]), record["built"])
            begun[record["key"]] = stack.enter_context(setting.begun(load))
    workers = {}
    for key, worker in begun.items():
        with suppress(CandidateFailed):
            worker.finish(LOAD_SECONDS)
            worker.pause()
            workers[key] = worker
    return workers


def order(times: dict[str, list[float]]) -> dict[str, float]:
    """Each one's time as a share of its round's geometric mean: the median over the rounds."""
    if not times:
        return {}
    keys = list(times)
    logs = np.log([times[key] for key in keys])
    shares = np.median(logs - logs.mean(axis=0), axis=1)
    return dict(zip(keys, np.exp(shares).tolist(), strict=True))
