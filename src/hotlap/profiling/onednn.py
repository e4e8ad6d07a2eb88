"""What oneDNN does inside torch's operators: it reorders tensors and weights into layouts of its own and back.

torch's profiler sees one convolution; oneDNN's own log sees the convolution and the reorders around it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

_LEAST_CALLS, _SECONDS = 5, 0.2
_SLOW_SECONDS = 0.1
"""Of a call this long one is enough: shares of many operators hardly vary."""


def reorder_share(call: Callable[[], Any]) -> float:
    """The share of oneDNN's time that goes into reorders, in the fastest of a few calls; 0 where it does nothing."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return 0.0
    began = time.perf_counter()
    call()
    least = 1 if time.perf_counter() - began >= _SLOW_SECONDS else _LEAST_CALLS
    found: list[tuple[float, float]] = []
    end = time.perf_counter() + _SECONDS
    while len(found) < least or time.perf_counter() < end:
        found.append(reorder_times(_log(call)))
    reorders, whole = min(found, key=lambda times: times[1])
    return reorders / whole if whole else 0.0


def reorder_times(lines: Iterable[str]) -> tuple[float, float]:
    """Milliseconds of reorders and of everything in a log (fields: ..., `exec`, engine, primitive, ..., time)."""
    reorders = whole = 0.0
    for line in lines:
        fields = line.split(",")
        if "exec" not in fields or not line.startswith("onednn_verbose"):
            continue
        milliseconds = float(fields[-1])
        whole += milliseconds
        reorders += milliseconds if fields[fields.index("exec") + 2] == "reorder" else 0.0
    return reorders, whole


def _log(call: Callable[[], Any]) -> list[str]:
    """What oneDNN writes about a call. It writes to the process's standard output itself, past sys.stdout."""
    import torch

    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
                call()
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        log.seek(0)
        return log.read().decode(errors="replace").splitlines()
