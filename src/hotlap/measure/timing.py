"""Timing blocks of calls, in the process that makes them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# A first few calls of a turn refill caches that the other process emptied, and wake pools of threads.
_WARM_CALLS = 2
_WARM_SECONDS = 0.01


def block(state: dict[str, Any], *, seconds: float, least_calls: int = 3) -> dict[str, Any]:
    """Time calls of `state["call"]` for about `seconds`; give their times in ms and what warming up took.

    `state["call"]` takes nothing and comes back when its answer is there.
    """
    call: Callable[[], Any] = state["call"]
    began = time.perf_counter()
    for _ in range(_WARM_CALLS):
        call()
    while time.perf_counter() - began < _WARM_SECONDS:
        call()
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
    return {
        "times_ms": np.asarray(times, np.float64) / 1e6,
        "warming_seconds": start / 1e9 - began,
    }
