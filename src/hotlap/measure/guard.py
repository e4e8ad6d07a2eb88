"""Starts one worker and outlives it: run as a script, with the standard library alone.

It kills the worker and everything the worker started when the parent goes away (however that happens), when they
pass the memory limit together, or when the worker ends and leaves processes behind. What the worker prints is
drained here and only its tail is kept, so that a chatty worker can't fill a disk. Reports are JSON lines.

Arguments: lifeline fd, report fd, socket fd, memory limit in bytes (0: none), then the worker's command.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Set

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
TAIL_BYTES = 16_384
# Short against how long it takes to fill a memory, long against what a look costs a measurement (about 20 us).
POLL_SECONDS = 0.1
# A look who is there takes longer, and those that are rarely come and go.
LISTING_SECONDS = 1.0
PAGE = os.sysconf("SC_PAGE_SIZE")


def prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def start(command: list[str], socket_fd: int, output_fd: int) -> int:
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        os.set_inheritable(socket_fd, True)
        os.execv(command[0], command)
    return pid


def resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def own_bytes(pid: int) -> int:
    """What a process holds for itself alone; some milliseconds where that is much."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(1024 * int(line.split()[1]) for line in file if line.startswith("Private_"))
    except OSError:
        return 0


def held_bytes(worker: int, below: list[int], limit: int) -> int:
    """What the worker holds and, where that may pass the limit, what those below hold beside it: forked ones share."""
    held = resident_bytes(worker)
    if held + sum(resident_bytes(pid) for pid in below) <= limit:
        return held
    return held + sum(own_bytes(pid) for pid in below)


def running() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def descendants(strangers: Set[int] = frozenset()) -> list[int]:
    """Every process below this one; orphans come here because this process is their reaper. Strangers are not read."""
    parents = {}
    for pid in running() - strangers:
        try:
            with open(f"/proc/{pid}/stat") as file:
                parents[pid] = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, queue = [], [os.getpid()]
    while queue:
        current = queue.pop()
        below = [pid for pid, parent in parents.items() if parent == current]
        found += below
        queue += below
    return found


def kill_all() -> None:
    while True:
        living = descendants()
        if not living:
            return
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                return
        time.sleep(0.005)


def main() -> None:
    lifeline, report, socket_fd, limit = (int(argument) for argument in sys.argv[1:5])
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    output, output_write = os.pipe()
    worker = start(sys.argv[5:], socket_fd, output_write)
    os.close(output_write)
    os.close(socket_fd)
    os.write(report, json.dumps({"pid": worker}).encode() + b"\n")
    tail, watched = b"", [lifeline, output]
    ending: dict[str, int] | None = None
    below: list[int] = []
    strangers: set[int] = set()
    listed = 0.0
    while ending is None:
        ready, _, _ = select.select(watched, [], [], POLL_SECONDS)
        if lifeline in ready and not os.read(lifeline, 1):
            kill_all()
            return
        if output in ready:
            chunk = os.read(output, 65536)
            tail = (tail + chunk)[-TAIL_BYTES:]
            if not chunk:
                watched = [lifeline]
        pid, status = os.waitpid(worker, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            ending = {"signal": -code} if code < 0 else {"exit": code}
        elif limit:
            if time.monotonic() - listed > LISTING_SECONDS:
                there, listed = running(), time.monotonic()
                below = [one for one in descendants(strangers) if one != worker]
                strangers = there - {worker, *below}
            held = held_bytes(worker, below, limit)
            if held > limit:
                ending = {"memory": held}
    kill_all()
    os.set_blocking(output, False)
    try:
        while chunk := os.read(output, 65536):
            tail = (tail + chunk)[-TAIL_BYTES:]
    except BlockingIOError:
        pass
    os.write(report, json.dumps({**ending, "tail": tail.decode(errors="replace")}).encode() + b"\n")


main()
