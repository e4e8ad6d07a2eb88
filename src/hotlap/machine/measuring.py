"""Measures one device's limits; run as a process of its own by `limits.py`, since it loads torch and OpenVINO.

Arguments: the file to write, device, threads, last-level cache in bytes, memory that we may use in bytes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hotlap.core import Device, Json
from hotlap.machine.kernels import (
    Kernel,
    empty_calls,
    empty_sessions,
    openvino_kernels,
    passes_over_memory,
    torch_kernels,
)

# All in all some five seconds, of which loading torch and OpenVINO takes two.
_RATES_SECONDS = 1.0
_TURN_SECONDS = 0.02
_PASS_SECONDS = 0.02
_LAUNCH_SECONDS = 0.02
_LAUNCHES = 50
# A larger product is tried only where one call of it should take no longer than this.
_LONGEST_CALL_SECONDS = 0.25
# After its first turn a kernel that reached less than this share of its format's best gets no further turn.
_WORTH_ANOTHER_TURN = 0.7
_WORKING_SETS = tuple(2**exponent for exponent in (20, 22, 24, 26))
# On a GPU 256 MiB pass so fast that launching the pass takes a share of it.
_LARGEST_WORKING_SET: dict[Device, int] = {"cpu": 2**28, "cuda": 2**31}

Synchronize = Callable[[], Any]


def measure(device: Device, threads: int, cache_bytes: int, memory_bytes: int) -> Json:
    """Measure; gives the fields of `limits.Limits` that are measured."""
    synchronize = _set_up(device, threads)
    sizes = _working_sets(device, cache_bytes, memory_bytes)
    # Twice, with the products between: a while in which others are busy then spoils one of the two only.
    first = [_bandwidth(size, device, synchronize) for size in sizes]
    rates = _rates(_kernels(device, threads), synchronize)
    second = [_bandwidth(size, device, synchronize) for size in sizes]
    launches = _launches(device, synchronize)
    calls = _calls(device, threads, synchronize)
    return {
        "rates": {precision: [turn.rate, name] for precision, (name, turn) in rates.items()},
        "bandwidth": [[size, *max(pair)] for size, *pair in zip(sizes, first, second, strict=True)],
        "launches": launches,
        "calls": calls,
        "others_shares": {precision: turn.others_share for precision, (_, turn) in rates.items()},
    }


def _set_up(device: Device, threads: int) -> Synchronize:
    try:
        import torch
    except ImportError:
        return lambda: None
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def _kernels(device: Device, threads: int) -> Iterable[Kernel]:
    """Every kernel of the libraries that are installed; nothing larger than the machine can do in good time."""
    sources: list[Callable[[], Iterable[Kernel]]] = [lambda: torch_kernels(device)]
    if device == "cpu":
        sources.append(lambda: openvino_kernels(threads))
    for source in sources:
        try:
            yield from source()
        except ImportError:
            continue


@dataclass(frozen=True, slots=True, order=True)
class Turn:
    """The fastest call of a turn: multiply-adds a second, and the share of its CPU time that others got."""

    rate: float
    others_share: float


def _rates(kernels: Iterable[Kernel], synchronize: Synchronize) -> dict[str, tuple[str, Turn]]:
    """For each format the kernel that was fastest, and how fast.

    Turns are short and come round several times: what else the machine does slows some of them, not the best.
    """
    best: dict[Kernel, Turn] = {}
    for kernel in kernels:
        if not _too_slow(kernel, best):
            best[kernel] = _turn(kernel, synchronize)
    end = time.perf_counter() + _RATES_SECONDS
    while time.perf_counter() < end:
        tops = _tops(best)
        for kernel in [k for k in best if best[k].rate >= _WORTH_ANOTHER_TURN * best[tops[k.precision]].rate]:
            best[kernel] = max(best[kernel], _turn(kernel, synchronize))
    return {precision: (kernel.name, best[kernel]) for precision, kernel in _tops(best).items()}


def _tops(best: Mapping[Kernel, Turn]) -> dict[str, Kernel]:
    tops: dict[str, Kernel] = {}
    for kernel in sorted(best, key=lambda kernel: best[kernel]):
        tops[kernel.precision] = kernel
    return tops


def _too_slow(kernel: Kernel, best: Mapping[Kernel, Turn]) -> bool:
    """Whether one call would take too long, judged by what the same library did in that format so far."""
    family = kernel.name.split()[0]
    alike = [k for k in best if k.precision == kernel.precision and k.name.split()[0] == family]
    return bool(alike) and kernel.multiply_adds / max(best[k].rate for k in alike) > _LONGEST_CALL_SECONDS


def _turn(kernel: Kernel, synchronize: Synchronize) -> Turn:
    """Call a kernel for a short while, twice at least: the first call warms up."""
    kernel.call()
    synchronize()
    best = Turn(0.0, 0.0)
    end = time.perf_counter() + _TURN_SECONDS
    while not best.rate or time.perf_counter() < end:
        before = _scheduled_ns()
        began = time.perf_counter()
        kernel.call()
        synchronize()
        seconds = time.perf_counter() - began
        ran, waited = (after - earlier for after, earlier in zip(_scheduled_ns(), before, strict=True))
        best = max(best, Turn(kernel.multiply_adds / seconds, waited / max(1, ran + waited)))
    return best


def _working_sets(device: Device, cache_bytes: int, memory_bytes: int) -> list[int]:
    """Sizes to go through: within the caches, and one that no cache holds."""
    largest = min(max(_LARGEST_WORKING_SET[device], 4 * cache_bytes), memory_bytes // 8)
    return [*(size for size in _WORKING_SETS if size < largest), largest]


def _bandwidth(size: int, device: Device, synchronize: Synchronize) -> tuple[float, str]:
    passes = passes_over_memory(size, device)
    return max((moved / shortest(call, synchronize, _PASS_SECONDS), name) for name, moved, call in passes)


def _launches(device: Device, synchronize: Synchronize) -> Json:
    """Milliseconds a call of operations with no work in them; empty without torch."""
    try:
        return {kind: _milliseconds(call, synchronize) for kind, call in empty_calls(device)}
    except ImportError:
        return {}


def _calls(device: Device, threads: int, synchronize: Synchronize) -> Json:
    """Milliseconds a call of each runtime's session with no work in it; only of those that are installed."""
    found = {}
    for name, make in empty_sessions(threads) if device == "cpu" else ():
        try:
            found[name] = _milliseconds(make(), synchronize)
        except ImportError:
            continue
    return found


def _milliseconds(call: Callable[[], Any], synchronize: Synchronize) -> float:
    def many() -> None:
        for _ in range(_LAUNCHES):
            call()

    return 1000 * shortest(many, synchronize, _LAUNCH_SECONDS) / _LAUNCHES


def shortest(call: Callable[[], Any], synchronize: Synchronize, seconds: float) -> float:
    """The shortest of the calls that fit into `seconds`, in seconds; two at least, the first warms up."""
    call()
    synchronize()
    best = float("inf")
    end = time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        synchronize()
        best = min(best, time.perf_counter() - began)
    return best


def _scheduled_ns() -> tuple[int, int]:
    """What this process's threads have run so far, and what they waited for a CPU that others had (Linux)."""
    ran = waited = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            times = file.read_text().split()
        except OSError:
            continue
        ran, waited = ran + int(times[0]), waited + int(times[1])
    return ran, waited


if __name__ == "__main__":
    _file, _device, *_numbers = sys.argv[1:]
    Path(_file).write_text(json.dumps(measure(cast(Device, _device), *map(int, _numbers))))
