"""`compare`: two targets or artifacts, timed in turn, with an interval."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hotlap.actions.sides import is_artifact
from hotlap.core import Array, Json, Start, to_json
from hotlap.machine.facts import facts
from hotlap.measure import pairs, statistics
from hotlap.measure.required import required
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS, start_worker
from hotlap.workload.target import target_of
from hotlap.workload.workload import Workload

_SIDES = "hotlap.actions.sides"


def compare(
    a: str | Path | Workload,
    b: str | Path | Workload,
    *,
    batch: int = 1,
    budget: float = 60.0,
    threads: int | None = None,
    device: str | None = None,
    progress: Callable[[Json], None] | None = None,
) -> Json:
    """Time `a` and `b` in turn; give `{"a", "b", "speedup" (of b over a), "verdict", "noise_floor"}`.

    Each is a Workload, a target or an artifact folder; both must take the same inputs. budget: seconds, past which
    no further pair of processes is started. Times are in ms a call of `batch` rows.
    """
    tell = progress or (lambda event: None)
    machine = facts()
    count = threads or machine.cores
    where = device or ("cuda" if machine.gpus else "cpu")
    sides = [target_of(side) for side in (a, b)]
    source = next((side for side in sides if not is_artifact(side)), sides[0])
    with required(f"{source} can't be opened"), start_worker(count, None) as worker:
        arrays = worker.call(f"{_SIDES}:inputs", target=source, batch=batch, threads=count, timeout=LOAD_SECONDS)[
            "arrays"
        ]

    def hold(side: str) -> Worker:
        with required(f"{side} can't be loaded"), ExitStack() as stack:
            worker = stack.enter_context(start_worker(count, None))
            worker.call(
                f"{_SIDES}:hold", target=side, arrays=arrays, batch=batch, threads=count, device=where,
                timeout=LOAD_SECONDS,
            )  # fmt: skip
            stack.pop_all()
        return worker

    # Both are loaded before any is timed, so that what is wrong with the second is said at once.
    tell({"event": "phase", "phase": f"loading {sides[1]}"})
    hold(sides[1]).close()
    end = time.monotonic() + budget
    tell({"event": "phase", "phase": f"timing {sides[0]} against itself"})
    with required(f"{sides[0]} can't be timed"), hold(sides[0]) as first, hold(sides[0]) as again:
        floor = statistics.noise_floor([pairs.measure(first, again, pairs.SCREENING)[0]])
    with required(f"{sides[0]} and {sides[1]} can't be timed in turn"):
        starts = _starts(hold, sides, floor, end, tell)
    interval = statistics.speedup(starts)
    warning = statistics.spread_warning(starts)
    return {
        "a": _figures(sides[0], [start.baseline_ms for start in starts], arrays),
        "b": _figures(sides[1], [start.candidate_ms for start in starts], arrays),
        "speedup": to_json(interval),
        "verdict": statistics.verdict(interval, floor),
        "noise_floor": floor,
        "batch": batch,
        "threads": count,
        "device": where,
        "starts": [to_json(start) for start in starts],
        "warnings": [warning] if warning else [],
    }


def _starts(
    hold: Callable[[str], Worker], sides: list[str], floor: float, end: float, tell: Callable[[Json], None]
) -> list[Start]:
    starts: list[Start] = []
    while True:
        look = statistics.next_look(starts)
        settled = bool(starts) and statistics.settled(starts, noise_floor=floor)
        if look is None or settled or (statistics.speedup_ready(starts) and time.monotonic() > end):
            return starts
        while len(starts) < look:
            tell({"event": "phase", "phase": f"start {len(starts) + 1}"})
            with hold(sides[0]) as first, hold(sides[1]) as second:
                starts.append(pairs.measure(first, second, pairs.LONGER)[0])


def _figures(name: str, blocks: list[tuple[float, ...]], arrays: list[Array]) -> dict[str, Any]:
    return {
        "name": name,
        "median_ms": statistics.median_ms(blocks),
        "inputs": [{"dtype": str(array.dtype), "shape": list(array.shape)} for array in arrays],
    }
