"""Requests to end a run: Ctrl-C, SIGTERM, and SIGHUP where nobody has asked to ignore it (nohup)."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

_ONE_REQUEST_SECONDS = 1.0
"""Signals that come so soon after the first are the same request: torchrun passes on what a terminal sends to all."""
_LOADER_SECONDS = 10.0
_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndNow(KeyboardInterrupt):
    """SIGTERM or SIGHUP, whose sender may kill before long; Ctrl-C is a plain KeyboardInterrupt."""


class Stop:
    """Whether the run is asked to end. Within `heeded` a request raises KeyboardInterrupt where the work in hand can
    be left, and is noted in `asked` where it can't; the next one, a second later or more, is never put off.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._at: float | None = None
        self._patient = self._over = False
        self._on_child: Any = None

    @property
    def asked(self) -> bool:
        """Whether a request has come."""
        return self._at is not None

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Take the process's signals; does nothing outside of the main thread, which can't."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        taken = [one for one in _SIGNALS if one != signal.SIGHUP or before[one] != signal.SIG_IGN]
        for number in taken:
            signal.signal(number, self._take)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])
            if self._on_child is not None:
                signal.signal(signal.SIGCHLD, self._on_child)

    def after_the_work_in_hand(self) -> AbstractContextManager[None]:
        """Within the block the first request is noted only."""
        return self._being(patient=True)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block, inside one of patience, a request raises KeyboardInterrupt, also one that has come."""
        if self.asked:
            raise KeyboardInterrupt
        with self._being(patient=False):
            yield

    @contextmanager
    def _being(self, *, patient: bool) -> Iterator[None]:
        before, self._patient = self._patient, patient
        try:
            yield
        finally:
            self._patient = before

    def over(self) -> None:
        """Heed nothing any more: what is left of the run is being tidied up."""
        self._over = True

    def _take(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            _in_a_child(number)
            return
        now, first = time.monotonic(), self._at is None
        if self._over or (self._at is not None and now - self._at < _ONE_REQUEST_SECONDS):
            return
        self._at = now
        if first:
            # What goes to a whole group ends loader processes too, and torch would raise in the midst of a step.
            self._on_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not first or not self._patient:
            raise KeyboardInterrupt if number == signal.SIGINT else EndNow


def _in_a_child(number: int) -> None:
    """A forked process has inherited the handler. What goes to all of them is the parent's to decide; SIGTERM is how a
    parent ends one."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def outlive_a_request() -> None:
    """In a loader process: where SIGTERM goes to a whole group, the process that trains needs its data until the step
    in work is done, and then ends this one; where that fails, it ends by itself.
    """

    def later(number: int, frame: Any) -> None:
        timer = threading.Timer(_LOADER_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, later)


def end_with_parent(parent: int | None) -> None:
    """In a loader process: end where the process that trains does, also where that is killed and can't say so.

    torch's own watch begins only once a worker_init_fn is through, and takes what is the parent then for the one to
    watch. `parent` is what `os.getppid()` gives here, as known before this process began; None where it is not known.
    The system goes by the thread that began it, which is the one that trains: that ends its loader processes before
    it ends itself. Does nothing but on Linux.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):
        library.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if parent not in (None, os.getppid()):
            os._exit(1)  # It had ended before.
