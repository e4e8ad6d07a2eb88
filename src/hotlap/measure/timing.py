"""Timing blocks of calls, in the process that makes them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# The first calls of a turn refill caches that the other process emptied, and wake pools of threads.
_WARM_SECONDS = 0.01
_COLD_SECONDS = 0.25
"""Of a call this long a cold start is less than 1% (docs/log.md), and there is none before those that are timed."""
_LEAST_CALLS = ((0.02, 5), (0.1, 3))
"""The fewest calls of a block for calls shorter than so many seconds; one of longer ones, which is as long a look."""


def block(state: dict[str, Any], *, seconds: float) -> dict[str, Any]:
    """Time calls of `state["call"]` for about `seconds`; give their times in ms and what warming up took.

    `state["call"]` takes nothing and comes back when its answer is there; where it makes several calls,
    `state["calls_in_one"]` says how many, and a time is one call's share.
    """
    call: Callable[[], Any] = state["call"]
    began = time.perf_counter()
    usual = state.get("call_seconds", 0.0)
    least_calls = next((calls for seconds, calls in _LEAST_CALLS if usual < seconds), 1)
    while usual < _COLD_SECONDS:
        call()
        if time.perf_counter() - began >= _WARM_SECONDS:
            break
    times: list[int] = []
    clock = time.perf_counter_ns
    gc.disable()
    try:
        start = last = clock()
        end = start + int(seconds * 1e9)
        while last < end or len(times) < least_calls:
            call()
            now = clock()
            times.append(now - last)
            last = now
    finally:
        gc.enable()
    state["call_seconds"] = float(np.median(times)) / 1e9
    return {
        "times_ms": np.asarray(times, np.float64) / 1e6 / state.get("calls_in_one", 1),
        "timed_seconds": (last - start) / 1e9,
        "warming_seconds": start / 1e9 - began,
    }
