"""Live use of memory: of the machine, of processes with everything they started, and of every GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hotlap.errors import InputError
from hotlap.machine import containers
from hotlap.training.memory.gpus import GpuUse, gpus

_KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUse:
    """One process. Bytes: `resident` now; `proportional` counts a page that n processes share as 1/n of one (None
    where the kernel does not let us look); `peak` is the most that was resident since the process began.

    `root` is the process that was asked for, of which this is a descendant or which it is. `started` (clock ticks since
    the machine's start) tells it from one that gets its `pid` later.
    """

    pid: int
    started: int
    root: int
    name: str
    resident_bytes: int
    proportional_bytes: int | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """One look. `when` is in seconds since 1970. `total_bytes` is what we may use (physical memory or the cgroup's
    limit), `available_bytes` what of it can be had without swapping."""

    when: float
    total_bytes: int
    available_bytes: int
    processes: tuple[ProcessUse, ...]
    gpus: tuple[GpuUse, ...]

    @property
    def tree_bytes(self) -> int:
        """All processes together; shared pages once, as far as the kernel says."""
        return sum(
            one.resident_bytes if one.proportional_bytes is None else one.proportional_bytes for one in self.processes
        )


def look(pids: Iterable[int] | None = None, *, ended: bool = False) -> MemoryUse:
    """Look once at `pids` with all their descendants; default: this process with its own.

    A few ms a process. A process that ends meanwhile is left out. Raises InputError for one that is not there, unless
    it may have `ended`.
    """
    found: dict[int, ProcessUse] = {}
    for pid in pids if pids is not None else (os.getpid(),):
        tree = _tree(pid)
        if not tree and not ended:
            raise InputError(f"there is no process {pid}, or it is not ours to look at; `ps` lists those there are")
        for member in tree:
            use = process_use(member, pid)
            if use is not None:
                found.setdefault(member, use)
    return _with_machine(tuple(found.values()))


def _with_machine(processes: tuple[ProcessUse, ...]) -> MemoryUse:
    import psutil

    memory = psutil.virtual_memory()
    limit, left = containers.memory_limit(), containers.memory_left()
    may_be_had = [int(memory.available), *(one for one in (limit, left) if one is not None)]
    return MemoryUse(
        when=time.time(),
        total_bytes=min(int(memory.total), limit or int(memory.total)),
        available_bytes=min(may_be_had),
        processes=processes,
        gpus=gpus(),
    )


def _tree(pid: int) -> list[int]:
    """The process and its descendants; none where it is gone or not ours to look at."""
    import psutil

    if not alive(pid):
        return []
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def alive(pid: int) -> bool:
    """Whether that process runs; one that ended and was not waited for does not."""
    state = fields(Path(f"/proc/{pid}/status")).get("State", "")
    return bool(state) and not state.startswith("Z")


def started(pid: int, proc: Path = Path("/proc")) -> int | None:
    """When a process began, in clock ticks since the machine's start; None where it has ended."""
    try:
        # Its name, in brackets, may hold anything.
        after_name = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])  # fields 3 and 22 of proc(5)


def process_use(pid: int, root: int, proc: Path = Path("/proc")) -> ProcessUse | None:
    """What the kernel says of one process; None where it is gone or holds no memory of its own."""
    status = fields(proc / str(pid) / "status")
    began = started(pid, proc)
    if "VmRSS" not in status or began is None:
        return None
    shares = fields(proc / str(pid) / "smaps_rollup")
    return ProcessUse(
        pid=pid,
        started=began,
        root=root,
        name=status.get("Name", ""),
        resident_bytes=kibibytes(status["VmRSS"]),
        proportional_bytes=kibibytes(shares["Pss"]) if "Pss" in shares else None,
        peak_bytes=kibibytes(status["VmHWM"]) if "VmHWM" in status else None,
    )


def fields(file: Path) -> dict[str, str]:
    """`Name: value` lines of a file under /proc; none where it can't be read."""
    try:
        # A process may be named in bytes that are no text.
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name: value.strip() for name, colon, value in pairs if colon}


def kibibytes(text: str) -> int:
    """Bytes of `123 kB`, as /proc writes them."""
    return int(text.split()[0]) * _KIB


def largest_processes(count: int) -> list[int]:
    """The processes of this user that hold the most memory, leaving out those that another one of them started."""
    import psutil

    mine: dict[int, tuple[int, int]] = {}
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid():
                mine[process.pid] = (process.ppid(), process.memory_info().rss)
        except psutil.Error:
            continue
    ordered = sorted(mine, key=lambda pid: mine[pid][1], reverse=True)[:count]
    return [pid for pid in ordered if not ancestors(pid, mine) & set(ordered)]


def ancestors(pid: int, processes: dict[int, tuple[int, int]]) -> set[int]:
    """Every process above `pid`, of (parent, bytes) by pid."""
    above: set[int] = set()
    parent = processes[pid][0]
    while parent in processes and parent not in above:
        above.add(parent)
        parent = processes[parent][0]
    return above
