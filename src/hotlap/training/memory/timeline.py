"""A timeline of memory: looks at regular intervals, to a file as they come, with the peak kept."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from hotlap.core import Json, to_json
from hotlap.errors import InputError, OutputError
from hotlap.training.memory.use import MemoryUse, look, started


def as_json(use: MemoryUse) -> Json:
    """A look as a line of the file has it: the dataclass's fields, and what is derived from them."""
    plain = to_json(use)
    for gpu, one in zip(plain["gpus"], use.gpus, strict=True):
        if one.allocator is not None:
            gpu["allocator"]["fragmentation"] = one.allocator.fragmentation
    return {**plain, "tree_bytes": use.tree_bytes}


def watch(
    pids: Iterable[int] | Callable[[], Iterable[int]],
    *,
    every: float = 1.0,
    seconds: float = math.inf,
) -> Iterator[MemoryUse]:
    """A look every so many seconds, until the last of the processes is gone or `seconds` are over, and one then; one at
    least.

    `pids` may be a function that chooses them anew for each look.
    """
    chosen = None if callable(pids) else {pid: started(pid) for pid in pids}
    due = time.monotonic()
    end = due + seconds
    while True:
        yield look(pids() if callable(pids) else chosen, ended=True)
        now = time.monotonic()
        if now >= end:
            return
        due = min(max(due + every, now), end)
        time.sleep(max(0.0, due - now))
        if chosen is not None:
            # Another process may have the number of one that has ended.
            chosen = {pid: began for pid, began in chosen.items() if began is not None and started(pid) == began}
            if not chosen:
                return


class Timeline:
    """Looks at this process and all it starts from a thread, while the `with` block runs.

        with Timeline(every=0.5, file=Path("memory.jsonl")) as timeline:
            train()
        print(timeline.peak_bytes)

    `file` gets one JSON line a look, and one a `mark`. `peak_bytes` is the largest sum over the processes that
    was seen. `pids` are other processes to look at instead, which may end meanwhile. Raises OutputError where the file
    can't be written, InputError for a process that is not there at the beginning.
    """

    def __init__(self, *, every: float = 1.0, file: Path | None = None, pids: Iterable[int] | None = None) -> None:
        if not 0 < every < math.inf:
            raise InputError(f"every {every}: give seconds above 0 between two looks")
        self._every, self._pids = every, list(pids) if pids is not None else None
        self._path, self._file = file, None if file is None else open_lines(file)
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak_bytes = 0
        self.looks = 0

    def mark(self, text: str) -> None:
        """Note in the file what begins now, such as `epoch 2`."""
        self._write({"when": time.time(), "mark": text})

    def __enter__(self) -> Self:
        try:
            self._look(ended=False)
        except BaseException:
            self._close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._look()
        finally:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            # The last look tells, unless there is room again by then.
            with suppress(OutputError):
                self._look()

    def _look(self, *, ended: bool = True) -> None:
        use = look(self._pids, ended=ended)
        with self._lock:
            self.looks += 1
            self.peak_bytes = max(self.peak_bytes, use.tree_bytes)
        self._write(as_json(use))

    def _write(self, value: Json) -> None:
        if self._file is not None:
            with self._lock:
                write_line(self._file, value)


def open_lines(path: Path) -> IO[bytes]:
    """A file to write JSON lines to; raises OutputError where it exists or can't be written."""
    try:
        return path.open("xb", buffering=0)
    except FileExistsError:
        raise OutputError(f"{path} exists already; give another file or remove it") from None
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}") from error


def write_line(file: IO[bytes], value: Json) -> None:
    """One whole line, at once, so that whoever reads along sees no half one. Raises OutputError where it can't be, and
    takes back what of the line was written.
    """
    line, start = json.dumps(value).encode() + b"\n", file.tell()
    try:
        while line:
            line = line[file.write(line) :]
    except OSError as error:
        with suppress(OSError):
            file.seek(start)
            file.truncate()
        raise OutputError(f"{file.name} can't be written: {error.strerror}; make room, or give another file") from error
