"""A process of its own for whatever may crash, hang or eat memory: build, run, score.

`Worker` is the parent's side. It ends with the parent, however the parent ends (`guard.py`), can be stopped and
continued (`pause`, `resume`), and turns every way of dying into one CandidateFailed with its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import hotlap.errors as errors
from hotlap.errors import CandidateFailed, OutOfMemory, WorkerDied, WorkerTimeout
from hotlap.machine import containers
from hotlap.measure import messages

_GUARD = str(Path(__file__).with_name("guard.py"))
_GRACE_SECONDS = 5.0


def past_limit(held: int, limit: int) -> OutOfMemory:
    """The error of a process that held more bytes than it may."""
    unit, name = (2**30, "GiB") if limit >= 2**29 else (2**20, "MiB")
    return OutOfMemory(f"used {held / unit:.1f} {name} of memory, more than its limit of {limit / unit:.1f} {name}")


class Worker:
    """One worker process. Use it as a context manager, or `close` it."""

    def __init__(self, *, memory_limit: int | None = None, environment: Mapping[str, str] | None = None) -> None:
        """Start the process; `memory_limit` in bytes that it and those it starts may hold, `environment` over ours."""
        lifeline, self._lifeline = os.pipe()
        self._report, report = os.pipe()
        self._socket, theirs = socket.socketpair()
        passed = (lifeline, report, theirs.fileno())
        worker = [sys.executable, "-m", "hotlap.measure.worker_main", str(theirs.fileno())]
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", _GUARD, *map(str, passed), str(memory_limit or 0), *worker],
                pass_fds=passed,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            )
        finally:
            os.close(lifeline)
            os.close(report)
            theirs.close()
        self._reports = b""
        self._kernel_kills = containers.memory_kills()
        self._limit = memory_limit
        self._paused = False
        self._closed = False
        self.pid = 0
        begun = self._next_report(_GRACE_SECONDS * 6)
        if "pid" not in begun:
            self.close()
            raise WorkerDied("the process could not be started; the machine may be out of processes or memory")
        self.pid = int(begun["pid"])

    def call(self, function: str, *, timeout: float, **arguments: Any) -> Any:
        """Run `module:function` there with a state dict that lasts as long as the process; give what it returns.

        Arguments and results are of JSON kinds and NumPy arrays. An error that hotlap raises on purpose is raised
        here again; an error out of a library is a CandidateFailed; a bug of hotlap's own is a RuntimeError.
        """
        self.begin(function, **arguments)
        return self.finish(timeout)

    def begin(self, function: str, **arguments: Any) -> None:
        """Start a call, to be ended with `finish`."""
        self.resume()
        try:
            messages.send(self._socket, {"function": function, "arguments": arguments})
        except OSError:
            self._raise_ending("the process went away")

    def finish(self, timeout: float) -> Any:
        """Wait for the answer to `begin`, at most `timeout` seconds."""
        try:
            answer = messages.receive(self._socket, timeout)
        except WorkerTimeout:
            self.close()
            raise WorkerTimeout(f"no answer within {timeout:.0f} s") from None
        except ConnectionError:
            self._raise_ending("the process went away")
        except WorkerDied:
            self.close()
            raise
        if not isinstance(answer, dict) or not answer.keys() & {"value", "error"}:
            self.close()
            raise WorkerDied("the process answered with something that is no message")
        if "error" in answer:
            _raise_again(answer["error"])
        return answer["value"]

    def pause(self) -> None:
        """Stop the process, so that its idle threads can't tax the one whose turn it is."""
        if not self._paused:
            self._signal(signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """Let it go on."""
        if self._paused:
            self._signal(signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """End the process and everything it started."""
        if self._closed:
            return
        self._closed = True
        os.close(self._lifeline)
        self._socket.close()
        try:
            self._guard.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._guard.kill()
            self._guard.wait()
        os.close(self._report)

    @property
    def ended(self) -> bool:
        """Whether the process is gone, by `close` or by itself as far as a call has found out."""
        return self._closed

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()

    def _signal(self, number: int) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _raise_ending(self, fallback: str) -> None:
        """Say why the process is gone, in the guard's words."""
        ending = {} if self._closed else self._next_report(_GRACE_SECONDS)
        self.close()
        tail = _last_lines(ending.get("tail", ""))
        if "memory" in ending:
            raise past_limit(ending["memory"], self._limit or 0)
        if "signal" in ending:
            name = signal.Signals(ending["signal"]).name
            if name == "SIGKILL" and containers.memory_kills() > self._kernel_kills:
                raise OutOfMemory(f"killed by the kernel, which had no memory left{tail}")
            raise WorkerDied(f"killed by {name}{', most often for want of memory' if name == 'SIGKILL' else ''}{tail}")
        if "exit" in ending:
            raise WorkerDied(f"left with exit code {ending['exit']}{tail}")
        raise WorkerDied(fallback)

    def _next_report(self, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while b"\n" not in self._reports:
            wait = deadline - time.monotonic()
            if wait <= 0 or not select.select([self._report], [], [], wait)[0]:
                return {}
            chunk = os.read(self._report, 65536)
            if not chunk:
                return {}
            self._reports += chunk
        line, _, self._reports = self._reports.partition(b"\n")
        report: dict[str, Any] = json.loads(line)
        return report


def _last_lines(tail: str) -> str:
    lines = [line.strip() for line in tail.strip().splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""


def _raise_again(error: Mapping[str, Any]) -> None:
    kind = getattr(errors, error["type"], None)
    if isinstance(kind, type) and issubclass(kind, errors.HotlapError):
        raise kind(error["message"])
    if error["type"] in ("MemoryError", "OutOfMemoryError"):  # Python's and torch's
        raise OutOfMemory(error["message"])
    if error["library"]:
        raise CandidateFailed(f"{error['type']} in {error['library']}: {error['message']}")
    raise RuntimeError(f"a bug of hotlap's in a worker:\n{error['traceback']}")
