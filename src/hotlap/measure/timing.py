"""Timing blocks of calls, in the process that makes them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# The first calls of a turn refill caches that the other process emptied, and wake pools of threads. Of a call this
# long that is little, and the median of three leaves a slow first one out.
_WARM_SECONDS = 0.01
_LONG_SECONDS = 0.1
_LEAST_CALLS, _LEAST_LONG_CALLS = 5, 3


def block(state: dict[str, Any], *, seconds: float) -> dict[str, Any]:
    """Time calls of `state["call"]` for about `seconds`; give their times in ms and what warming up took.

    `state["call"]` takes nothing and comes back when its answer is there.
    """
    call: Callable[[], Any] = state["call"]
    began = time.perf_counter()
    is_long = state.get("call_seconds", 0.0) >= _LONG_SECONDS
    least_calls = _LEAST_LONG_CALLS if is_long else _LEAST_CALLS
    while not is_long:
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
        "times_ms": np.asarray(times, np.float64) / 1e6,
        "warming_seconds": start / 1e9 - began,
    }
