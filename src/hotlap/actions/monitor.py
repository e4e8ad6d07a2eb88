"""`monitor`: memory and utilisation of devices and processes, live or to a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hotlap.core import Json
from hotlap.errors import InputError
from hotlap.training.memory.timeline import as_json, open_lines, watch, write_line
from hotlap.training.memory.use import MemoryUse, largest_processes, look

_LARGEST = 8
"""Where no process is named, so many of the user's own are watched: those that hold the most memory."""


def monitor(
    pids: Sequence[int] = (),
    *,
    every: float = 1.0,
    seconds: float | None = None,
    out: Path | None = None,
    progress: Callable[[Json], None] | None = None,
) -> Json:
    """Look at every GPU and at processes with all they started; give the peaks, as plain JSON.

    pids: the processes; default: those of the user's that hold the most memory. It ends when all that were named are
    gone, after `seconds`, or with Ctrl-C. out: a file that gets one JSON line a look. progress: gets each look, as a
    line of the file has it. Raises InputError for a process that is not there, OutputError for the file.
    """
    if every <= 0:
        raise InputError(f"--every {every}: give a time above 0")
    for pid in pids:
        look([pid])
    file = None if out is None else open_lines(out)
    peaks = Peaks()
    try:
        for use in _looks(pids, every, math.inf if seconds is None else seconds):
            line = as_json(use)
            peaks.take(use)
            if file is not None:
                write_line(file, line)
            if progress is not None:
                progress(line)
    except KeyboardInterrupt:
        pass  # The way to end it: what was seen so far is the answer.
    finally:
        if file is not None:
            file.close()
    return peaks.to_json()


def _looks(pids: Sequence[int], every: float, seconds: float) -> Iterator[MemoryUse]:
    if pids:
        yield from watch(pids, every=every, seconds=seconds)
        return
    # Which processes are the largest changes, so each look chooses anew.
    yield from watch(lambda: largest_processes(_LARGEST), every=every, seconds=seconds)


class Peaks:
    """The most that was seen of everything, in bytes."""

    def __init__(self) -> None:
        self.looks, self._tree, self._least_available = 0, 0, 0
        self._processes: dict[tuple[int, int], Json] = {}
        self._gpus: dict[int, Json] = {}

    def take(self, use: MemoryUse) -> None:
        """Take one look in."""
        self._least_available = min(self._least_available, use.available_bytes) if self.looks else use.available_bytes
        self.looks += 1
        self._tree = max(self._tree, use.tree_bytes)
        for one in use.processes:
            same = one.pid, one.started
            before = self._processes.get(same, {}).get("peak_bytes", 0)
            peak = max(before, one.resident_bytes, one.peak_bytes or 0)
            self._processes[same] = {"pid": one.pid, "root": one.root, "name": one.name, "peak_bytes": peak}
        for gpu in use.gpus:
            before = self._gpus.get(gpu.index, {}).get("peak_used_bytes", 0)
            peak = max(before, gpu.used_bytes)
            self._gpus[gpu.index] = {"index": gpu.index, "name": gpu.name, "peak_used_bytes": peak}

    def to_json(self) -> Json:
        """Plain JSON: `looks`, `peak_tree_bytes`, `least_available_bytes`, `processes`, `gpus`."""
        return {
            "looks": self.looks,
            "peak_tree_bytes": self._tree,
            "least_available_bytes": self._least_available,
            "processes": sorted(self._processes.values(), key=lambda one: -one["peak_bytes"]),
            "gpus": list(self._gpus.values()),
        }
